"""Classes of one kind: the files of a folder of this package, and entry points of other packages."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from importlib.metadata import entry_points
from typing import TypeVar

from mdl_physpretrain.errors import ConfigError

__all__ = ["plugin_classes"]

Class = TypeVar("Class")


def plugin_classes(package: str, group: str, base: type[Class], noun: str) -> list[type[Class]]:
    """Every class that inherits from a base and is not abstract.

    Parameters
    ----------
    package
        Dotted name of the package whose modules are looked through.
    group
        Entry points of other packages.
    base
        The contract.
    noun
        One of them in words, for messages.

    Raises
    ------
    ConfigError
        If the package of an entry point cannot be imported, or holds something else.
    """
    classes: list[type[Class]] = []
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        loaded = importlib.import_module(f"{package}.{module.name}")
        classes += [
            cls
            for cls in vars(loaded).values()
            if inspect.isclass(cls)
            and issubclass(cls, base)
            and not inspect.isabstract(cls)
            and cls.__module__ == loaded.__name__
        ]
    for entry in entry_points(group=group):
        try:
            cls = entry.load()
        except Exception as error:  # another package may fail in any way while it is imported
            raise ConfigError(f"{noun} {entry.name!r} ({entry.value}) cannot be imported: {error}") from error
        if not (inspect.isclass(cls) and issubclass(cls, base)):
            raise ConfigError(f"{noun} {entry.name!r} ({entry.value}) does not inherit from {base.__name__}")
        classes.append(cls)
    return classes
