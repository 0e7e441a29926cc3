"""How wrong a teacher's changes of force are expected to be: over all data, and for each composition.

Not of the paper. A teacher that knows a crystal may know little about its defects.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from ase import Atoms
from ase.formula import Formula

from mdl_physpretrain.teacher.changes import (
    MOST_PARTNERS,
    FramePair,
    Skill,
    answered_forces,
    frame_pairs,
    skill_of_forces,
    skills_by_composition,
)
from mdl_physpretrain.teacher.engines import Teacher

__all__ = ["ChangeErrors", "best_of_two", "compared_change_errors", "measured_change_errors"]

#: Few pairs of frames say little: the error over all data counts as so many pairs of each composition.
PRIOR_PAIRS = MOST_PARTNERS
MOST_MISSING = 0.5  # a teacher that answers less than this share of the other's pairs of frames is not asked


@dataclass(frozen=True)
class ChangeErrors:
    """Relative errors of a teacher's changes of force, at most 1.

    Attributes
    ----------
    overall
        Over all pairs of frames.
    of_composition
        By the formula of all atoms of a structure (``In31P33``). A composition that is not there has the overall one.
    skills
        What they were measured by.
    """

    overall: float
    of_composition: Mapping[str, float] = field(default_factory=dict)
    skills: Mapping[str, Skill] = field(default_factory=dict)

    def of(self, atoms: Atoms) -> float:
        """That of a structure."""
        return self.of_formula(atoms.get_chemical_formula())

    def of_formula(self, composition: str) -> float:
        """That of a composition; the overall one where it is not known."""
        return self.of_composition.get(composition, self.overall)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, see :meth:`from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ChangeErrors:
        """Of :meth:`to_dict`."""
        skills = {name: Skill(**skill) for name, skill in values["skills"].items()}
        return cls(values["overall"], values["of_composition"], skills)

    def for_all(self) -> ChangeErrors:
        """The overall one for every composition."""
        return ChangeErrors(self.overall, skills=self.skills)

    def table(self) -> pd.DataFrame:
        """``composition``, ``pairs`` of frames, ``error`` and ``trivial`` (predicting no change) in eV/Å, ``expected``.

        ``expected`` is the relative error that the labels carry. Compositions with most pairs first.
        """
        rows = [
            {
                "composition": name,
                "pairs": skill.pairs,
                "error": skill.error,
                "trivial": skill.trivial,
                "expected": self.of_formula(name),
            }
            for name, skill in sorted(self.skills.items(), key=lambda item: (-item[1].pairs, item[0]))
        ]
        return pd.DataFrame(rows, columns=["composition", "pairs", "error", "trivial", "expected"])


def measured_change_errors(teacher: Teacher, structures: Sequence[Atoms]) -> ChangeErrors | None:
    """Errors of a teacher's changes of force between frames of the same atoms.

    Parameters
    ----------
    teacher
        A model, a calculator or a function that makes one.
    structures
        With reference forces.

    Returns
    -------
    ChangeErrors or None
        Of a composition the mean of its own relative error and the overall one, weighted by its number of pairs and
        six: with few pairs it stays near the overall one. Where nothing changes (crystals without forces) it is the
        overall one. ``None`` where no two structures are frames of the same atoms, or nothing changes between any.

    Raises
    ------
    StructureError
        If the teacher fails on a structure of every pair.
    """
    pairs = frame_pairs(structures)
    return _of_forces(*answered_forces(teacher, structures, pairs), structures) if pairs else None


def compared_change_errors(
    one: Teacher, other: Teacher, structures: Sequence[Atoms]
) -> tuple[ChangeErrors | None, ChangeErrors | None, set[str]]:
    """Errors of two teachers (:func:`measured_change_errors`), and the compositions that ``one`` knows better.

    Compositions are compared on the pairs of frames that both answered. A teacher that answers less than half as many
    pairs as the other one does not know the composition; one without frames goes to the lower error over all data.
    Raises StructureError if a teacher answers no pair.
    """
    pairs = frame_pairs(structures)
    if not pairs:
        return None, None, set()
    answers = [answered_forces(teacher, structures, pairs) for teacher in (one, other)]
    of_other = set(answers[1][0])
    common = [pair for pair in answers[0][0] if pair in of_other]
    on_common = [skills_by_composition(forces, structures, common) for _, forces in answers]
    errors = [_of_forces(answered, forces, structures) for answered, forces in answers]
    first, second = errors
    if first is None or second is None:
        return first, second, set()
    better = set()
    for name in {atoms.get_chemical_formula() for atoms in structures}:
        counts = [found.skills[name].pairs if name in found.skills else 0 for found in (first, second)]
        if not any(counts):
            wins = first.overall < second.overall
        elif min(counts) < MOST_MISSING * max(counts) or name not in on_common[0]:
            wins = counts[0] > counts[1]
        else:
            wins = on_common[0][name].error < on_common[1][name].error
        better |= {name} if wins else set()
    return first, second, better


def best_of_two(one: ChangeErrors, other: ChangeErrors, compositions: Collection[str]) -> ChangeErrors:
    """Errors of two potentials, of which ``other`` is asked about some compositions."""
    asked = {name: other if name in compositions else one for name in sorted(one.skills.keys() | other.skills.keys())}
    chosen = {name: errors.skills[name] for name, errors in asked.items() if name in errors.skills}
    numbers = {name: skill.pairs * len(Formula(name)) for name, skill in chosen.items() if skill.pairs}
    error, trivial = (
        sum(number * getattr(chosen[name], kind) for name, number in numbers.items()) for kind in ("error", "trivial")
    )
    return _expected(min(1.0, error / trivial) if trivial > 0 else min(one.overall, other.overall), chosen)


def _of_forces(
    pairs: Sequence[FramePair], forces: Mapping[int, np.ndarray], structures: Sequence[Atoms]
) -> ChangeErrors | None:
    whole = skill_of_forces(forces, structures, pairs)
    return _expected(_relative(whole), skills_by_composition(forces, structures, pairs)) if whole.pairs else None


def _expected(overall: float, skills: Mapping[str, Skill]) -> ChangeErrors:
    expected = {
        name: (skill.pairs * _relative(skill) + PRIOR_PAIRS * overall) / (skill.pairs + PRIOR_PAIRS)
        for name, skill in skills.items()
        if skill.pairs
    }
    return ChangeErrors(overall, expected, dict(skills))


def _relative(skill: Skill) -> float:
    """Error in units of the changes, at most 1: then the label is as good as none."""
    return min(1.0, skill.error / skill.trivial)
