"""The quintic switch that takes interactions smoothly to zero."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["quintic_switch"]


def quintic_switch(r: Tensor, inner: Tensor | float, outer: Tensor | float) -> tuple[Tensor, Tensor]:
    """Switch from 1 at ``inner`` to 0 at ``outer`` (Å), twice differentiable, and its derivative (1/Å).

    With ``s = 1 - (r - inner) / (outer - inner)`` it is ``6 s^5 - 15 s^4 + 10 s^3``.
    """
    width = outer - inner
    s = torch.clamp(1 - (r - inner) / width, 0.0, 1.0)
    value = s * s * s * (s * (6 * s - 15) + 10)
    derivative = -30 * (s * (1 - s)).square() / width
    return value, derivative
