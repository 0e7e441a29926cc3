"""Potentials by name: those of this package and of any other that declares the entry point."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, TypeVar

from mdl_physpretrain.errors import ConfigError

if TYPE_CHECKING:
    from mdl_physpretrain.potentials.base import EnergyModel

__all__ = ["model_class", "register_model", "registered_models"]

GROUP = "mdl_physpretrain.potentials"
_REGISTRY: dict[str, type[EnergyModel]] = {}
Model = TypeVar("Model", bound="type[EnergyModel]")


def register_model(name: str) -> Callable[[Model], Model]:
    """Class decorator: give a potential the name that checkpoints and YAML know it by.

    Parameters
    ----------
    name
        The same as in the entry point, where there is one.
    """

    def decorate(cls: Model) -> Model:
        cls.registry_name = name
        _REGISTRY[name] = cls
        return cls

    return decorate


def registered_models() -> list[str]:
    """Names of all known potentials, of entry points (group ``mdl_physpretrain.potentials``) and of this session."""
    return sorted({*_REGISTRY, *_entry_points()})


def model_class(name: str) -> type[EnergyModel]:
    """Look a potential up by its name; its module is imported then.

    Raises
    ------
    ConfigError
        If there is none, with the names that exist, or if its package cannot be imported.
    """
    if name not in _REGISTRY and name in _entry_points():
        entry = _entry_points()[name]
        try:
            _REGISTRY[name] = entry.load()
        except Exception as error:  # another package may fail in any way while it is imported
            raise ConfigError(f"model {name!r} ({entry.value}) cannot be imported: {error}") from error
    if name not in _REGISTRY:
        raise ConfigError(f"unknown model {name!r}; known: {', '.join(registered_models())}")
    return _REGISTRY[name]


@cache
def _entry_points() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}
