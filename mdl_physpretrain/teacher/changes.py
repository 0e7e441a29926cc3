"""Changes between structures that differ by a displacement: what an anchored teacher has to know.

An anchored label is the parent's own label plus the *change* that the
teacher sees on the way. Data sets often hold several frames of one material
(relaxations, strains, MD), so that the reference's changes are there to fit to
and to judge by, however wrong the teacher's absolute forces are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np
from ase import Atoms

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.graphs.neighbour_lists import complete_cell
from mdl_physpretrain.stability.overlap import closest_pair
from mdl_physpretrain.structures.identifiers import stable_id
from mdl_physpretrain.structures.labels import Labels, get_labels
from mdl_physpretrain.teacher.engines import Teacher, make_engine

__all__ = [
    "FramePair",
    "Skill",
    "answered_forces",
    "change_skill",
    "forces_change",
    "frame_pairs",
    "skill_of_forces",
    "skills_by_composition",
]

MOST_PARTNERS = 6  # pairs per structure: frames of one long trajectory say the same again and again
FEWEST_PAIRS = 6  # between which forces change: with fewer nearby, frames further apart are taken
LARGEST_MOVE = 1.5  # Å, of frames that are taken for want of nearer ones
MOST_TRIES = 60  # of a structure's possible partners, so that large sets do not cost the square of their size
STILL = 1e-3  # Å: below, nothing has changed
NO_CHANGE = 1e-4  # eV/Å, mean: below, forces do not change (symmetric crystals have none), and nothing can be compared


@dataclass(frozen=True)
class FramePair:
    """Two structures (indices) with the same atoms, of which one is the other displaced."""

    first: int
    second: int
    displacement: float  # largest of an atom, Å, in the cell of the first


@dataclass(frozen=True)
class Skill:
    """How well a teacher predicts changes of force between frames, against predicting none.

    ``trust`` is the factor in [0, 1] for the teacher's changes that the reference supports (least squares, force
    changes scaled by ``1 + |dF|`` of the teacher); 0 for a teacher that is no better than predicting nothing.
    ``stiffness`` is the inverse of this factor without bounds: below 1 the teacher's changes are too small, and what
    learns them is too soft; NaN where they have nothing to do with the reference's.
    """

    error: float  # mean absolute error of the change of a force component, eV/Å
    trivial: float  # the same of "nothing changes"
    trust: float
    correlation: float  # of the two changes
    pairs: int  # number of pairs of frames; 0 where there are none, or forces do not change between any
    stiffness: float = float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def frame_pairs(
    structures: Sequence[Atoms], *, largest: float = 0.6, strain: float = 0.12, seed: int = 0
) -> list[FramePair]:
    """Pairs of structures that are the same atoms in the same order, displaced and strained by little.

    ``largest`` (Å) is the largest displacement of an atom after the common motion and the strain are taken off,
    ``strain`` the largest element of the strain. A structure has at most six partners of at most 60 tried, chosen by
    ``seed``.

    In MD of a soft crystal frames are further apart. Where forces change between fewer than six of the pairs,
    structures with forces may differ by up to half the distance of their closest atoms, where every atom is still
    closer to its own place than to any other one, and by 1.5 Å at most.
    """
    limits = np.full(len(structures), largest)
    pairs = _pairs_within(structures, limits, strain, seed)
    labelled = np.array([get_labels(atoms).forces is not None for atoms in structures], dtype=bool)
    if sum(_force_change(structures, pair) >= NO_CHANGE for pair in pairs) >= FEWEST_PAIRS or not labelled.any():
        return pairs
    for k in np.flatnonzero(labelled).tolist():
        atoms = structures[k]
        half = 0.5 * closest_pair(atoms.positions, complete_cell(atoms.cell.array, atoms.pbc), atoms.pbc).distance
        limits[k] = max(largest, min(half, LARGEST_MOVE))
    return _pairs_within(structures, limits, strain, seed)


def _pairs_within(structures: Sequence[Atoms], limits: np.ndarray, strain: float, seed: int) -> list[FramePair]:
    """Pairs whose displacement is below the limits (Å) of both structures."""
    groups: dict[tuple[bytes, bytes], list[int]] = {}
    for k, atoms in enumerate(structures):
        groups.setdefault((atoms.numbers.tobytes(), np.asarray(atoms.pbc).tobytes()), []).append(k)
    rng = np.random.default_rng([seed, 0xF7A3])
    pairs = []
    for members in groups.values():
        for position, first in enumerate(members[:-1]):
            partners = members[position + 1 :]
            taken = 0
            for second in rng.permutation(partners)[:MOST_TRIES].tolist():
                size = _displacement(structures[first], structures[second], strain)
                if size is not None and size < min(limits[first], limits[second]):
                    pairs.append(FramePair(first, second, size))
                    taken += 1
                    if taken == MOST_PARTNERS:
                        break
    return sorted(pairs, key=lambda pair: (pair.first, pair.second))


def _force_change(structures: Sequence[Atoms], pair: FramePair) -> float:
    """Mean absolute change of a force component between two frames in eV/Å; 0 where one has no forces."""
    first, second = (get_labels(structures[k]).forces for k in (pair.first, pair.second))
    return 0.0 if first is None or second is None else float(np.abs(second - first).mean())


def _displacement(first: Atoms, second: Atoms, strain: float) -> float | None:
    """Largest displacement of an atom in Å; ``None`` where the cells differ too much or nothing differs."""
    cell, other = (complete_cell(a.cell.array, a.pbc) for a in (first, second))
    deformation = np.linalg.solve(cell, other) - np.eye(3)
    if np.abs(deformation).max() > strain:
        return None
    moves = second.positions @ np.linalg.inv(other) - first.positions @ np.linalg.inv(cell)
    moves -= np.round(moves) * first.pbc
    moves -= moves.mean(axis=0)
    size = float(np.linalg.norm(moves @ cell, axis=1).max(initial=0.0))
    return size if size > STILL or np.abs(deformation).max() > STILL else None


def forces_change(structures: Sequence[Atoms], pairs: Sequence[FramePair]) -> bool:
    """Whether reference forces change between the frames of any pair; those of symmetric crystals are all zero."""
    labels = {k: get_labels(structures[k]).forces for pair in pairs for k in (pair.first, pair.second)}
    changes = [b - a for p in pairs if (a := labels[p.first]) is not None and (b := labels[p.second]) is not None]
    return bool(changes) and float(np.abs(np.concatenate(changes)).mean()) >= NO_CHANGE


def change_skill(teacher: Teacher, structures: Sequence[Atoms], pairs: Sequence[FramePair] | None = None) -> Skill:
    """Skill of a teacher at the changes of force between frames of the same atoms; NaN errors where there are none.

    Frames that the teacher fails on do not count. Raises StructureError if a structure of a pair has no forces, or the
    teacher fails on one of every pair.
    """
    pairs = frame_pairs(structures) if pairs is None else list(pairs)
    if not pairs:
        return Skill(float("nan"), float("nan"), 0.0, float("nan"), 0)
    answered, taught = answered_forces(teacher, structures, pairs)
    return skill_of_forces(taught, structures, answered)


def skills_by_composition(
    taught: Mapping[int, np.ndarray], structures: Sequence[Atoms], pairs: Sequence[FramePair]
) -> dict[str, Skill]:
    """Skill of forces (as in :func:`skill_of_forces`) for each composition, the formula of all atoms, by its pairs."""
    groups: dict[str, list[FramePair]] = {}
    for pair in pairs:
        groups.setdefault(structures[pair.first].get_chemical_formula(), []).append(pair)
    return {name: skill_of_forces(taught, structures, members) for name, members in groups.items()}


def answered_forces(
    teacher: Teacher, structures: Sequence[Atoms], pairs: Sequence[FramePair]
) -> tuple[list[FramePair], dict[int, np.ndarray]]:
    """Pairs of which the teacher answered both structures, and its forces (n, 3), eV/Å, by structure.

    Raises StructureError if there is none.
    """
    needed = sorted({k for pair in pairs for k in (pair.first, pair.second)})
    engine = make_engine(teacher, 64, False, True)
    outcomes = list(chain.from_iterable(engine.outcomes([structures[k] for k in needed])))
    answers = dict(zip(needed, outcomes, strict=True))
    answered = [p for p in pairs if not any(isinstance(answers[k], str) for k in (p.first, p.second))]
    answered = answered or list(pairs)  # where nothing is answered, the error says why
    both = sorted({k for p in answered for k in (p.first, p.second)})
    return answered, {k: _forces(answers[k], structures[k]) for k in both}


def skill_of_forces(taught: Mapping[int, np.ndarray], structures: Sequence[Atoms], pairs: Sequence[FramePair]) -> Skill:
    """Skill of forces, (n, 3) each in eV/Å, that somebody gave to the structures (by index) of at least one pair.

    Without any pairs (``pairs`` of the result is 0) where the reference forces do not change: strained crystals whose
    forces are zero by symmetry say nothing of what a teacher knows.

    Raises StructureError if a structure of a pair has no forces of its own.
    """
    needed = sorted({k for pair in pairs for k in (pair.first, pair.second)})
    reference_forces = {k: _forces(get_labels(structures[k]), structures[k]) for k in needed}
    predicted = np.concatenate([(taught[p.second] - taught[p.first]).ravel() for p in pairs])
    reference = np.concatenate([(reference_forces[p.second] - reference_forces[p.first]).ravel() for p in pairs])
    error, trivial = float(np.abs(predicted - reference).mean()), float(np.abs(reference).mean())
    if trivial < NO_CHANGE:
        return Skill(error, trivial, 0.0, 0.0, 0)
    weight = 1 / (1 + np.abs(predicted)) ** 2  # one that falls with the reference's own noise would ask for too little
    square = float(weight @ predicted**2)
    factor = float((weight * predicted) @ reference / square) if square > 0 else 0.0
    trust, stiffness = float(np.clip(factor, 0.0, 1.0)), 1 / factor if factor > 0 else float("nan")
    if np.abs(trust * predicted - reference).mean() >= trivial:
        trust = 0.0
    spread = float(predicted.std() * reference.std())
    correlation = float(np.mean((predicted - predicted.mean()) * (reference - reference.mean())))
    return Skill(error, trivial, trust, correlation / spread if spread > 0 else 0.0, len(pairs), stiffness)


def _forces(labels: Labels | str, atoms: Atoms) -> np.ndarray:
    if isinstance(labels, str):
        raise StructureError(f"the teacher failed: {labels}", structure=stable_id(atoms))
    if labels.forces is None:
        raise StructureError("has no forces", structure=stable_id(atoms), field="forces")
    return labels.forces
