"""A cache of what is computed from a model's weights, valid as long as these keep their values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

__all__ = ["WeightCache"]

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


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
