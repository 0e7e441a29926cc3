"""Whether a network can be built from its name and arguments: asked before any long work."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.potentials.construction import constructed
from mdl_physpretrain.potentials.registry import construct_model, model_class

__all__ = ["check_network"]

MAX_NUMBERS = 10**9  # weights of a network; more is a mistake


def check_network(name: str, arguments: Mapping[str, Any], *, fields: tuple[str, str]) -> None:
    """Build the network once, without its numbers.

    Parameters
    ----------
    name, arguments
        Of the registry, and of the network.
    fields
        What the user calls them.

    Raises
    ------
    ConfigError
        Naming the field, and the nearest argument where there is none of that name.
    """
    name_field, argument_field = fields
    try:
        cls = model_class(name)
    except ConfigError as error:
        raise ConfigError(f"{name_field}: {error}") from None
    parameters = inspect.signature(cls).parameters.values()
    known = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for argument in arguments:
        if argument not in known and not takes_any:
            near = difflib.get_close_matches(argument, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it knows {', '.join(known)}"
            raise ConfigError(f"{argument_field}.{argument}: {name} has no such argument; {hint}")
    try:
        network = constructed(lambda: construct_model(name, arguments), {}, argument_field, numbers=MAX_NUMBERS)
        if not all(weight.numel() for weight in network.parameters()):
            raise ConfigError("a layer of the network is empty")
    except Exception as error:  # a constructor of any package, with arguments of any kind
        words = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{argument_field}: {words[:300]}") from error
