"""Sharpness-aware minimisation (Foret et al., ICLR 2021) for a trainer that hands over a closure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from pytorch_optimizer import SAM
from torch.nn import Parameter
from torch.optim import Optimizer

__all__ = ["ClosureSAM"]


class ClosureSAM(SAM):
    """SAM over AdamW whose :meth:`step` takes both gradients itself.

    With weights ``w`` and ``g = dL/dw`` on a batch, the gradient of the same batch at ``w + rho g / |g|`` is what
    AdamW gets at ``w`` (arXiv:2010.01412, Algorithm 1, without the second-order term, as there). State, restoring and
    the base optimiser are those of ``pytorch_optimizer.SAM``; there the caller must have taken the first gradient, and
    its norm is a float32. ``perturbed`` makes the context in which the second gradient is taken.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        *,
        rho: float,
        perturbed: Callable[[], AbstractContextManager[Any]],
        **options: Any,
    ) -> None:
        super().__init__(list(parameters), torch.optim.AdamW, rho=rho, **options)
        self.perturbed = perturbed

    @classmethod
    def around(
        cls,
        base: Optimizer,
        *,
        rho: float,
        perturbed: Callable[[], AbstractContextManager[Any]],
        adaptive: bool = False,
    ) -> ClosureSAM:
        """SAM whose parameter groups and state are those of an optimiser that exists.

        ``adaptive``: every weight moves in proportion to its square (Kwon et
        al., ICML 2021).
        """
        sam = cls.__new__(cls)
        options: dict[str, Any] = {"rho": rho, "adaptive": adaptive}
        SAM.__init__(sam, base.param_groups, lambda groups, **rest: base, **options)  # type: ignore[arg-type]
        sam.perturbed = perturbed
        return sam

    def step(self, closure: Any = None) -> Any:
        """One update.

        Returns the loss at the unperturbed weights. The closure, called twice, makes loss and gradients.
        """
        loss = closure()
        self.first_step(zero_grad=True)
        try:
            with self.perturbed():
                closure()
        except BaseException:
            self.restore()
            raise
        self.second_step()
        return loss

    @torch.no_grad()
    def first_step(self, zero_grad: bool = False) -> None:
        moved = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if moved:
            gradients: Any = [p.grad for p in moved]
            sizes = [p.abs() for p in moved] if self.param_groups[0].get("adaptive") else None
            if sizes is not None:
                gradients = torch._foreach_mul(gradients, sizes)
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
            for p in moved:
                self.state[p]["old_p"] = p.clone()
            scale = self.param_groups[0]["rho"] / (norm + self.perturb_eps)
            if sizes is not None:
                gradients = torch._foreach_mul(gradients, sizes)
            torch._foreach_add_(moved, torch._foreach_mul(gradients, scale))
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def restore(self) -> None:
        """Go back to the unperturbed weights without an update."""
        for group in self.param_groups:
            for p in group["params"]:
                if "old_p" in self.state[p]:
                    p.copy_(self.state[p].pop("old_p"))
