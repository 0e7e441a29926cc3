"""Losses on energy, forces and stress, with missing labels masked out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.graphs.batch import AtomicBatch
from mdl_physpretrain.potentials.base import Prediction

__all__ = ["EFSLoss"]


@dataclass(frozen=True)
class EFSLoss:
    """Weighted loss of energy, forces and stress.

    Parameters
    ----------
    energy, forces, stress
        Weights of the mean errors per structure (eV), force component (eV/Å)
        and stress component (eV/Å³). The paper's are 0.01 : 50 : 50.
    kind
        ``"mae"`` (the paper's), or ``"huber"``: quadratic below ``delta``.
    delta
        Width of the quadratic part in the label's units (Huber only).
    force_scale
        When given, in eV/Å: the force errors of an atom with label ``F`` are
        divided by ``1 + |F| / force_scale``, so that strongly compressed
        structures do not outweigh all others.
    tolerance
        Errors below this many times the tolerances of a batch do not count, what is above counts in full: a teacher's
        label asks for no more than the teacher knows.
    replay_weight
        Of the errors of replayed structures.
    """

    energy: float = 0.01
    forces: float = 50.0
    stress: float = 50.0
    kind: str = "mae"
    delta: float = 0.01
    force_scale: float | None = None
    tolerance: float = 0.0
    replay_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in {"mae", "huber"}:
            raise ConfigError(f"loss kind must be 'mae' or 'huber', not {self.kind!r}")
        if min(self.energy, self.forces, self.stress, self.tolerance, self.replay_weight) < 0:
            raise ConfigError("loss weights and tolerance must not be negative")

    def __call__(self, out: Prediction, batch: AtomicBatch) -> Tensor:
        """Loss of a batch, a scalar."""
        on_atoms = batch.has_forces[batch.structure] & batch.forces_counted
        energy_error = (out.energy - batch.energy).to(out.forces.dtype)  # a small difference of large numbers
        force_error = self._penalty(self._beyond(out.forces - batch.forces, batch.forces_tolerance))
        if self.force_scale is not None:
            size = torch.linalg.vector_norm(batch.forces, dim=1, keepdim=True)
            force_error = force_error / (1 + size / self.force_scale)
        stress_error = self._penalty(self._beyond(out.stress - batch.stress, batch.stress_tolerance))
        energy_error = self._penalty(energy_error)
        if self.replay_weight != 1:
            weight = torch.where(batch.replayed, self.replay_weight, 1.0).to(force_error.dtype)
            energy_error, stress_error = energy_error * weight, stress_error * weight.view(-1, 1, 1)
            force_error = force_error * weight[batch.structure].unsqueeze(1)
        return (
            self.energy * _masked_mean(energy_error, batch.has_energy)
            + self.forces * _masked_mean(force_error, on_atoms)
            + self.stress * _masked_mean(stress_error, batch.has_stress)
        )

    def _beyond(self, error: Tensor, tolerance: Tensor) -> Tensor:
        """What is above the tolerance."""
        return error if self.tolerance == 0 else (error.abs() - self.tolerance * tolerance).clamp_min(0)

    def _penalty(self, error: Tensor) -> Tensor:
        size = error.abs()
        if self.kind == "mae":
            return size
        return torch.where(size < self.delta, 0.5 * error.square() / self.delta, size - 0.5 * self.delta)


def _masked_mean(value: Tensor, mask: Tensor) -> Tensor:
    weight = mask.to(value.dtype).view(-1, *[1] * (value.dim() - 1)).expand_as(value)
    return (value * weight).sum() / weight.sum().clamp_min(1)
