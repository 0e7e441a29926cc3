"""Identifiers of structures, unique within a data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ase import Atoms

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.structures.fingerprint import structure_hash

__all__ = ["require_unique_ids", "stable_id", "unique_ids"]


def stable_id(atoms: Atoms) -> str:
    """The structure's identifier, or one made from its content when it has none.

    A formula alone would be shared by all frames of a trajectory; the hash of
    the content is not, and does not depend on the order of the list.
    """
    if "structure_id" in atoms.info:
        return str(atoms.info["structure_id"])
    return f"{atoms.get_chemical_formula()}-{structure_hash(atoms, size=6)}"


def require_unique_ids(structures: Sequence[Atoms], described: str) -> list[str]:
    """Identifiers of all structures (``described`` in the error); raises StructureError if two share one.

    Their random numbers and their augmented structures could not be told apart.
    """
    positions: dict[str, int] = {}
    for k, atoms in enumerate(structures):
        name = stable_id(atoms)
        if name in positions:
            raise StructureError(
                f"{described} {positions[name]} and {k} have the same identifier; make them unique",
                structure=name,
                field="structure_id",
            )
        positions[name] = k
    return list(positions)


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
    owner: dict[str, int] = {}  # the first structure with an identifier
    for k, atoms in enumerate(structures):
        if atoms.info.get("structure_id") is None:
            continue
        name = atoms.info["structure_id"] = str(atoms.info["structure_id"])
        if name in owner and duplicates == "error":
            raise StructureError(_clash(owner[name], k, origins), structure=name, field="structure_id")
        owner.setdefault(name, k)

    taken = set(owner)
    for k, atoms in enumerate(structures):
        name = atoms.info.get("structure_id")
        if name is not None and owner[name] == k:
            continue
        base = name if name is not None else generated[k] if generated is not None else f"structure-{k}"
        candidate, suffix = base, 2
        while candidate in taken:
            candidate, suffix = f"{base}~{suffix}", suffix + 1
        taken.add(candidate)
        atoms.info["structure_id"] = candidate
    return list(structures)


def _clash(first: int, second: int, origins: Sequence[tuple[str, int]] | None) -> str:
    if origins is None:
        return f"duplicate identifier, at positions {first} and {second}"
    (file_a, at_a), (file_b, at_b) = origins[first], origins[second]
    hint = " (the same file was given twice)" if (file_a, at_a) == (file_b, at_b) else ""
    return (
        f"duplicate identifier, in {file_a} at position {at_a} and in {file_b} at position {at_b}{hint}; "
        "rename one, or read with duplicates='rename' (--duplicates rename, in YAML data.duplicates)"
    )
