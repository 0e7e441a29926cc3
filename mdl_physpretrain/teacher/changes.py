"""Changes between structures that differ by a displacement: what an anchored teacher has to know.

An anchored label is the parent's own label plus the *change* that the
teacher sees on the way. Data sets often hold several frames of one material
(relaxations, strains, MD), so that the reference's changes are there to fit to
and to judge by, however wrong the teacher's absolute forces are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from ase import Atoms

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.graphs.neighbour_lists import complete_cell
from mdl_physpretrain.structures.identifiers import stable_id
from mdl_physpretrain.structures.labels import Labels, get_labels
from mdl_physpretrain.teacher.engines import Teacher, make_engine

__all__ = ["ChangeErrors", "FramePair", "Skill", "change_errors", "change_skill", "frame_pairs", "skill_of_forces"]

MOST_PARTNERS = 6  # pairs per structure: frames of one long trajectory say the same again and again
MOST_TRIES = 60  # of a structure's possible partners, so that large sets do not cost the square of their size
PRIOR = 2.0  # pairs of a kind that the error of all pairs counts as
STILL = 1e-3  # Å: below, nothing has changed


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
    pairs: int  # number of pairs of frames
    stiffness: float = float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class ChangeErrors:
    """Relative errors of a teacher's changes of force, at most 1.

    Attributes
    ----------
    whole
        Of all pairs of frames.
    kinds
        By chemical formula, where frames of the same atoms are known: where these are few, near ``whole``.
    """

    whole: float
    kinds: Mapping[str, float] = field(default_factory=dict)

    def of(self, atoms: Atoms) -> float:
        """That of the structure's kind."""
        return self.kinds.get(atoms.get_chemical_formula(), self.whole)


def change_errors(teacher: Teacher, structures: Sequence[Atoms]) -> ChangeErrors | None:
    """Relative errors of a teacher's changes between frames of the same atoms; ``None`` where nothing changes.

    Raises as :func:`change_skill` does.
    """
    pairs = frame_pairs(structures)
    if not pairs:
        return None
    taught, answered = _taught(teacher, structures, pairs)
    skill = skill_of_forces(taught, structures, answered)
    if skill.trivial == 0:
        return None
    sums: dict[str, np.ndarray] = {}
    for pair in answered:
        first, second = (get_labels(structures[k]).forces for k in (pair.first, pair.second))
        reference = np.asarray(second) - np.asarray(first)
        wrong = np.abs(taught[pair.second] - taught[pair.first] - reference).mean()
        formula = structures[pair.first].get_chemical_formula()
        sums[formula] = sums.get(formula, np.zeros(2)) + (wrong, np.abs(reference).mean())
    whole = min(1.0, skill.error / skill.trivial)
    prior = PRIOR * sum(change for _, change in sums.values()) / len(answered)
    kinds = {k: float(min(1.0, (e + prior * whole) / (change + prior))) for k, (e, change) in sums.items()}
    return ChangeErrors(whole, kinds)


def frame_pairs(
    structures: Sequence[Atoms], *, largest: float = 0.6, strain: float = 0.12, seed: int = 0
) -> list[FramePair]:
    """Pairs of structures that are the same atoms in the same order, displaced and strained by little.

    ``largest`` (Å) is the largest displacement of an atom after the common motion and the strain are taken off,
    ``strain`` the largest element of the strain. A structure has at most six partners of at most 60 tried, chosen by
    ``seed``.
    """
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
                if size is not None and size < largest:
                    pairs.append(FramePair(first, second, size))
                    taken += 1
                    if taken == MOST_PARTNERS:
                        break
    return sorted(pairs, key=lambda pair: (pair.first, pair.second))


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


def change_skill(teacher: Teacher, structures: Sequence[Atoms], pairs: Sequence[FramePair] | None = None) -> Skill:
    """Skill of a teacher at the changes of force between frames of the same atoms; NaN errors where there are none.

    Frames that the teacher fails on do not count. Raises StructureError if a structure of a pair has no forces, or the
    teacher fails on one of every pair.
    """
    pairs = frame_pairs(structures) if pairs is None else list(pairs)
    if not pairs:
        return Skill(float("nan"), float("nan"), 0.0, float("nan"), 0)
    taught, pairs = _taught(teacher, structures, pairs)
    return skill_of_forces(taught, structures, pairs)


def skill_of_forces(taught: Mapping[int, np.ndarray], structures: Sequence[Atoms], pairs: Sequence[FramePair]) -> Skill:
    """Skill of forces, (n, 3) each in eV/Å, that somebody gave to the structures (by index) of at least one pair.

    Raises StructureError if a structure of a pair has no forces of its own.
    """
    needed = sorted({k for pair in pairs for k in (pair.first, pair.second)})
    reference_forces = {k: _forces(get_labels(structures[k]), structures[k]) for k in needed}
    predicted = np.concatenate([(taught[p.second] - taught[p.first]).ravel() for p in pairs])
    reference = np.concatenate([(reference_forces[p.second] - reference_forces[p.first]).ravel() for p in pairs])
    weight = 1 / (1 + np.abs(predicted)) ** 2  # one that falls with the reference's own noise would ask for too little
    square = float(weight @ predicted**2)
    factor = float((weight * predicted) @ reference / square) if square > 0 else 0.0
    trust, stiffness = float(np.clip(factor, 0.0, 1.0)), 1 / factor if factor > 0 else float("nan")
    error, trivial = float(np.abs(predicted - reference).mean()), float(np.abs(reference).mean())
    if np.abs(trust * predicted - reference).mean() >= trivial:
        trust = 0.0
    spread = float(predicted.std() * reference.std())
    correlation = float(np.mean((predicted - predicted.mean()) * (reference - reference.mean())))
    return Skill(error, trivial, trust, correlation / spread if spread > 0 else 0.0, len(pairs), stiffness)


def _taught(
    teacher: Teacher, structures: Sequence[Atoms], pairs: Sequence[FramePair]
) -> tuple[dict[int, np.ndarray], Sequence[FramePair]]:
    """Forces that the teacher gives to the structures of pairs, by index, and the pairs that it has an answer to."""
    needed = sorted({k for pair in pairs for k in (pair.first, pair.second)})
    engine = make_engine(teacher, 64, False, True)
    outcomes = list(chain.from_iterable(engine.outcomes([structures[k] for k in needed])))
    answers = dict(zip(needed, outcomes, strict=True))
    answered = [p for p in pairs if not any(isinstance(answers[k], str) for k in (p.first, p.second))]
    pairs = answered or pairs  # where nothing is answered, the error says why
    taught = {k: _forces(answers[k], structures[k]) for k in sorted({k for p in pairs for k in (p.first, p.second)})}
    return taught, pairs


def _forces(labels: Labels | str, atoms: Atoms) -> np.ndarray:
    if isinstance(labels, str):
        raise StructureError(f"the teacher failed: {labels}", structure=stable_id(atoms))
    if labels.forces is None:
        raise StructureError("has no forces", structure=stable_id(atoms), field="forces")
    return labels.forces
