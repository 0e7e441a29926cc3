"""Figures of the probes beside the MD verdict: radial distribution functions and compression curves."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mdl_physpretrain.report.drawing import INK, MUTED, ArmStyle, Figure, Legend, Panel, arm_legend
from mdl_physpretrain.report.read import RunData

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ALL", "MAX_PAIRS", "REFERENCE", "compression_figure", "mean_rdf", "rdf_figure"]

MAX_PAIRS = 15  # panels per figure; the tables hold all
ALL = "all"  # structure_id of means over structures, pair of means over pairs
REFERENCE = "reference"  # arm of the reference trajectory
HIGHEST = 12.0  # eV/atom, of compression curves


def mean_rdf(table: pd.DataFrame) -> pd.DataFrame:
    """``arm, seed, pair, r, g`` as means over structures, taken from the rows that hold them where there are any."""
    if "structure_id" in table and (table["structure_id"] == ALL).any():
        table = table[table["structure_id"] == ALL]
    return table.groupby(["arm", "seed", "pair", "r"], sort=False, as_index=False)["g"].mean()


def rdf_figure(run: RunData, styles: dict[str, ArmStyle]) -> Figure | None:
    """Fig. 5 of the paper: one panel per pair, the reference dashed."""
    if run.rdf is None:
        return None
    table = mean_rdf(run.rdf)
    arms = [arm for arm in run.arms if (table["arm"] == arm).any()]
    panels = [
        Panel(str(pair), partial(_rdf_panel, table=table[table["pair"] == pair], arms=arms, styles=styles))
        for pair in list(dict.fromkeys(table["pair"]))[:MAX_PAIRS]
    ]
    legend = arm_legend(arms, styles)
    if (table["arm"] == REFERENCE).any():
        legend.append(Legend("reference trajectory", INK, "dashed"))
    return Figure("Radial distribution function", panels, legend, size=(3.8, 2.4))


def _rdf_panel(ax: Axes, table: pd.DataFrame, arms: list[str], styles: dict[str, ArmStyle]) -> None:
    ax.axhline(1, color=MUTED, linewidth=0.7)
    highest = [2.0]
    for arm in arms:
        wide = table[table["arm"] == arm].pivot_table(index="r", columns="seed", values="g")
        if wide.empty:
            continue
        for seed in wide if wide.shape[1] > 1 else []:
            ax.plot(wide.index, wide[seed], color=styles[arm].colour, linewidth=0.6, alpha=0.35)
        mean = wide.mean(axis=1)
        ax.plot(mean.index, mean, color=styles[arm].colour, linestyle=styles[arm].line)
        highest.append(float(mean.max()))
    known = table[table["arm"] == REFERENCE].sort_values("r")
    ax.plot(known["r"], known["g"], color=INK, linestyle="--", linewidth=1.4)
    if len(known):  # a collapsed structure must not flatten all others
        highest = [min(max(highest), 2.5 * float(known["g"].max())), float(known["g"].max())]
    ax.set(xlabel="distance (Å)", ylabel="g(r)", ylim=(0, 1.06 * max(highest)), xlim=(0, table["r"].max()))


def compression_figure(run: RunData, styles: dict[str, ArmStyle]) -> Figure | None:
    """Energy against the length of the cell, one panel per structure, those with flags first."""
    table = run.compression
    if table is None:
        return None
    arms = [arm for arm in run.arms if (table["arm"] == arm).any()]
    flags = run.compression_flags
    flagged = pd.Series(dtype=int) if flags is None else (~flags["ok"]).groupby(flags["structure_id"]).sum()
    names = sorted(dict.fromkeys(table["structure_id"]), key=lambda name: -int(flagged.get(name, 0)))
    panels = []
    for name in names[:MAX_PAIRS]:
        n = int(flagged.get(name, 0))
        badge = None if flags is None else (f"{n} flagged", False) if n else ("no flag", True)
        part = table[table["structure_id"] == name]
        panels.append(Panel(str(name), partial(_compression_panel, table=part, arms=arms, styles=styles), badge))
    return Figure("Energy of a compressed cell", panels, arm_legend(arms, styles))


def _compression_panel(ax: Axes, table: pd.DataFrame, arms: list[str], styles: dict[str, ArmStyle]) -> None:
    ax.axhline(0, color=MUTED, linewidth=0.7)
    ax.axvline(1, color=MUTED, linewidth=0.7, linestyle=":")
    low, high = -0.2, 1.0
    for arm in arms:
        wide = table[table["arm"] == arm].pivot_table(index="scale", columns="seed", values="energy_per_atom")
        if wide.empty:
            continue
        for seed in wide if wide.shape[1] > 1 else []:
            ax.plot(wide.index, wide[seed], color=styles[arm].colour, linewidth=0.7, alpha=0.4)
        ax.plot(wide.index, wide.mean(axis=1), color=styles[arm].colour, linestyle=styles[arm].line)
        values = wide.to_numpy(float)
        values = values[np.isfinite(values)]
        low, high = min(low, *values) if len(values) else low, max(high, *values) if len(values) else high
    low = max(low, -HIGHEST)
    ax.set(
        ylim=(1.15 * low, min(1.05 * high, HIGHEST)),
        xlabel="length of the cell (1: as given)",
        ylabel="energy (eV/atom)",
    )
