"""Sharpness-aware minimisation for MatDeepLearn's training loop.

P. Foret et al., *Sharpness-Aware Minimization for Efficiently Improving
Generalization*, ICLR 2021: the gradient is taken at the worst point of a ball
around the weights, found by one step up the gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mdl_physpretrain.errors import ConfigError

__all__ = ["SAMStep"]


class SAMStep:
    """Replaces the step of a ``PropertyTrainer`` when :attr:`sam_radius` is positive.

    Attributes
    ----------
    sam_radius
        Of the ball, in units of the weights.
    step_loss
        What is minimised, where it is another than the loss that is reported.
    """

    sam_radius: float = 0.0
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
        if trainer.use_amp:
            raise ConfigError("task.use_amp and sharpness-aware minimisation do not go together: set use_amp: False")
        model, optimizer = trainer.model[index], trainer.optimizer[index]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        moves = self._climb(model)
        optimizer.zero_grad(set_to_none=True)
        batch = self._batches[index if len(self._batches) > 1 else 0].clone()
        with _fixed_statistics(model):
            (trainer.step_loss or trainer.loss_fn)(model(batch), batch).backward()
        with torch.no_grad():
            for parameter, move in moves:
                parameter.sub_(move)
        limit = trainer.clip_grad_norm or float("inf")
        grad_norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm=limit)
        optimizer.step()
        return grad_norm

    @torch.no_grad()
    def _climb(self, model: nn.Module) -> list[tuple[nn.Parameter, Tensor]]:
        """Move the weights to the worst point of the ball; what was added to each."""
        with_gradient = [p for p in model.parameters() if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(p.grad) for p in with_gradient]))
        moves = []
        for parameter in with_gradient:
            assert parameter.grad is not None
            move = self.sam_radius / (norm + 1e-12) * parameter.grad
            parameter.add_(move)
            moves.append((parameter, move))
        return moves


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
