"""Lower bounds of parameters, ``model.clamped_params`` of the authors' trainer ``hybrid``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from mdl_physpretrain.errors import ConfigError

__all__ = ["bounded_parameters", "lift"]

Bounded = list[tuple[nn.Parameter, float]]


def bounded_parameters(model: nn.Module, bounds: Any) -> Bounded:
    """Parameters and their lower bounds.

    Parameters
    ----------
    model
        The network.
    bounds
        By the first part of the names of parameters, in the parameters' units.

    Raises
    ------
    ConfigError
        If a key fits no parameter, or a bound is no number.
    """
    if not isinstance(bounds, Mapping):
        raise ConfigError(f"model.clamped_params: names and numbers are expected, not {bounds!r}")
    first = {name.partition(".")[0] for name, _ in model.named_parameters()}
    for key, bound in bounds.items():
        if key not in first:
            raise ConfigError(
                f"model.clamped_params: {key!r} bounds nothing in {type(model).__name__}, and the trainer of the "
                f"paper's authors ignores it: remove it, or name one of {', '.join(sorted(first))}"
            )
        if isinstance(bound, bool) or not isinstance(bound, int | float):
            raise ConfigError(f"model.clamped_params: {key}: a number is expected, not {bound!r}")
    return [
        (parameter, float(bounds[name.partition(".")[0]]))
        for name, parameter in model.named_parameters()
        if name.partition(".")[0] in bounds
    ]


@torch.no_grad()
def lift(bounded: Iterable[tuple[nn.Parameter, float]]) -> None:
    """Raise what lies below its bound."""
    for parameter, bound in bounded:
        parameter.clamp_(min=bound)
