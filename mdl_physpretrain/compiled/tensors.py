"""PyTorch tensors for compiled kernels: as arrays, and whether autograd wants a gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["arrays_of", "needs_gradient"]


def arrays_of(*tensors: Tensor) -> list[np.ndarray]:
    """Tensors as contiguous arrays."""
    return [(x.detach() if x.requires_grad else x).contiguous().numpy() for x in tensors]


def needs_gradient(ctx: Any, argument: int) -> bool:
    """Whether the backward pass that is running goes on to this argument: for forces, not to the weights."""
    if not ctx.needs_input_grad[argument]:
        return False
    try:
        return torch._C._will_engine_execute_node(ctx.next_functions[argument][0])
    except (AttributeError, RuntimeError):  # another version of PyTorch; a leaf
        return True
