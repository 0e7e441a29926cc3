"""Changes between structures that differ by a displacement: what an anchored teacher has to know.

An anchored label is the parent's own label plus the *change* that the
teacher sees on the way. Data sets often hold several frames of one material
(relaxations, strains, MD), so that the reference's changes are there to fit to
and to judge by, however wrong the teacher's absolute forces are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from ase import Atoms

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.graphs.neighbour_lists import complete_cell
from mdl_physpretrain.structures.identifiers import stable_id
from mdl_physpretrain.structures.labels import Labels, get_labels
from mdl_physpretrain.teacher.engines import Teacher, make_engine

__all__ = ["FramePair", "Skill", "change_skill", "frame_pairs"]

MOST_PARTNERS = 6  # pairs per structure: frames of one long trajectory say the same again and again
MOST_TRIES = 60  # of a structure's possible partners, so that large sets do not cost the square of their size
STILL = 1e-3  # Å: below, nothing has changed


@dataclass(frozen=True)
class FramePair:
    """Two structures with the same atoms, of which one is the other displaced.

    Attributes
    ----------
    first, second
        Indices of the structures.
    displacement
        Largest displacement of an atom in Å, in the cell of the first.
    """

    first: int
    second: int
    displacement: float


@dataclass(frozen=True)
class Skill:
    """How well a teacher predicts changes of force between frames, against predicting none.

    Attributes
    ----------
    error, trivial
        Mean absolute errors of the change of a force component in eV/Å, of the
        teacher and of "nothing changes".
    trust
        Between 0 and 1: factor for the teacher's changes that the reference
        supports (least squares, force changes scaled by ``1 + |dF|``); 0 for a
        teacher that is no better than predicting nothing.
    correlation
        Of the two changes.
    pairs
        Number of pairs of frames.
    """

    error: float
    trivial: float
    trust: float
    correlation: float
    pairs: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def frame_pairs(
    structures: Sequence[Atoms], *, largest: float = 0.6, strain: float = 0.12, seed: int = 0
) -> list[FramePair]:
    """Pairs of structures that are the same atoms, displaced and strained by little.

    Parameters
    ----------
    structures
        Any; atoms must be in the same order to be recognised.
    largest
        Largest displacement of an atom in Å, after the common motion and the
        strain are taken off.
    strain
        Largest element of the strain between the cells.
    seed
        Of the choice where a structure has more than six partners, or more
        than 60 to try.

    Returns
    -------
    list[FramePair]
        In order.
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
    """Judge a teacher by the changes of force between frames of the same atoms.

    Parameters
    ----------
    teacher
        What :func:`mdl_physpretrain.teacher.label` takes.
    structures
        With reference forces.
    pairs
        Of :func:`frame_pairs`, computed otherwise.

    Returns
    -------
    Skill
        With ``pairs=0``, ``trust=0`` and NaN errors where the data hold no two
        frames of the same atoms.

    Raises
    ------
    StructureError
        If a structure of a pair has no forces, or the teacher fails on one.
    """
    pairs = frame_pairs(structures) if pairs is None else list(pairs)
    if not pairs:
        return Skill(float("nan"), float("nan"), 0.0, float("nan"), 0)
    needed = sorted({k for pair in pairs for k in (pair.first, pair.second)})
    engine = make_engine(teacher, 64, False, True)
    outcomes = [one for some in engine.outcomes([structures[k] for k in needed]) for one in some]
    taught = {k: _forces(outcome, structures[k]) for k, outcome in zip(needed, outcomes, strict=True)}
    wanted = {k: _forces(get_labels(structures[k]), structures[k]) for k in needed}
    predicted = np.concatenate([(taught[p.second] - taught[p.first]).ravel() for p in pairs])
    reference = np.concatenate([(wanted[p.second] - wanted[p.first]).ravel() for p in pairs])
    weight = 1 / (1 + np.abs(reference)) ** 2
    square = float(weight @ predicted**2)
    trust = float(np.clip((weight * predicted) @ reference / square, 0.0, 1.0)) if square > 0 else 0.0
    error, trivial = float(np.abs(predicted - reference).mean()), float(np.abs(reference).mean())
    if np.abs(trust * predicted - reference).mean() >= trivial:
        trust = 0.0
    spread = float(predicted.std() * reference.std())
    correlation = float(np.mean((predicted - predicted.mean()) * (reference - reference.mean())))
    return Skill(error, trivial, trust, correlation / spread if spread > 0 else 0.0, len(pairs))


def _forces(labels: Labels | str, atoms: Atoms) -> np.ndarray:
    if isinstance(labels, str):
        raise StructureError(f"the teacher failed: {labels}", structure=stable_id(atoms))
    if labels.forces is None:
        raise StructureError("has no forces", structure=stable_id(atoms), field="forces")
    return labels.forces
