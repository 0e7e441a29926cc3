"""Checking structures and labels before hours are spent on them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import numpy as np
from ase import Atoms
from ase.geometry import complete_cell
from scipy.spatial import cKDTree

from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.structures.identifiers import unique_ids
from mdl_physpretrain.structures.labels import LABEL_NAMES, get_labels, label_counts, missing_labels, structure_id
from mdl_physpretrain.structures.unit_checks import unit_warnings

__all__ = ["doubts_known", "refuse_damaged", "refuse_no_anchors", "validate_structures"]

FORCE_NAME = re.compile(r"force|grad|(^|[\W_])f($|[\W_])", re.IGNORECASE)
_KNOWN: ContextVar[bool] = ContextVar("_KNOWN", default=False)


def validate_structures(
    structures: Sequence[Atoms],
    *,
    require: Sequence[str] = ("energy", "forces"),
    partial: Literal["warn", "allow", "error"] = "warn",
    min_distance: float = 0.01,
    files: Mapping[str, str] | None = None,
) -> list[Atoms]:
    """Check structures and their labels; return them as a list.

    Parameters
    ----------
    structures
        Structures without an identifier are given one (in place).
    require
        Labels without which the data is of no use: an error when *no*
        structure has it.
    partial
        What to do when some structures lack a label: "warn" with the counts, of
        any label (they are masked in batches), "allow", or "error" for a required one.
    min_distance
        Closest allowed distance in Å between two atoms, periodic images
        included; closer ones lie on top of each other.
    files
        See :func:`refuse_damaged`.

    Raises
    ------
    StructureError
        With the first problem and how many structures have one: no
        structures, no atoms, NaN or infinite positions, cell or labels, a
        label of a wrong shape, an unknown element, a periodic direction
        without a cell vector, a cell without volume, atoms on top of each
        other, a duplicate identifier, a missing label.
    """
    structures = list(structures)
    if not structures:
        raise StructureError("the dataset is empty: there is no structure in it")
    for k, item in enumerate(structures):
        if not isinstance(item, Atoms):
            raise StructureError(f"expected ase.Atoms, found {type(item).__name__}", structure=k)
    unique_ids(structures)
    refuse_damaged(structures, min_distance=min_distance, files=files)
    if _KNOWN.get() and partial == "warn":
        partial = "allow"
    _check_labels(structures, require, partial)
    if partial != "allow":
        for sentence in unit_warnings(structures):
            warnings.warn(f"units of labels: {sentence}", stacklevel=2)
    return structures


@contextmanager
def doubts_known() -> Iterator[None]:
    """Inside, missing labels and doubtful units are not warned of: that was done when the data were read."""
    token = _KNOWN.set(True)
    try:
        yield
    finally:
        _KNOWN.reset(token)


def refuse_damaged(
    structures: Sequence[Atoms],
    *,
    min_distance: float = 0.01,
    labels: bool = True,
    files: Mapping[str, str] | None = None,
) -> None:
    """Refuse structures that no potential can be asked about: whoever needs labels, too, asks for these afterwards.

    Parameters
    ----------
    structures
        Labelled or not.
    min_distance
        See :func:`validate_structures`.
    labels
        Refuse labels that are not finite, too.
    files
        That the structures were read from, by identifier; named in the error.

    Raises
    ------
    StructureError
        With the first problem and how many structures have one.
    """
    problems = []
    for atoms in structures:
        problem = _damage(atoms, min_distance) or (_label_damage(atoms) if labels else None)
        if problem is not None:
            problems.append(problem.at(file=(files or {}).get(structure_id(atoms))))
    if not problems:
        return
    first = problems[0]
    if problems[1:]:
        names = ", ".join(str(p.structure) for p in problems[1:6]) + (", ..." if len(problems) > 6 else "")
        counted = f"{len(problems) - 1} more of {len(structures)} structures have problems"
        message = f"{first.message} (and {counted}: {names})"
        first = StructureError(message, file=first.file, structure=first.structure, field=first.field)
    raise first


def _check_labels(structures: list[Atoms], require: Sequence[str], partial: str) -> None:
    counts = label_counts(structures)
    wrong = next((name for name in require if name not in LABEL_NAMES), None)
    if wrong is not None:
        raise StructureError(f"{wrong!r} is not a label ({', '.join(LABEL_NAMES)})", field="require")
    if structures and not counts["forces"]:
        _refuse_forces_by_another_name(structures)
    for message, name in missing_labels(structures).items():
        if name in require and counts[name] == 0:
            raise StructureError(
                f"none of the {len(structures)} structures has this label (name it with {name}_key if it is called "
                "otherwise)",
                field=name,
            )
        if name in require and partial == "error":
            raise StructureError(message, field=name)
        if partial != "allow":
            warnings.warn(f"{message}; they do not count in that part of the loss", stacklevel=3)


def _refuse_forces_by_another_name(structures: list[Atoms]) -> None:
    """Raise where no structure has forces, and all have vectors of every atom that are called like forces."""
    names = set.intersection(*(set(atoms.arrays) for atoms in structures))
    called = sorted(n for n in names if FORCE_NAME.search(n) and structures[0].arrays[n].shape[1:] == (3,))
    if called:
        raise StructureError(
            f"none of the {len(structures)} structures has forces, but all have vectors called "
            f"{' and '.join(map(repr, called))}: are they the forces? Then name them with forces_key, else rename them",
            field="forces",
        )


def _damage(atoms: Atoms, min_distance: float) -> StructureError | None:
    """The first thing wrong with the atoms and the cell of one structure, or None."""

    def wrong(message: str, field: str) -> StructureError:
        return StructureError(message, structure=structure_id(atoms), field=field)

    if len(atoms) == 0:
        return wrong("no atoms", "atomic_numbers")
    unknown = atoms.numbers[(atoms.numbers < 1) | (atoms.numbers > 118)]
    if unknown.size:
        return wrong(f"unknown element: atomic number {unknown[0]}", "atomic_numbers")
    if not np.isfinite(atoms.positions).all():
        first = int(np.flatnonzero(~np.isfinite(atoms.positions).all(axis=1))[0])
        return wrong(f"NaN or infinite value (atom {first})", "positions")
    cell, pbc = atoms.cell.array, atoms.pbc
    if not np.isfinite(cell).all():
        return wrong("NaN or infinite value", "cell")
    missing = np.flatnonzero(pbc & (np.linalg.norm(cell, axis=1) < 1e-8))
    if missing.size:
        axes = ", ".join("abc"[k] for k in missing)
        return wrong(f"periodic along {axes} but without a cell vector there (set the cell, or pbc to False)", "cell")
    full = complete_cell(cell)
    areas = np.linalg.norm(np.cross(full[[1, 2, 0]], full[[2, 0, 1]]), axis=1)
    thickness = abs(np.linalg.det(full)) / areas.clip(1e-12)
    if np.any(thickness[pbc] <= 10 * min_distance):
        return wrong("cell vectors are linearly dependent or the cell is flat (zero volume)", "cell")
    pair = _coinciding(atoms.positions, full, pbc, thickness, min_distance)
    if pair is not None:
        message = f"atoms {pair[0]} and {pair[1]} lie on top of each other (closer than {min_distance} Å)"
        return wrong(message, "positions")
    return None


def _label_damage(atoms: Atoms) -> StructureError | None:
    """The first label that cannot be used, or None."""
    try:
        get_labels(atoms)
    except StructureError as error:
        return error.at(structure=structure_id(atoms))
    except (TypeError, ValueError) as error:
        return StructureError(f"a label is not numeric ({error})", structure=structure_id(atoms), field="labels")
    return None


def _coinciding(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, thickness: np.ndarray, distance: float
) -> tuple[int, int] | None:
    """A pair of atoms closer than ``distance``, periodic images included, or None.

    A tree over the wrapped atoms and the few images just outside the faces: a
    neighbour list of such a tiny cutoff would divide the cell into millions of boxes.
    """
    index = np.arange(len(positions))
    points = positions
    if pbc.any():
        fractions = positions @ np.linalg.inv(cell)
        fractions[:, pbc] -= np.floor(fractions[:, pbc])
        for axis in np.flatnonzero(pbc):
            margin = 1.001 * distance / thickness[axis]
            inside, members = fractions, index
            for near, shift in ((inside[:, axis] < margin, 1.0), (inside[:, axis] > 1 - margin, -1.0)):
                image = inside[near]
                image[:, axis] += shift
                fractions = np.concatenate([fractions, image])
                index = np.concatenate([index, members[near]])
        points = fractions @ cell
    pairs = cKDTree(points).query_pairs(distance, output_type="ndarray")
    if not len(pairs):
        return None
    i, j = sorted(index[pairs[0]].tolist())
    return i, j


def refuse_no_anchors(structures: Sequence[Atoms]) -> None:
    """Raise ConfigError where no structure has both energy and forces."""
    if not any((labels := get_labels(atoms)).energy is not None and labels.forces is not None for atoms in structures):
        raise ConfigError(
            "augment.anchor needs training structures with energy and forces, and none has both: "
            "set 'augment.anchor: false' to label with the teacher alone"
        )
