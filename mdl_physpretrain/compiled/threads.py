"""Kernels on as many threads as PyTorch uses.

A kernel works on a range of its items and adds what belongs to others to
arrays of its own. Ranges are given to numba's threads: they wait actively for a
moment, like PyTorch's own, so a range of a tenth of a millisecond is worth
giving away. Python's threads take as long as that to wake up, and while PyTorch's
wait for work the system puts them on the same core.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

__all__ = ["POOL", "launch", "threads_for"]

POOL: int = vars(numba.config)["NUMBA_NUM_THREADS"]  # threads numba may start
_lock = threading.Lock()  # one of numba's pools ends the process when two threads use it at once
_forked = threading.Event()  # numba's pool does not survive a fork, whoever started it: a child works alone
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked.set)


def threads_for(items: int, each: int, atoms: int) -> int:
    """How many threads to give ``items`` to.

    Fewer items than ``each`` are not worth waking a thread up, and every thread
    sums at all ``atoms`` for itself: beyond the root of the items per atom more
    threads would mostly add up each other's sums.
    """
    return max(1, min(torch.get_num_threads(), POOL, items // each, math.isqrt(items // max(atoms, 1))))


def launch(
    alone: Callable[..., None],
    shared: Callable[..., None],
    bounds: Sequence[int] | np.ndarray,
    arguments: Sequence[Any],
    sums: Sequence[Tensor] = (),
) -> list[Tensor]:
    """Run a kernel on ranges of items, one thread each; return the sums over threads, added in their order.

    ``alone(first, last, *arguments, *sums)`` works on one range; ``shared(bounds, *arguments, *sums)`` on all, the
    ``k``-th with ``sums[0][k], ...``, in a ``prange``. ``sums`` are shaped like what every thread adds to, from zero.
    """
    ranges = len(bounds) - 1
    parts = [like.new_zeros(ranges, *like.shape) for like in sums]
    arrays = [part.numpy() for part in parts]
    if ranges == 1 or _forked.is_set():
        for k in range(ranges):
            alone(bounds[k], bounds[k + 1], *arguments, *(part[k] for part in arrays))
    else:
        with _lock:
            before = numba.get_num_threads()
            numba.set_num_threads(ranges)
            try:
                shared(np.asarray(bounds), *arguments, *arrays)
            finally:
                numba.set_num_threads(before)
    for part in parts:
        for other in part[1:]:
            part[0].add_(other)
    return [part[0] for part in parts]
