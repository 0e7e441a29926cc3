"""Models are made from numbers in a file: not larger than the weights in it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from mdl_physpretrain.errors import CheckpointError

__all__ = ["constructed"]

#: Numbers and entries beyond those of the file: tables that follow from the arguments are not always in it.
SPARE_NUMBERS, SPARE_ENTRIES = 4_000_000, 1000

Made = TypeVar("Made")


class _TooLarge(Exception):
    """A model that has more weights than its checkpoint."""


def constructed(
    make: Callable[[], Made], weights: Mapping[str, Any], path: str | Path, *, numbers: int = SPARE_NUMBERS
) -> Made:
    """What ``make`` makes, unless it would be larger than the weights that belong to it.

    It is made without memory first (torch's ``meta`` device), and counted while it grows.

    Parameters
    ----------
    make
        Makes a network from the arguments in a checkpoint.
    weights
        Tensors of the checkpoint.
    path
        For the message.
    numbers
        That it may have beyond those of the checkpoint.

    Raises
    ------
    CheckpointError
        If it would be larger.
    """
    stored = sum(v.numel() for v in weights.values() if isinstance(v, Tensor))
    limits = 2 * stored + numbers, 2 * len(weights) + SPARE_ENTRIES  # some are registered twice
    try:
        with _counted(*limits), torch.device("meta"), contextlib.suppress(NotImplementedError, RuntimeError):
            make()  # some constructors look at numbers, which are not there
        with _counted(*limits):
            return make()
    except _TooLarge:
        raise CheckpointError(
            f"{path}: its arguments make a model that is larger than the {stored + numbers} numbers it can have"
        ) from None


@contextmanager
def _counted(numbers: int, entries: int) -> Iterator[None]:
    """Count every parameter and buffer that a module gets; raise when a single model has too many."""
    total = [0, 0]

    def count(module: nn.Module, name: str, value: Tensor | None) -> None:
        total[0] += 1
        total[1] += 0 if value is None else value.numel()
        if total[0] > entries or total[1] > numbers:
            raise _TooLarge

    handles = [
        torch_module.register_module_parameter_registration_hook(count),
        torch_module.register_module_buffer_registration_hook(count),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
