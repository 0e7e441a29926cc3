"""Precision of matrix products, which importing a host changes for the whole process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["precision_kept"]

_seen: set[str] = set()


@contextmanager
def precision_kept(host: str) -> Iterator[None]:
    """While modules of a package are imported: single precision stays what it was.

    MatterTune and MatDeepLearn have ``torch.set_float32_matmul_precision`` among their imports. On GPUs products then
    have three digits, on CPUs with units for bfloat16 two, and forces are wrong by several per cent. Where the host was
    imported before this was asked for the first time, the precision is PyTorch's default again. What is set outside is
    left alone.
    """
    changed = host not in _seen and host in sys.modules
    _seen.add(host)
    kept = "highest" if changed else torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(kept)
