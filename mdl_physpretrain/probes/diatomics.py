"""Probe of diatomic curves: energy of an isolated pair of atoms, which shows the repulsive core."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from ase import Atoms
from pydantic import Field

from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.option_types import Section
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.probes.base import Answer, Probe, Subject, Tables
from mdl_physpretrain.probes.curve_flags import flag_answer, flag_counts
from mdl_physpretrain.probes.diatomic_flags import diatomic_flags
from mdl_physpretrain.probes.page import (
    INK,
    MAX_PANELS,
    MUTED,
    Cell,
    Column,
    Figure,
    HtmlTable,
    Legend,
    PagePart,
    Panel,
    Styles,
    arm_legend,
    seed_lines,
)
from mdl_physpretrain.probes.pairs import element_pairs, pairs_together, symbols_of
from mdl_physpretrain.probes.single_points import Potential, energies_and_forces
from mdl_physpretrain.structures.elements import FEW_ELEMENTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["DISTANCES", "Diatomics", "diatomic_curve"]

DISTANCES = np.round(np.linspace(0.4, 6.0, 141), 4)  # Å
FLAGS = {  # column -> heading; more than zero is bad
    "hole": "Hole",
    "spurious_minima": "Spurious minima",
    "discontinuity": "Discontinuity",
    "missing_repulsion": "Missing repulsion",
    "failed_points": "Not finite",
}
BOX_MARGIN = 20.0  # Å between a pair and its images: beyond the cutoff of any local potential


def diatomic_curve(
    potential: Potential, pair: tuple[str, str] | str, r: Sequence[float] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Energy and force of a pair of atoms in vacuum at given distances.

    A calculator that cannot do with two atoms without a cell (CHGNet, for
    one) gets them in a cubic periodic box that leaves 20 Å to the images.

    Parameters
    ----------
    potential
        An :class:`EnergyModel`, an ASE calculator, or a function that makes
        one.
    pair
        Two symbols, ``("Mn", "O")`` or ``"Mn-O"``.
    r
        Distances in Å, shape (n,).

    Returns
    -------
    energy
        Relative to that at the largest distance (at which there is one), eV,
        shape (n,); NaN where the potential fails.
    force
        On the second atom along the direction away from the first, eV/Å,
        shape (n,): positive means repulsion.

    Raises
    ------
    ConfigError
        If the pair or a distance makes no sense.
    StructureError
        If the potential fails at every distance.

    References
    ----------
    Fig. 1, 3 and 6a of the paper.
    """
    symbols = symbols_of(pair)
    distances = np.asarray(r, dtype=np.float64)
    if distances.ndim != 1 or not len(distances) or not np.isfinite(distances).all() or distances.min() <= 0:
        raise ConfigError("distances of a diatomic curve must be positive and finite, in Å")
    molecules = [_molecule(symbols, d) for d in distances]
    if not isinstance(potential, EnergyModel) and _needs_box(potential, molecules):
        for atoms in molecules:
            atoms.cell[:] = np.eye(3) * (distances.max() + BOX_MARGIN)
            atoms.pbc = True
    energy, forces = energies_and_forces(potential, molecules)
    finite = np.flatnonzero(np.isfinite(energy))
    zero = energy[finite[np.argmax(distances[finite])]]
    return energy - zero, np.array([f[1, 0] for f in forces])


