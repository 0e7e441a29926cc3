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
    """While a package is imported for the first time: single precision stays what it was.

    MatterTune and MatDeepLearn have ``torch.set_float32_matmul_precision`` among their imports. On GPUs products then
    have three digits, on CPUs with units for bfloat16 two, and forces are wrong by several per cent. Where the host was
    imported before, the precision is PyTorch's default again. What is set after that is left alone.
    """
    if host in _seen:
        yield
        return
    _seen.add(host)
    kept = "highest" if host in sys.modules else torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(kept)
