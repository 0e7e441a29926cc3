"""Caches of what is computed from a model's weights or a batch's indices, valid as long as these stay the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

__all__ = ["IndexCache", "WeightCache"]

T = TypeVar("T")


class WeightCache(Generic[T]):
    """The last result of a function of some tensors.

    Values are compared, not versions or addresses: optimisers, averaging of
    weights and ``.data`` change tensors in ways that leave no trace, and
    reading the weights once costs little beside what is saved. A copy or a pickle
    starts empty, so that a model's files and copies do not carry it.

    Examples
    --------
    >>> doubled = WeightCache()
    >>> weight = torch.ones(2)
    >>> doubled.get([weight], lambda: 2 * weight)
    tensor([2., 2.])
    """

    def __init__(self) -> None:
        self._kept: tuple[list[Tensor], T] | None = None

    def get(self, sources: Sequence[Tensor], make: Callable[[], T]) -> T:
        """The stored result, or that of ``make()`` (without gradients) where one of the sources has changed."""
        entry = self._kept
        if entry is None or len(entry[0]) != len(sources) or not all(map(_same, entry[0], sources)):
            with torch.inference_mode(False), torch.no_grad():
                entry = self._kept = [x.detach().clone() for x in sources], make()
        return entry[1]

    def __getstate__(self) -> dict[str, None]:
        return {"_kept": None}


class IndexCache(Generic[T]):
    """The last result of a function of one tensor of indices on a GPU, for when the very same tensor comes again.

    Nothing is compared, which would make the host wait: the tensor must be the same object, not changed in place. On a
    CPU nothing is kept. A copy or a pickle starts empty. While a graph is traced, ``fixed`` is the result whatever the
    tensor is.
    """

    fixed: T | None = None

    def __init__(self) -> None:
        self._kept: tuple[Tensor, int, T] | None = None

    def get(self, source: Tensor, make: Callable[[], T]) -> T:
        """The stored result, or that of ``make()`` for another tensor."""
        if self.fixed is not None:
            return self.fixed
        if source.device.type == "cpu" or source.is_inference():
            return make()
        if self._kept is None or self._kept[0] is not source or self._kept[1] != source._version:
            self._kept = source, source._version, make()
        return self._kept[2]

    def __getstate__(self) -> dict[str, None]:
        return {"_kept": None}


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
