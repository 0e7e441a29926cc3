"""Elements that a part of the data has and another has not, and samples that miss no element."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.structures.identifiers import stable_id

__all__ = ["FEW_ELEMENTS", "checked_symbols", "elements_of", "spread_sample", "strange_elements"]

#: Up to so many elements every pair of them can be expected in the data.
FEW_ELEMENTS = 8
SHOWN = 5  # structures that are named


def elements_of(structures: Sequence[Atoms]) -> list[str]:
    """Symbols of all elements, by atomic number."""
    numbers = set().union(*(np.unique(atoms.numbers).tolist() for atoms in structures))
    return [chemical_symbols[z] for z in sorted(numbers)]


def checked_symbols(elements: Sequence[str]) -> list[str]:
    """The symbols as a list.

    Raises ConfigError if they are no sequence of different chemical symbols.
    """
    symbols = [elements] if isinstance(elements, str) else [str(e) for e in elements]
    unknown = [s for s in symbols if atomic_numbers.get(s, 0) == 0]
    if isinstance(elements, str) or unknown:
        raise ConfigError(f"elements must be chemical symbols such as ['Si', 'O'], not {(unknown or symbols)[0]!r}")
    if len(set(symbols)) < len(symbols):
        raise ConfigError(f"elements: {next(s for s in symbols if symbols.count(s) > 1)} is there twice")
    return symbols


def strange_elements(
    structures: Sequence[Atoms], allowed: Collection[str], part: str, of: str = "the training structures"
) -> str | None:
    """What to say of structures of a ``part`` of the data with elements that are not ``allowed`` (those ``of``).

    ``None``: there are none.
    """
    numbers = [atomic_numbers.get(symbol, 0) for symbol in allowed]
    beyond = [a for a in structures if not np.isin(a.numbers, numbers).all()]
    if not beyond:
        return None
    symbols = [s for s in elements_of(beyond) if s not in allowed]
    ids = [stable_id(atoms) for atoms in beyond]
    names = ", ".join(ids[:SHOWN]) + (f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else "")
    return f"{', '.join(symbols)} occur in {part} but not in {of} ({part}: {names})"


def spread_sample(structures: Sequence[Atoms], step: int) -> list[Atoms]:
    """Every ``step``-th structure (below one: all), and one more for every element that these would miss."""
    step = max(1, step)
    chosen = list(structures[::step])
    seen = set().union(*(np.unique(atoms.numbers).tolist() for atoms in chosen))
    for k, atoms in enumerate(structures):
        if k % step and not seen.issuperset(here := np.unique(atoms.numbers).tolist()):
            chosen.append(atoms)
            seen.update(here)
    return chosen
