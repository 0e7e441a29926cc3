"""Potentials by name: those of this package and of any other that declares the entry point.

A package adds a potential to YAML, checkpoints and worker processes by two lines of its ``pyproject.toml``::

    [project.entry-points."mdl_physpretrain.potentials"]
    schnet = "physpretrain_schnet:SchNet"

There are no dotted paths to classes: a checkpoint names its model, and reading one must not import what it likes.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint
from typing import Any, TypeVar, get_args

from pydantic import ConfigDict, TypeAdapter, ValidationError

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.potentials import entry_points
from mdl_physpretrain.potentials.base import EnergyModel

__all__ = ["construct_model", "model_class", "register_model", "registered_models"]

_SCALARS: set[Any] = {bool, int, float, str}
_STRICT = ConfigDict(strict=True, allow_inf_nan=False)
_REGISTRY: dict[str, type[EnergyModel]] = {}
Model = TypeVar("Model", bound=type[EnergyModel])


def register_model(name: str) -> Callable[[Model], Model]:
    """Class decorator: give a potential the name that checkpoints and YAML know it by.

    With an entry point it can be left out: the name is that of the entry point then.

    Parameters
    ----------
    name
        The same as in the entry point, where there is one.

    Raises
    ------
    ConfigError
        If another class has the name.
    """

    def decorate(cls: Model) -> Model:
        holder = _REGISTRY.get(name)
        if holder is not None and _path(holder) != _path(cls):
            raise ConfigError(f"two potentials are called {name!r}: {_path(holder)} and {_path(cls)}; rename one")
        cls.registry_name = name
        _REGISTRY[name] = cls
        return cls

    return decorate


def registered_models() -> list[str]:
    """Names of all known potentials, of entry points (group ``mdl_physpretrain.potentials``) and of this session."""
    return sorted({*_REGISTRY, *entry_points.model_entries()})


def model_class(name: str) -> type[EnergyModel]:
    """Look a potential up by its name; its module is imported then.

    Raises
    ------
    ConfigError
        If there is none (with the nearest name), if two packages use the name, if its package cannot be imported,
        or if what it names is no :class:`~mdl_physpretrain.potentials.base.EnergyModel`.
    """
    named = entry_points.model_entries().get(name, [])
    if len(named) > 1:
        rivals = " and ".join(f"{entry.value} of {entry_points.distribution(entry)}" for entry in named)
        raise ConfigError(f"two packages add a model {name!r}: {rivals}; uninstall one, or rename its entry point")
    if named and name not in _REGISTRY:
        _REGISTRY[name] = _loaded(named[0])
    if name not in _REGISTRY:
        near = difflib.get_close_matches(str(name), registered_models(), 1)
        raise ConfigError(
            f"unknown model {name!r}{f', did you mean {near[0]!r}?' if near else ''}; known: "
            f"{', '.join(registered_models())}. A model of another package is known once that is installed "
            f"(again, if its entry point in the group {entry_points.GROUP!r} is new)"
        )
    return _REGISTRY[name]


def construct_model(name: str, arguments: Mapping[str, Any]) -> EnergyModel:
    """A new potential of the registry.

    Raises
    ------
    ConfigError
        As :func:`model_class`; or if an argument that is to be a number, a switch or a text is something else.
    TypeError
        If the potential has no such argument, or lacks one.
    """
    cls = model_class(name)
    parameters: Mapping[str, inspect.Parameter] = {}
    # another package may import a name of its annotations for its type checker only
    with contextlib.suppress(NameError, TypeError, ValueError):
        parameters = inspect.signature(cls, eval_str=True).parameters
    for argument, value in arguments.items():
        annotation = parameters[argument].annotation if argument in parameters else None
        if annotation is not None and {annotation, *get_args(annotation)} & _SCALARS:
            try:
                TypeAdapter(annotation, config=_STRICT).validate_python(value)
            except ValidationError as error:
                words = error.errors()[0]["msg"].removeprefix("Input ")
                raise ConfigError(f"{name}: the argument {argument!r} {words}, not {str(value)[:40]!r}") from None
    return cls(**arguments)


def _loaded(entry: EntryPoint) -> type[EnergyModel]:
    source = f"model {entry.name!r} of {entry_points.distribution(entry)} ({entry.value})"
    try:
        cls: Any = entry.load()
    except Exception as error:  # another package may fail in any way while it is imported
        raise ConfigError(f"{source} cannot be imported: {type(error).__name__}: {error}") from error
    if not (inspect.isclass(cls) and issubclass(cls, EnergyModel)):
        raise ConfigError(f"{source} is {cls!r}, not a class that inherits from mdl_physpretrain's EnergyModel")
    if not cls.__dict__.get("registry_name"):
        cls.registry_name = entry.name
    if cls.registry_name != entry.name:
        raise ConfigError(f"{source} registers itself as {cls.registry_name!r}: both names must be the same")
    return cls


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
