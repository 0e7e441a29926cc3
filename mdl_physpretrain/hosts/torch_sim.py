"""Potentials of this package in torch-sim (the package torch-sim-atomistic)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.hosts.engines import check_elements, engine_potential, predict_structures
from mdl_physpretrain.potentials.base import EnergyModel

try:
    from torch_sim.models.interface import ModelInterface
except ImportError as missing:
    raise ConfigError(
        f"torch-sim cannot be imported ({missing}): pip install 'torch-sim-atomistic>=0.6' (Python 3.12 or newer)"
    ) from missing

__all__ = ["TorchSimModel"]


class TorchSimModel(ModelInterface):
    """A potential of this package as a model of torch-sim 0.6: energies, forces, stress of many systems at once.

    Energies are in eV, forces in eV/Å, the stress in eV/Å³ with ASE's sign, which is torch-sim's. Open and partly open
    systems (``state.pbc``) are treated as such; the stress of one without volume is zero. States may be float32 or
    float64 whatever the dtype of the potential is: distances are formed in the state's, results are returned in it.

    Parameters
    ----------
    potential
        A model, or the file of a checkpoint as :func:`~mdl_physpretrain.hosts.loading.load_potential` takes it.
    device
        For a file; ``auto`` is a GPU where there is one. A model stays where it is.
    dtype
        Of the states that torch-sim's runners make for this model.
    neighbor_list_fn
        A batched neighbour list of torch-sim, such as ``torch_sim.neighbors.torchsim_nl``, which stays on the GPU;
        without, this package's is used, on the CPU.
    compute_forces, compute_stress
        Whether the output has them; both can be set later.

    Raises
    ------
    CheckpointError, ConfigError
        If the file cannot be used.

    Examples
    --------
    >>> model = TorchSimModel("net.pt")  # doctest: +SKIP
    >>> state = torch_sim.optimize(atoms, model, optimizer=torch_sim.Optimizer.fire)  # doctest: +SKIP
    """

    compute_forces: bool = True  # plain attributes in place of the base class's properties
    compute_stress: bool = True
    dtype: torch.dtype = torch.float64

    def __init__(
        self,
        potential: EnergyModel | str | Path,
        *,
        device: str = "auto",
        dtype: torch.dtype = torch.float64,
        neighbor_list_fn: Callable[..., tuple[Tensor, Tensor, Tensor]] | None = None,
        compute_forces: bool = True,
        compute_stress: bool = True,
    ) -> None:
        super().__init__()
        self.potential = engine_potential(potential, device)
        self.neighbor_list_fn = neighbor_list_fn
        self.dtype, self.compute_forces, self.compute_stress = dtype, compute_forces, compute_stress
        self._checked: Tensor | None = None  # atomic numbers of the state before: they hardly ever change

    @property
    def device(self) -> torch.device:
        """Where the potential is, and states have to be."""
        return self.potential.device

    def forward(self, state: Any, **_: Any) -> dict[str, Tensor]:
        """``energy`` (n_systems,), ``forces`` (n_atoms, 3) and ``stress`` (n_systems, 3, 3) of a ``SimState``.

        Raises
        ------
        ConfigError
            If the state is on another device.
        StructureError
            If no neighbour list can be made, or the potential does not know an element.
        """
        if state.positions.device != self.device:
            raise ConfigError(f"the state is on {state.positions.device}, the potential on {self.device}")
        if self._checked is not state.atomic_numbers:
            check_elements(self.potential, state.atomic_numbers.unique().tolist())
            self._checked = state.atomic_numbers
        cells = state.row_vector_cell
        pbc = torch.as_tensor(state.pbc, device=self.device).expand(len(cells), 3)
        edges = None
        if self.neighbor_list_fn is not None:
            index, _systems, shifts = self.neighbor_list_fn(
                positions=state.positions,
                cell=cells,
                pbc=pbc,
                cutoff=self.potential.cutoff,
                system_idx=state.system_idx,
            )
            edges = index, shifts
        out = predict_structures(
            self.potential,
            numbers=state.atomic_numbers,
            positions=state.positions,
            cells=cells,
            pbc=pbc,
            structure=state.system_idx,
            edges=edges,
        )
        results = {"energy": out.energy}
        if self.compute_forces:
            results["forces"] = out.forces
        if self.compute_stress:
            results["stress"] = out.stress
        return results
