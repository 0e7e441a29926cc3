"""How wrong a teacher's changes of force are expected to be: over all data, and for each composition.

Not of the paper. A teacher that knows a crystal may know little about its defects.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd
from ase import Atoms
from ase.formula import Formula

from mdl_physpretrain.teacher.changes import MOST_PARTNERS, Skill, frame_pairs, skills_by_composition
from mdl_physpretrain.teacher.engines import Teacher

__all__ = ["ChangeErrors", "best_of_two", "measured_change_errors"]

#: Few pairs of frames say little: the error over all data counts as so many pairs of each composition.
PRIOR_PAIRS = MOST_PARTNERS


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
    if not pairs:
        return None
    whole, skills = skills_by_composition(teacher, structures, pairs)
    return _expected(_relative(whole), skills) if whole.trivial > 0 else None


def best_of_two(one: ChangeErrors, other: ChangeErrors, compositions: Collection[str]) -> ChangeErrors:
    """Errors of two potentials, measured on the same frames, of which ``other`` is asked about some compositions."""
    asked = {name: other if name in compositions else one for name in sorted(one.skills.keys() | other.skills.keys())}
    chosen = {name: errors.skills[name] for name, errors in asked.items() if name in errors.skills}
    numbers = {name: skill.pairs * len(Formula(name)) for name, skill in chosen.items()}
    error, trivial = (
        sum(number * getattr(chosen[name], kind) for name, number in numbers.items()) for kind in ("error", "trivial")
    )
    return _expected(min(1.0, error / trivial), chosen)


def _expected(overall: float, skills: Mapping[str, Skill]) -> ChangeErrors:
    expected = {
        name: (skill.pairs * _relative(skill) + PRIOR_PAIRS * overall) / (skill.pairs + PRIOR_PAIRS)
        for name, skill in skills.items()
        if skill.trivial > 0
    }
    return ChangeErrors(overall, expected, dict(skills))


def _relative(skill: Skill) -> float:
    """Error in units of the changes, at most 1: then the label is as good as none."""
    return min(1.0, skill.error / skill.trivial)
