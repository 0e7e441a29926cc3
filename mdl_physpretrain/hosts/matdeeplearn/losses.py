"""Our loss on MatDeepLearn's outputs and batches: weights, masks, scaled forces."""

from __future__ import annotations

from typing import Any

import torch
from matdeeplearn.common.registry import registry
from torch import Tensor, nn

from mdl_physpretrain.errors import ConfigError

__all__ = ["EFSLoss"]


@registry.register_loss("EFSLoss")
class EFSLoss(nn.Module):
    """Mean absolute errors of energy, forces and stress, weighted.

    Labels that are NaN are left out; a label with weight zero need not be
    there.

    Parameters
    ----------
    weight_energy, weight_force, weight_stress
        Of the errors per structure (eV), force component (eV/Å) and stress
        component (eV/Å³).
    force_scale
        When given, in eV/Å: the force errors of an atom with label ``F`` are
        divided by ``1 + |F| / force_scale``.
    """

    def __init__(
        self,
        weight_energy: float = 0.01,
        weight_force: float = 50.0,
        weight_stress: float = 50.0,
        force_scale: float | None = None,
    ) -> None:
        super().__init__()
        weights = {"energy": weight_energy, "force": weight_force, "stress": weight_stress}
        if min(weights.values()) < 0:
            raise ConfigError("optim.loss: weights must not be negative")
        if force_scale is not None and not force_scale > 0:
            raise ConfigError(f"optim.loss: force_scale must be positive (eV/Å), not {force_scale}")
        self.weight_energy, self.weight_force, self.weight_stress = weights.values()
        self.force_scale = force_scale

    def forward(self, predictions: dict[str, Tensor | None], target: Any) -> Tensor:
        """Loss of a batch, a scalar."""
        total = predictions["output"].new_zeros(())  # type: ignore[union-attr]
        if self.weight_energy:
            total = total + self.weight_energy * _mean_error(predictions["output"], target.y)
        if self.weight_force:
            forces = _wanted(target, "forces")
            scale = None
            if self.force_scale is not None:
                scale = 1 / (1 + torch.linalg.vector_norm(forces, dim=1, keepdim=True) / self.force_scale)
            total = total + self.weight_force * _mean_error(_given(predictions, "pos_grad", "force"), forces, scale)
        if self.weight_stress:
            stress = _wanted(target, "stress")
            total = total + self.weight_stress * _mean_error(_given(predictions, "cell_grad", "stress"), stress)
        return total


def _wanted(target: Any, label: str) -> Tensor:
    value = getattr(target, label, None)
    if value is None:
        short = "force" if label == "forces" else label
        raise ConfigError(
            f"optim.loss wants {label}, which the dataset does not have: name it in dataset.additional_attributes, "
            f"or set weight_{short}: 0"
        )
    return value


def _given(predictions: dict[str, Tensor | None], key: str, short: str) -> Tensor:
    value = predictions.get(key)
    if value is None:
        raise ConfigError(f"the model predicts no {key}: set model.gradient: True, or optim.loss weight_{short}: 0")
    return value


def _mean_error(value: Tensor | None, label: Tensor, scale: Tensor | None = None) -> Tensor:
    assert value is not None
    label = label.reshape(value.shape)
    known = torch.isfinite(label)
    error = (value - torch.where(known, label, value.detach())).abs()
    if scale is not None:
        error = torch.where(known, error * torch.nan_to_num(scale), 0.0)
    return error.sum() / known.sum().clamp_min(1)
