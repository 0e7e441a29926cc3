"""Probe of stiffness: changes of force between frames of the same atoms, beside those of the reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from ase import Atoms

from mdl_physpretrain.probes.base import Answer, Probe, Subject, Tables
from mdl_physpretrain.probes.page import PagePart, by_arm, number_table
from mdl_physpretrain.probes.single_points import Potential, energies_and_forces
from mdl_physpretrain.structures.labels import get_labels
from mdl_physpretrain.teacher.changes import frame_pairs, skill_of_forces

__all__ = ["Stiffness", "change_errors"]

FEWEST_PAIRS = 10  # of frames, for an answer
NOTHING = {"stiffness": np.nan, "error": np.nan, "trivial": np.nan, "pairs": 0}
COLUMNS = {
    "stiffness": ("Stiffness", ""),
    "error": ("Error of changes", "eV/Å"),
    "trivial": ("Of predicting none", "eV/Å"),
    "pairs": ("Pairs of frames", ""),
}


def change_errors(potential: Potential, structures: Sequence[Atoms]) -> dict[str, Any] | None:
    """How a potential's forces change between frames of the same atoms, beside the labels' changes.

    Parameters
    ----------
    potential
        An :class:`EnergyModel`, an ASE calculator, or a function that makes one.
    structures
        Those with forces count. Frames of the same atoms that lie within 0.6 Å of one another make the pairs
        (:func:`mdl_physpretrain.teacher.changes.frame_pairs`).

    Returns
    -------
    dict or None
        ``stiffness``: size of the potential's changes relative to the labels' along them, by least squares, 1 for a
        perfect potential, below it for one that is too soft. ``error``, ``trivial``: mean absolute errors of a
        component of the change, and of predicting none, eV/Å. ``pairs``: their number. ``None`` where no two
        structures are frames of the same atoms, forces change between none of these, or the potential fails on one of
        every two.

    Raises
    ------
    StructureError
        If the potential fails on all of them.

    References
    ----------
    B. Deng et al., npj Comput. Mater. 11, 9 (2025): potentials whose forces are too small away from equilibrium,
    by the slope of predicted over true forces; noise of the labels does not lower the measure that is taken here.
    """
    usable = [atoms for atoms in structures if get_labels(atoms).forces is not None]
    pairs = frame_pairs(usable)
    if not pairs:
        return None
    needed = sorted({k for pair in pairs for k in (pair.first, pair.second)})
    _, forces = energies_and_forces(potential, [usable[k] for k in needed])
    taught = {k: part for k, part in zip(needed, forces, strict=True) if np.isfinite(part).all()}
    pairs = [pair for pair in pairs if pair.first in taught and pair.second in taught]
    if not pairs:
        return None
    skill = skill_of_forces(taught, usable, pairs)
    return {name: getattr(skill, name) for name in COLUMNS} if skill.pairs else None


class Stiffness(Probe):
    """Whether forces change as much as the reference's from frame to frame: what is too soft melts in MD."""

    name = "stiffness"
    question = "as stiff as the reference"
    applies_to = "potential"
    needs = frozenset({"labels"})
    files = {"stiffness": tuple(COLUMNS)}  # noqa: RUF012 - a class variable of the base
    numbers = tuple(COLUMNS)
    title = "Stiffness"
    answer_place, page_place = 52, 12

    def tables(self, subject: Subject) -> dict[str, pd.DataFrame]:
        row = change_errors(subject.potential, subject.first_split("test", "val", "train"))
        return {"stiffness": pd.DataFrame([row or NOTHING])}

    def answer(self, tables: Tables) -> Answer | None:
        table = tables.get("stiffness")
        if table is None or not len(table):
            return None
        if not table["pairs"].max():
            return "not judged", "forces change between no two structures of the same atoms that it can compute"
        pairs, error, trivial = int(table["pairs"].min()), table["error"].mean(), table["trivial"].mean()
        words = f"{table['stiffness'].mean():.2f} ({pairs} pairs of frames; error {error:.3g} of {trivial:.3g} eV/Å)"
        return ("value" if pairs >= FEWEST_PAIRS else "not judged"), words

    def page(self, tables: Tables, arms: Sequence[str], heading: str) -> PagePart | None:
        table = tables.get("stiffness")
        if table is None or not len(table) or not table["pairs"].max():
            return None
        rows = [{"arm": arm, **group[list(COLUMNS)].mean().to_dict()} for arm, group in by_arm(table, arms)]
        summary = pd.DataFrame(rows)
        return PagePart(
            table=number_table(summary, heading, COLUMNS, "stiffness"),
            summary=summary,
            table_title="Changes of force between frames of the same atoms",
            text="Structures that are frames of the same atoms show how forces change with a displacement, whatever a "
            "potential's constant errors are. Stiffness is the size of its changes relative to the reference's along "
            "them (least squares, mean over seeds): well below 1 a potential is too soft and may melt too early.",
        )
