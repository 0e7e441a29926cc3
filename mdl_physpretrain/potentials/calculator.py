"""Any :class:`EnergyModel` as an ASE calculator."""

from __future__ import annotations

import warnings

from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from mdl_physpretrain.graphs.batch import build_batch
from mdl_physpretrain.potentials.base import EnergyModel, predict

__all__ = ["ASECalculator"]


class ASECalculator(Calculator):
    """Energy, forces and stress of a model for ASE.

    Parameters
    ----------
    model
        Its dtype and device are used as they are. Elements that its metadata say it was not trained on are warned of.

    Examples
    --------
    >>> atoms.calc = ASECalculator(load_model("m.pt"))  # doctest: +SKIP
    """

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012 - ASE's name and type

    def __init__(self, model: EnergyModel) -> None:
        super().__init__()
        self.model = model.eval()
        self._warned: set[str] = set()

    def calculate(self, atoms: Atoms | None = None, properties=("energy",), system_changes=all_changes) -> None:  # noqa: ANN001
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        self._warn_of_untrained(self.atoms)
        bare = Atoms(self.atoms.numbers, self.atoms.positions, cell=self.atoms.cell, pbc=self.atoms.pbc)
        bare.info["structure_id"] = self.atoms.info.get("structure_id", bare.get_chemical_formula())
        batch = build_batch(bare, self.model.cutoff, dtype=self.model.dtype).to(self.model.device)
        out = predict(self.model, batch)
        energy = float(out.energy[0])
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "forces": out.forces.detach().double().cpu().numpy(),
        }
        if bool(batch.volumes[0] > 1e-9):
            self.results["stress"] = full_3x3_to_voigt_6_stress(out.stress[0].detach().double().cpu().numpy())

    def _warn_of_untrained(self, atoms: Atoms) -> None:
        """Once for each element that the model was not trained on: what it says of it means nothing."""
        unknown = [s for s in self.model.untrained_elements(atoms.symbols) if s not in self._warned]
        if unknown:
            self._warned.update(unknown)
            warnings.warn(
                f"{atoms.info.get('structure_id', atoms.get_chemical_formula())}: the model was not trained on "
                f"{', '.join(unknown)} (it knows {', '.join(self.model.metadata['elements'])})",
                stacklevel=4,
            )
