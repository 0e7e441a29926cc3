"""Figure of the angles between the forces of networks and EAM (Fig. B.1)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mdl_physpretrain.probes.force_alignment import RANDOM, null_density
from mdl_physpretrain.report.drawing import INK, ArmStyle, Figure, Legend, Panel, arm_legend, arm_styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["alignment_figure"]

WIDTH = 7.5  # of a bin, degrees
MANY = 4  # with more arms, the lines of single seeds would hide those of the arms
MAX_ELEMENTS = 11  # panels beside the one of all atoms


def alignment_figure(angles: pd.DataFrame, styles: dict[str, ArmStyle] | None = None) -> Figure | None:
    """Distributions of the angle by arm, for all atoms and by element; ``None`` where no atom has an angle."""
    table = angles[angles["angle"].notna()]
    if table.empty:
        return None
    if "arm" not in table:
        table = table.assign(arm="all")
    arms = [str(arm) for arm in dict.fromkeys(table["arm"])]
    styles = styles or arm_styles(arms)
    parts = {"All atoms": table}
    elements = sorted(set(table["element"]))
    if len(elements) > 1:
        parts |= {e: table[table["element"] == e] for e in elements[:MAX_ELEMENTS]}
    panels = [Panel(title, partial(_panel, table=part, styles=styles)) for title, part in parts.items()]
    legend = []
    for arm, entry in zip(arms, arm_legend(arms, styles), strict=True):
        against = table.loc[table["arm"] == arm, "against"].unique().tolist() if "against" in table else []
        legend.append(replace(entry, label=f"{arm} / {against[0]}") if len(against) == 1 else entry)
    legend.append(Legend(RANDOM, INK, "dotted"))
    return Figure("Angle between the forces of network and EAM", panels, legend, size=(3.8, 2.6))


def _panel(ax: Axes, table: pd.DataFrame, styles: dict[str, ArmStyle]) -> None:
    edges = np.linspace(0, 180, round(180 / WIDTH) + 1)
    centres = (edges[1:] + edges[:-1]) / 2

    def line(part: pd.DataFrame, **look: Any) -> None:
        ax.plot(centres, 100 * np.histogram(part["angle"], edges)[0] / len(part), **look)

    few_arms = table["arm"].nunique() <= MANY
    for arm, group in table.groupby("arm", sort=False):
        style = styles[str(arm)]
        seeds = [seed for _, seed in group.groupby("seed")] if "seed" in group and few_arms else []
        for seed in seeds if len(seeds) > 1 else []:
            line(seed, color=style.colour, linewidth=0.7, alpha=0.35)
        line(group, color=style.colour, linestyle=style.line, linewidth=1.9)
    x = np.linspace(0, 180, 181)
    ax.plot(x, 100 * WIDTH * null_density(x), color=INK, linestyle=":", linewidth=1.5)
    ax.set(xlabel="angle between the forces (°)", ylabel=f"atoms (% per {WIDTH:g}°)", xlim=(0, 180))
    ax.set_ylim(bottom=0)
    ax.set_xticks(range(0, 181, 45))
