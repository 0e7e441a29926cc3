"""Sharpness-aware minimisation in MatDeepLearn's training loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mdl_physpretrain.training.sam import ClosureSAM

__all__ = ["SAMStep"]


class SAMStep:
    """Replaces the step of a ``PropertyTrainer`` when ``sam_radius`` (in units of the weights) is positive.

    With ``sam_adaptive`` every weight moves in proportion to its square; ``step_loss`` is what is minimised, where it
    is another than the loss that is reported. With ``task.use_amp`` on a GPU both passes are in mixed precision, and
    gradients are unscaled before they are clipped.
    """

    sam_radius: float = 0.0
    sam_adaptive: bool = False
    step_loss: Any = None

    def _compute_loss(self, out: Any, batch_data: Any) -> Any:
        if self.step_loss is None or not self.model[0].training:  # type: ignore[attr-defined]
            return super()._compute_loss(out, batch_data)  # type: ignore[misc]
        return [self.step_loss(o, b) for o, b in zip(out, batch_data, strict=True)]

    def _forward(self, batch_data: list[Any]) -> Any:
        model: Any = self.model[0]  # type: ignore[attr-defined]
        if self.sam_radius and model.training:
            # a forward pass strains positions and cells in place
            self._batches = [b.clone() for b in batch_data]
        return super()._forward(batch_data)  # type: ignore[misc]

    def _backward(self, loss: Tensor, index: int = 0) -> Any:
        if not self.sam_radius:
            return super()._backward(loss, index)  # type: ignore[misc]
        trainer: Any = self
        model, optimizer, scaler = trainer.model[index], trainer.optimizer[index], trainer.scaler
        context = partial(_fixed_statistics, model)
        sam = ClosureSAM.around(optimizer, rho=self.sam_radius, perturbed=context, adaptive=self.sam_adaptive)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        overflow = scaler.is_enabled() and not _finite(model)
        if not overflow:  # else the scaler leaves the batch out, and tries the next one with a smaller scale
            sam.first_step(zero_grad=True)  # along the gradient, whatever its scale
            batch = self._batches[index if len(self._batches) > 1 else 0].clone()
            with sam.perturbed():
                with torch.autocast("cuda", enabled=scaler.is_enabled()):
                    again = (trainer.step_loss or trainer.loss_fn)(model(batch), batch)
                scaler.scale(again).backward()
            sam.restore()
        scaler.unscale_(optimizer)
        limit = trainer.clip_grad_norm or float("inf")
        grad_norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm=limit)
        scaler.step(optimizer)
        scaler.update()
        return grad_norm


def _finite(model: nn.Module) -> bool:
    return all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


@contextmanager
def _fixed_statistics(model: nn.Module) -> Iterator[None]:
    """Batch normalisation counts a batch once, not twice."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [n.momentum for n in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
