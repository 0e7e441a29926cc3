"""Pairs of elements and their names."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement

from ase import Atoms
from ase.data import atomic_numbers

from mdl_physpretrain.errors import ConfigError

__all__ = ["element_pairs", "pairs_together", "symbols_of"]


def element_pairs(elements: Sequence[str]) -> list[tuple[str, str]]:
    """Every unordered pair of elements, ordered by atomic number."""
    ordered = sorted(set(elements), key=lambda symbol: atomic_numbers[symbol])
    return list(combinations_with_replacement(ordered, 2))


def pairs_together(structures: Sequence[Atoms]) -> list[tuple[str, str]]:
    """Pairs of elements that some structure has both of, ordered by atomic number."""
    found = {pair for atoms in structures for pair in element_pairs(atoms.get_chemical_symbols())}
    return sorted(found, key=lambda pair: (atomic_numbers[pair[0]], atomic_numbers[pair[1]]))


def symbols_of(pair: tuple[str, str] | str) -> tuple[str, str]:
    """The two elements of ``("Mn", "O")`` or ``"Mn-O"``; raises ConfigError if it is no pair."""
    symbols = tuple(pair.split("-")) if isinstance(pair, str) else tuple(pair)
    if len(symbols) != 2 or any(s not in atomic_numbers or s == "X" for s in symbols):
        raise ConfigError(f"{pair!r} is not a pair of elements such as 'Mn-O'")
    return symbols
