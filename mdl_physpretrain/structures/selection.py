"""Indices and slices that select structures of a file."""

from __future__ import annotations

from pathlib import Path

from ase.io.formats import string2index

from mdl_physpretrain.errors import StructureError

__all__ = ["parse_index", "selected_positions"]


def parse_index(index: str | int | slice) -> int | slice:
    """An index or a slice, also from a text such as ``"0:100:2"``; raises StructureError."""
    try:
        parsed = string2index(index) if isinstance(index, str) else index
    except ValueError:
        parsed = index
    if isinstance(parsed, str):
        raise StructureError(f"{index!r} is not an index or a slice such as ':', '-1' or '0:100:2'", field="index")
    return parsed


def selected_positions(count: int, index: int | slice, file: str | Path) -> list[int]:
    """Positions of the selected ones of ``count`` structures of a file; raises StructureError out of range."""
    try:
        positions = range(count)[index]
    except IndexError:
        raise StructureError(f"index {index} is out of range: it has {count} structures", file=file) from None
    return [positions] if isinstance(positions, int) else list(positions)