def _needs_box(potential: Potential, molecules: Sequence[Atoms]) -> bool:
    """Whether a calculator fails on molecules without a cell, by the nearest, the middle and the farthest."""
    try:
        energies_and_forces(potential, [molecules[k] for k in (0, len(molecules) // 2, -1)])
    except StructureError:
        return True
    return False


def _forces(potential: Potential, pair: tuple[str, str], r: np.ndarray) -> np.ndarray:
    return diatomic_curve(potential, pair, r)[1]


def _molecule(symbols: tuple[str, str], distance: float) -> Atoms:
    atoms = Atoms(list(symbols), [[0.0, 0.0, 0.0], [distance, 0.0, 0.0]])
    atoms.info["structure_id"] = f"{'-'.join(symbols)} at {distance:g} Å"
    return atoms


class Diatomics(Probe):
    """Curves of all pairs of elements; no pair may have a flag."""

    name = "diatomics"
    question = "two atoms repel"
    applies_to = "potential"
    files = {"diatomics": ("pair", "r", "energy"), "diatomic_flags": ("pair", "ok")}  # noqa: RUF012
    expected = frozenset({"diatomics"})
    flags = ("hole", "discontinuity", "missing_repulsion", "ok")
    title = "Diatomic curves"
    answer_place, page_place = 30, 20

    class Options(Section):
        """Which pairs."""

        diatomic_pairs: Literal["auto", "all", "together"] = Field(
            default="auto",
            description="Two atoms alone: all pairs of elements, or those that one structure has both of; auto: all of "
            "up to 8 elements.",
        )

    def tables(self, subject: Subject) -> dict[str, pd.DataFrame]:
        curves, flags = [], []
        pairs = element_pairs(subject.elements)
        chosen = self.options.diatomic_pairs
        if chosen == "together" or (chosen == "auto" and len(subject.elements) > FEW_ELEMENTS):
            met = set(pairs_together([atoms for split in subject.splits.values() for atoms in split]))
            pairs = [pair for pair in pairs if pair in met]
        for pair in pairs:
            name = "-".join(pair)
            energy = force = np.full(len(DISTANCES), np.nan)
            try:
                energy, force = diatomic_curve(subject.potential, pair, DISTANCES)
                forces_at = partial(_forces, subject.potential, pair)
                flags.append({"pair": name, **diatomic_flags(pair, DISTANCES, energy, force, forces_at)})
            except (ConfigError, StructureError) as error:
                if not subject.flag_failures:
                    raise
                warnings.warn(f"{subject.name}: curve of {name}: {error}", stacklevel=2)
                flags.append({"pair": name, "ok": False, "failed_points": len(DISTANCES)})
            curves.append(pd.DataFrame({"pair": name, "r": DISTANCES, "energy": energy, "force": force}))
        return {"diatomics": pd.concat(curves, ignore_index=True), "diatomic_flags": pd.DataFrame(flags)}

    def answer(self, tables: Tables) -> Answer | None:
        return flag_answer(tables.get("diatomic_flags"), "pair", "pairs")

    def page(self, tables: Tables, arms: Sequence[str], heading: str) -> PagePart | None:
        curves, flags = tables.get("diatomics"), tables.get("diatomic_flags")
        if curves is None and flags is None:
            return None
        part = PagePart(
            caption="Energy of two atoms alone, zero at the largest distance (Fig. 6a of the paper); thin lines are "
            "seeds. The vertical axis is cut: a curve that leaves it downwards at short distance is a hole."
            + (
                ""
                if heading == "Potential"
                else " The teacher’s curve, where shown, is that of a pair in the surroundings of the data."
            ),
            curves="diatomic_curves",
        )  # fmt: skip
        if curves is not None:
            part.figure = partial(_figure, curves, tables.get("curves"), arms)
            part.saved["diatomic_curves"] = curves
        if flags is not None:
            several = heading == "Arm" and flags["seed"].nunique() > 1
            part.summary = flag_counts(flags, arms, tuple(FLAGS), by="pair")
            part.table = _flag_table(part.summary, heading)
            part.table_title, part.heading = "Flags of the diatomic curves", "Flags"
            part.text = (
                "Hole: on the way in the energy rises and then falls again. Spurious minima: wells beyond the first. "
                "Discontinuity: a jump of energy or force between neighbouring distances. Missing repulsion: at half a "
                "bond length less than 3 eV above the well." + (" Counts are over seeds." if several else "")
            )
            part.saved["diatomic_flags_each"] = flags
        return part


def _flag_table(summary: pd.DataFrame, heading: str) -> HtmlTable:
    """Per potential and pair, how many curves carry each flag."""
    titles = (heading, "Pair", *FLAGS.values(), "Verdict")
    rows = []
    for row in summary.to_dict("records"):
        n, sound = row["curves"], row["ok"] == row["curves"]
        cells = [Cell(row["arm"], arm=row["arm"]), Cell(row["pair"])]
        for name in FLAGS:
            hits = row[name]
            words = "no" if not hits else "yes" if n == 1 else f"{hits} of {n}"
            cells.append(Cell(words, css="flag" if hits else "zero", key=hits))
        cells.append(Cell("no flag" if sound else "flagged", css="good" if sound else "flag", key=int(sound)))
        rows.append(cells)
    columns = [Column(title, numeric=False) for title in titles]
    return HtmlTable(columns, rows, "diatomic_flags", sortable=len(rows) > 6, css="dense" if len(rows) > 12 else "")


def _figure(table: pd.DataFrame, curves: pd.DataFrame | None, arms: Sequence[str], styles: Styles) -> Figure:
    """Fig. 6a: energy of two atoms alone, by arm; the teacher beside it."""
    present = [a for a in arms if (table["arm"] == a).any()]
    teacher = "teacher" in set(table["arm"]) - set(present)
    panels = []
    for pair in list(dict.fromkeys(table["pair"]))[:MAX_PANELS]:
        part = table[table["pair"] == pair]
        curve = part[part["arm"] == "teacher"].rename(columns={"energy": "total"}) if teacher else curves
        if curve is not None:
            curve = curve[curve["pair"] == pair].sort_values("r")
        panels.append(Panel(str(pair), partial(_paint, table=part, teacher=curve, arms=present, styles=styles)))
    legend = arm_legend(present, styles)
    if teacher or curves is not None:
        legend.append(Legend("teacher" if teacher else "teacher, in the data's surroundings", INK, "dashed"))
    return Figure("Energy of a pair of atoms", panels, legend)


def _paint(ax: Axes, table: pd.DataFrame, teacher: pd.DataFrame | None, arms: Sequence[str], styles: Styles) -> None:
    ax.axhline(0, color=MUTED, linewidth=0.7)
    last = table["r"] == table["r"].max()  # zero where the atoms are farthest apart
    zero = table[last].groupby(["arm", "seed"])["energy"].mean().rename("zero")
    table = table.join(zero, on=["arm", "seed"])
    table = table.assign(energy=table["energy"] - table["zero"])
    drawn = seed_lines(ax, table, arms, styles, "r", "energy")
    lowest = [-1.0, *(float(np.nanmin(wide.to_numpy(float))) for wide in drawn.values())]
    if teacher is not None and len(teacher):
        energy = teacher["total"].to_numpy(float)
        ax.plot(teacher["r"], energy - energy[-1], color=INK, linestyle="--", linewidth=1.4)
        lowest.append(float(np.nanmin(energy - energy[-1])))
    low = max(1.15 * min(lowest), -25.0)
    ax.set(ylim=(low, float(np.clip(-1.5 * low, 5, 20))), xlim=(table["r"].min(), min(6.0, table["r"].max())))
    ax.set(xlabel="distance (Å)", ylabel="energy (eV)")
