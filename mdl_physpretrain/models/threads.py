"""What compiled kernels share: threads, sums of several threads, and what autograd will ask for."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Shared", "arrays_of", "share", "wanted"]

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def share(shares: Sequence[tuple[int, int]], work: Callable[[int, int], None]) -> None:
    """Do work for every range, each in a thread, the first in this one."""
    (first, last), *others = shares
    if not others:
        work(first, last)
        return
    key = (os.getpid(), len(others))  # a forked process has no threads of its parent's
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(len(others), thread_name_prefix="kernel")
    waiting = [_pools[key].submit(work, *one) for one in others]
    work(first, last)
    for future in waiting:
        future.result()


class Shared:
    """Sums to which every thread adds: each has arrays of its own."""

    def __init__(self, *like: Tensor) -> None:
        self.like = like
        self.parts: dict[tuple[int, int], list[Tensor]] = {}

    def own(self, share: tuple[int, int]) -> list[np.ndarray]:
        """The arrays of one range, zero at first."""
        part = [x.new_zeros(x.shape) for x in self.like]
        self.parts[share] = part
        return [x.numpy() for x in part]

    def sums(self) -> list[Tensor]:
        """All parts together, in the order of the ranges, whoever came first: sums of floats depend on it."""
        first, *rest = (self.parts[share] for share in sorted(self.parts))
        for part in rest:
            for total, x in zip(first, part, strict=True):
                total.add_(x)
        return first


def arrays_of(*tensors: Tensor) -> list[np.ndarray]:
    """Tensors as contiguous arrays."""
    return [x.detach().contiguous().numpy() for x in tensors]


def wanted(ctx: Any, argument: int) -> bool:
    """Whether the backward pass that is running goes on to this argument: for forces, not to the weights."""
    if not ctx.needs_input_grad[argument]:
        return False
    try:
        return torch._C._will_engine_execute_node(ctx.next_functions[argument][0])
    except (AttributeError, RuntimeError):  # another version of PyTorch; a leaf
        return True
