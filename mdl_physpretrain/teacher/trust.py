"""Weighting of a teacher near the data by its measured skill there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd
from ase import Atoms

from mdl_physpretrain.graphs.bonds import core_ends, nearest_distances
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.sum import Sum
from mdl_physpretrain.potentials.zbl import ZBL
from mdl_physpretrain.teacher.changes import Skill, change_skill, frame_pairs
from mdl_physpretrain.teacher.engines import Teacher

__all__ = ["compare_teachers", "trusted_teacher"]


def compare_teachers(teachers: Mapping[str, Teacher], structures: Sequence[Atoms]) -> pd.DataFrame:
    """Skills of several teachers on the same changes between frames, the best first; NaN where none show any."""
    pairs = frame_pairs(structures)
    rows = [
        {"teacher": name, **change_skill(teacher, structures, pairs).to_dict()} for name, teacher in teachers.items()
    ]
    table = pd.DataFrame(rows)
    table.loc[table["pairs"] == 0, ["error", "trivial"]] = float("nan")  # rounding orders no teachers
    return table.sort_values("error", kind="stable", ignore_index=True)


def trusted_teacher(
    teacher: EnergyModel, structures: Sequence[Atoms], *, skill: Skill | None = None
) -> tuple[EnergyModel, Skill]:
    """The teacher, damped to what the reference's own changes support (its core stays), and its skill.

    With ``t`` the trust of :func:`mdl_physpretrain.teacher.changes.change_skill`, the result is ``t * teacher + (1 -
    t) * ZBL``: a teacher that is worse than predicting no change teaches the core alone, one that is right all it
    knows. For anchored labels, in which only changes from the parent count. The teacher must have a core of its own;
    better structures are those that it was not fitted to. Without two frames of the same atoms it stays as it is,
    unless its examination found that it teaches its core only.
    """
    skill = change_skill(teacher, structures) if skill is None else skill
    forces = (teacher.metadata.get("examination") or {}).get("forces") or {}
    if skill.pairs == 0 and forces.get("teaches", "all") != "all":
        skill = replace(skill, trust=0.0)
    elif skill.pairs == 0 or skill.trust >= 1:
        return teacher, skill
    core = ZBL(ends=core_ends(nearest_distances(structures, min(teacher.cutoff, 6.0)))).to(teacher.dtype)
    damped = Sum([teacher, core], factors=[skill.trust, 1 - skill.trust])
    damped.metadata = {**teacher.metadata, "trust": skill.to_dict()}
    return damped.eval(), skill
