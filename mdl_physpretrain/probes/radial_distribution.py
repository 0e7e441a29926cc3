"""Probe of radial distribution functions: partial RDFs of trajectories and their errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd
from ase import Atoms
from pydantic import Field

from mdl_physpretrain.dynamics.traces import trajectory_name
from mdl_physpretrain.dynamics.trajectories import trajectory_frames
from mdl_physpretrain.option_types import Positive, Section
from mdl_physpretrain.probes.base import Answer, Probe, Simulated, Tables
from mdl_physpretrain.probes.page import (
    ALL,
    DASH,
    INK,
    MUTED,
    REFERENCE,
    Cell,
    Column,
    Figure,
    HtmlTable,
    Legend,
    PagePart,
    Styles,
    by_arm,
    number,
    panels_by,
    plural,
    seed_lines,
    spread,
)
from mdl_physpretrain.probes.pair_distribution import rdf, rdf_error
from mdl_physpretrain.recipe import CHECK
from mdl_physpretrain.statistics.seeds import mean_std

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["RadialDistribution", "mean_rdf"]

SETTLING = 0.2  # share of a trajectory that is not averaged over
MAX_PAIR_COLUMNS = 10  # of the table on the page


class RadialDistribution(Probe):
    """RDFs of trajectories, and their errors against reference trajectories, where there are any."""

    name = "rdf"
    question = "structure as in the reference"
    applies_to = "frames"
    compares = True
    files = {  # noqa: RUF012
        "rdf": ("pair", "r", "g", "structure_id"),
        "rdf_errors": ("pair", "error", "structure_id", "n_frames"),
    }
    numbers = ("r", "g", "error", "error_matbench", "n_frames")
    title = "Radial distribution"
    answer_place, page_place = 60, 10

    class Options(Section):
        """Range."""

        r_max: Positive = Field(default=CHECK.r_max, description="Of the RDFs of trajectories on disk, Å.")

    def kinds(self, *, references: bool) -> tuple[str, ...]:
        return ("rdf", "rdf_errors") if references else ("rdf",)

    def tables(self, subject: Simulated) -> dict[str, pd.DataFrame]:
        """``rdf`` (the mean over structures is ``"all"``) and ``rdf_errors``.

        Where there are reference trajectories, only structures with one count.
        """
        assert subject.trajectories is not None
        curves, errors = [], []
        for atoms in subject.structures:
            name = str(atoms.info["structure_id"])
            if subject.references and name not in subject.references:
                continue
            frames = list(trajectory_frames(subject.trajectories / trajectory_name(name)))
            curve = self._settled(frames)
            curves.append(curve.assign(structure_id=name))
            if subject.references:
                error = rdf_error(curve, self._settled(subject.references[name]))
                errors.append(error.assign(structure_id=name, n_frames=len(frames)))
        tables = {"rdf": _with_mean(curves)}
        return tables | ({"rdf_errors": pd.concat(errors, ignore_index=True)} if errors else {})

    def reference_tables(self, references: Mapping[str, Sequence[Atoms]]) -> dict[str, pd.DataFrame]:
        curves = [self._settled(frames).assign(structure_id=name) for name, frames in references.items()]
        return {"rdf": _with_mean(curves).assign(arm=REFERENCE, seed=0)}

    def _settled(self, frames: Sequence[Atoms]) -> pd.DataFrame:
        return rdf(frames, r_max=self.options.r_max, skip=int(SETTLING * len(frames)))

    def answer(self, tables: Tables) -> Answer | None:
        table = tables.get("rdf_errors")
        if table is None or not len(table):
            return None
        every = table[table["pair"] == ALL]["error"]
        words = f"RDF error {every.mean():.3g} (mean of {len(every)} trajectories)"
        if "error_matbench" in table:
            matbench = pd.to_numeric(table.loc[table["pair"] == ALL, "error_matbench"], errors="coerce")
            words += f"; {matbench.mean():.3g} % in Matbench Discovery's normalisation"
        return "value", words

    def page(self, tables: Tables, arms: Sequence[str], heading: str) -> PagePart | None:
        curves, errors = tables.get("rdf"), tables.get("rdf_errors")
        if curves is None and errors is None:
            return None
        part = PagePart(
            caption="Radial distribution function of each pair of elements, averaged over the frames of the "
            "trajectories (Fig. 5 of the paper); thin lines are seeds. A peak at short distance is an overlap or a "
            "collapse.",
            curves="rdf_curves",
        )
        if curves is not None:
            means = mean_rdf(curves)
            part.figure = partial(_figure, means, arms)
            part.saved["rdf_curves"] = means
        if errors is not None:
            part.summary = _summary(errors, arms)
            part.table, part.table_title = _error_table(part.summary, heading), "Errors of the radial distribution"
            part.text = (
                "Difference from the reference trajectory, ∫|g − g(ref)| dr / ∫g(ref) dr (Matbench Discovery: over "
                "∫|g(ref) − 1| dr, all pairs together), as mean ± standard deviation "
                "over seeds where there are several. Failed trajectories end early: the fewest frames that went into a "
                "number are given."
            )
        return part


def mean_rdf(table: pd.DataFrame) -> pd.DataFrame:
    """``arm, seed, pair, r, g`` as means over structures, taken from the rows that hold them where there are any."""
    if "structure_id" in table and (table["structure_id"] == ALL).any():
        table = table[table["structure_id"] == ALL]
    return table.groupby(["arm", "seed", "pair", "r"], sort=False, as_index=False)[["g"]].mean()


def _with_mean(curves: Sequence[pd.DataFrame]) -> pd.DataFrame:
    together = pd.concat(curves, ignore_index=True)
    mean = together.groupby(["pair", "r"], as_index=False, sort=False)["g"].mean().assign(structure_id=ALL)
    return pd.concat([together, mean], ignore_index=True).round(5)


def _summary(table: pd.DataFrame, arms: Sequence[str]) -> pd.DataFrame:
    """``arm, pair, seeds, structures, error, error_std`` (over seeds), and the smallest ``n_frames``."""
    structures = table["structure_id"]
    n = structures[structures != ALL].groupby(table["arm"]).nunique()
    means = table[structures == ALL] if (structures == ALL).any() else table
    rows = []
    for arm, group in by_arm(means, arms):
        frames = pd.to_numeric(table.loc[table["arm"] == arm, "n_frames"]).min()
        for pair, part in group.groupby("pair", sort=False):
            values = pd.to_numeric(part["error"], errors="coerce").groupby(part["seed"]).mean()
            mean, std, seeds = mean_std(values)
            row = {"arm": arm, "pair": pair, "seeds": seeds, "structures": int(n.get(arm, 0))}
            matbench = part["error_matbench"] if "error_matbench" in part else pd.Series(dtype=float)
            row["error_matbench"] = float(pd.to_numeric(matbench, errors="coerce").mean())
            rows.append(row | {"error": mean, "error_std": std, "n_frames": frames})
    return pd.DataFrame(rows)


def _error_table(summary: pd.DataFrame, heading: str) -> HtmlTable:
    """Arms down, pairs across."""
    pairs = sorted(dict.fromkeys(summary["pair"]), key=lambda pair: pair != ALL)[:MAX_PAIR_COLUMNS]
    columns = [Column(heading, numeric=False), *(Column("All pairs" if p == ALL else p) for p in pairs)]
    columns += [Column("All pairs, Matbench", "%"), Column("Frames", "fewest")]
    lowest = summary.loc[summary["pair"] == ALL, "error"].min()
    rows = []
    for arm, group in summary.groupby("arm", sort=False):
        by_pair = {row["pair"]: row for row in group.to_dict("records")}
        n = int(group["structures"].iloc[0])
        cells = [Cell(str(arm), plural(n, "structure") if n else "", arm=str(arm))]
        for pair in pairs:
            row = by_pair.get(pair)
            best = row is not None and pair == ALL and row["error"] == lowest
            cells.append(Cell(spread(row["error"], row["error_std"]) if row else DASH, css="best" if best else ""))
        cells.append(Cell(number(by_pair.get(ALL, {}).get("error_matbench"), 1)))
        rows.append([*cells, Cell(number(group["n_frames"].min(), 0))])
    return HtmlTable(columns, rows, "rdf_errors")


def _figure(table: pd.DataFrame, arms: Sequence[str], styles: Styles) -> Figure:
    """Fig. 5 of the paper: one panel per pair, the reference dashed."""
    panels, legend = panels_by("pair", table, arms, styles, _paint)
    if (table["arm"] == REFERENCE).any():
        legend.append(Legend("reference trajectory", INK, "dashed"))
    return Figure("Radial distribution function", panels, legend, size=(3.8, 2.4))


def _paint(ax: Axes, table: pd.DataFrame, arms: Sequence[str], styles: Styles) -> None:
    ax.axhline(1, color=MUTED, linewidth=0.7)
    drawn = seed_lines(ax, table, arms, styles, "r", "g", width=0.6)
    highest = max([2.0, *(float(wide.mean(axis=1).max()) for wide in drawn.values())])
    reference = table[table["arm"] == REFERENCE].sort_values("r")
    ax.plot(reference["r"], reference["g"], color=INK, linestyle="--", linewidth=1.4)
    if len(reference):  # a collapsed structure must not flatten all others
        peak = float(reference["g"].max())
        highest = max(min(highest, 2.5 * peak), peak)
    ax.set(xlabel="distance (Å)", ylabel="g(r)", ylim=(0, 1.06 * highest), xlim=(0, table["r"].max()))
