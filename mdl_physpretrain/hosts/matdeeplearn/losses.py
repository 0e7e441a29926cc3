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
        self.weights = {"energy": weight_energy, "force": weight_force, "stress": weight_stress}
        if min(self.weights.values()) < 0:
            raise ConfigError("optim.loss: weights must not be negative")
        if force_scale is not None and not force_scale > 0:
            raise ConfigError(f"optim.loss: force_scale must be positive (eV/Å), not {force_scale}")
        self.force_scale = force_scale

    def forward(self, predictions: dict[str, Tensor | None], target: Any) -> Tensor:
        """Loss of a batch, a scalar."""
        total = predictions["output"].new_zeros(())  # type: ignore[union-attr]
        for name, output, label in (
            ("energy", "output", "y"),
            ("force", "pos_grad", "forces"),
            ("stress", "cell_grad", "stress"),
        ):
            weight = self.weights[name]
            if not weight:
                continue
            expected, value = getattr(target, label, None), predictions.get(output)
            if expected is None:
                raise ConfigError(
                    f"optim.loss wants {label}, which the dataset does not have: name it in "
                    f"dataset.additional_attributes, or set weight_{name}: 0"
                )
            if value is None:
                raise ConfigError(
                    f"the model predicts no {output}: set model.gradient: True, or optim.loss weight_{name}: 0"
                )
            scale = None
            if label == "forces" and self.force_scale is not None:
                scale = 1 / (1 + torch.linalg.vector_norm(expected, dim=1, keepdim=True) / self.force_scale)
            total = total + weight * _mean_error(value, expected, scale)
        return total


def _mean_error(value: Tensor, label: Tensor, scale: Tensor | None = None) -> Tensor:
    label = label.reshape(value.shape)
    labelled = torch.isfinite(label)
    error = (value - torch.where(labelled, label, value.detach())).abs()
    if scale is not None:
        error = torch.where(labelled, error * torch.nan_to_num(scale), 0.0)
    return error.sum() / labelled.sum().clamp_min(1)
