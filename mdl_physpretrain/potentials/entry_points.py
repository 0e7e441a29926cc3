"""Entry points by which packages, this one too, add potentials."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points

__all__ = ["GROUP", "distribution", "model_entries", "providing_package"]

GROUP = "mdl_physpretrain.potentials"


@cache
def model_entries() -> dict[str, list[EntryPoint]]:
    """Entry points of potentials by name; the same class listed twice, as by an editable installation, counts once."""
    by_name: dict[str, dict[str, EntryPoint]] = {}
    for entry in entry_points(group=GROUP):
        by_name.setdefault(entry.name, {})[f"{entry.module}:{entry.attr}"] = entry
    return {name: list(entries.values()) for name, entries in by_name.items()}


def distribution(entry: EntryPoint) -> str:
    """The package that declares an entry point, as ``pip`` knows it."""
    return entry.dist.name if entry.dist is not None else entry.module.partition(".")[0]


def providing_package(name: str) -> str | None:
    """The installed package whose entry point adds a potential, as ``pip`` knows it; ``None`` without one."""
    return next((distribution(entry) for entry in model_entries().get(name, [])), None)
