"""Identifiers: every structure has one, and no two have the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ase import Atoms

from mdl_physpretrain.errors import StructureError

__all__ = ["unique_ids"]


def unique_ids(
    structures: Sequence[Atoms],
    *,
    origins: Sequence[tuple[str, int]] | None = None,
    generated: Sequence[str] | None = None,
    duplicates: Literal["error", "rename"] = "error",
) -> list[Atoms]:
    """Give every structure a unique ``info["structure_id"]`` (in place).

    Parameters
    ----------
    structures
        Those without an identifier get one.
    origins
        File and position of each structure, named in errors.
    generated
        Identifiers to give to those without one; ``structure-<position>`` by
        default. Where one is taken, ``~2``, ``~3``, ... is appended.
    duplicates
        What to do when two structures carry the same identifier: "error", or
        "rename" the later ones by appending ``~2``, ``~3``, ...

    Raises
    ------
    StructureError
        On a duplicate, with the file and position of both.
    """
    seen: dict[str, int] = {}
    for k, atoms in enumerate(structures):
        if atoms.info.get("structure_id") is None:
            continue
        name = atoms.info["structure_id"] = str(atoms.info["structure_id"])
        if name in seen and duplicates == "error":
            raise StructureError(_clash(seen[name], k, origins), structure=name, field="structure_id")
        seen.setdefault(name, k)

    taken = set(seen)

    def free(name: str) -> str:
        candidate, suffix = name, 2
        while candidate in taken:
            candidate, suffix = f"{name}~{suffix}", suffix + 1
        taken.add(candidate)
        return candidate

    for k, atoms in enumerate(structures):
        if atoms.info.get("structure_id") is None:
            atoms.info["structure_id"] = free(generated[k] if generated is not None else f"structure-{k}")
        elif seen[atoms.info["structure_id"]] != k:
            atoms.info["structure_id"] = free(atoms.info["structure_id"])
    return list(structures)


def _clash(first: int, second: int, origins: Sequence[tuple[str, int]] | None) -> str:
    if origins is None:
        return f"duplicate identifier, at positions {first} and {second}"
    (file_a, at_a), (file_b, at_b) = origins[first], origins[second]
    hint = " (the same file was given twice)" if (file_a, at_a) == (file_b, at_b) else ""
    return (
        f"duplicate identifier, in {file_a} at position {at_a} and in {file_b} at position {at_b}{hint}; "
        "rename one, or read with duplicates='rename'"
    )
