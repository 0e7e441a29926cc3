"""Any MatterTune module as a potential of the batched MD engine: one pass of the host for many structures."""

from __future__ import annotations

from typing import Any

import torch
from ase import Atoms
from torch import Tensor

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.graphs.batch import AtomicBatch
from mdl_physpretrain.hosts.mattertune.properties import predicted_names
from mdl_physpretrain.potentials.base import EnergyModel, Prediction

__all__ = ["ModulePotential"]

LIST_CUTOFF = 1.0  # Å, of our neighbour lists, which the host's backbones do not use


class ModulePotential(EnergyModel):
    """A MatterTune module whose backbone is not one of ours.

    Graphs, energies, forces and stress are the host's, normalizers included.

    Parameters
    ----------
    module
        Used as it is, on the device it is on, in evaluation mode.

    Raises
    ------
    ConfigError
        If it predicts no energy or no forces.
    """

    registry_name = "mattertune"
    fast = False

    def __init__(self, module: Any) -> None:
        super().__init__(LIST_CUTOFF, {})
        self.module = module
        self.names = predicted_names(module.hparams.properties)
        if missing := [k for k in ("energy", "forces") if getattr(self.names, k) is None]:
            raise ConfigError(f"model.properties: MD needs {' and '.join(missing)}")

    def prediction(self, batch: AtomicBatch) -> Prediction:
        module, training = self.module, self.module.training
        module.eval()
        try:
            data = [module.atoms_to_data(atoms, has_labels=False) for atoms in _structures(batch)]
            inputs = module.batch_to_device(module.collate_fn(data), module.device)
            with torch.enable_grad():
                rows = module.predict_step(inputs, 0)
        finally:
            module.train(training)
        like = batch.positions
        energy = torch.stack([self._of(row, "energy").reshape(()) for row in rows]).to(like)
        forces = torch.cat([self._of(row, "forces") for row in rows]).to(like)
        if self.names.stress is None:
            return Prediction(energy, forces, torch.full_like(batch.cells, torch.nan))
        stress = torch.stack([self._of(row, "stress").reshape(3, 3) for row in rows]).to(like)
        return Prediction(energy, forces, stress)

    def _of(self, row: dict[str, Tensor], kind: str) -> Tensor:
        return row[getattr(self.names, kind)].detach()


def _structures(batch: AtomicBatch) -> list[Atoms]:
    """Structures of a batch, without labels."""
    structure, numbers = batch.structure.cpu().numpy(), batch.numbers.cpu().numpy()
    positions, cells, pbc = (x.detach().cpu().double().numpy() for x in (batch.positions, batch.cells, batch.pbc))
    return [
        Atoms(numbers[structure == k], positions[structure == k], cell=cells[k], pbc=pbc[k].astype(bool))
        for k in range(len(batch))
    ]
