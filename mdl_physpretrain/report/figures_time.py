"""Figure of the time to failure: survival curves, and every failure by its kind."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mdl_physpretrain.report.read import RunData
from mdl_physpretrain.report.style import MUTED, ArmStyle, Figure, Legend, Panel, arm_legend
from mdl_physpretrain.report.survival import Timed, curve, timed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["MANY", "failure_figure"]

REASONS = (
    ("overlap", "o", "overlap"),
    ("lindemann", "D", "Lindemann"),
    ("broken", "X", "NaN or explosion"),
    ("other", "P", "other"),
)
MANY = 4  # with more arms, the lines of single seeds would hide those of the arms


def failure_figure(run: RunData, styles: dict[str, ArmStyle]) -> Figure | None:
    """Share of trajectories still physical against time, and the time at which each was lost; by condition."""
    parts = timed(run)
    panels, present = [], set()
    for part in parts:
        arms = [a for a in run.arms if (part.table["arm"] == a).any()]
        present |= set(part.table["outcome"])
        name = f" ({part.condition})" if len(parts) > 1 else ""
        panels += [
            Panel(f"Still physical{name}", partial(_survival, part=part, arms=arms, styles=styles)),
            Panel(f"Time of failure{name}", partial(_strip, part=part, arms=arms, styles=styles)),
        ]
    if not panels:
        return None
    legend = arm_legend(run.arms, styles)
    legend += [Legend(label, MUTED, "marker", marker) for key, marker, label in REASONS if key in present]
    return Figure("When trajectories fail", panels, legend, size=(5.0, 3.3), columns=2)


def _until(table: pd.DataFrame, length: float) -> pd.DataFrame:
    """The curve with its last value carried on to the end of the axis, if somebody was watched for so long."""
    last = table.iloc[-1]
    if last["time"] < length and last["survival"] <= 0:
        table = pd.concat([table, last.to_frame().T.assign(time=length)], ignore_index=True)
    return table.astype(dict.fromkeys(("time", "survival", "low", "high"), float))


def _survival(ax: Axes, part: Timed, arms: list[str], styles: dict[str, ArmStyle]) -> None:
    for arm in arms:
        group, style = part.table[part.table["arm"] == arm], styles[arm]
        seeds = [g for _, g in group.groupby("seed")] if len(arms) <= MANY else []
        for own in seeds if len(seeds) > 1 else []:
            line = _until(curve(own), part.length)
            ax.step(line["time"], 100 * line["survival"], where="post", color=style.colour, alpha=0.35, linewidth=0.7)
        line = _until(curve(group), part.length)
        bounds = (100 * line["low"].ffill(), 100 * line["high"].ffill())
        ax.fill_between(
            line["time"],
            *bounds,
            step="post",
            color=style.colour,
            alpha=0.14 if len(arms) <= MANY else 0.07,
            linewidth=0,
        )
        ax.step(
            line["time"],
            100 * line["survival"],
            where="post",
            color=style.colour,
            linestyle=style.line,
            linewidth=2.2,
        )
    label = "time (ps)" if part.unit == "ps" else part.unit
    ax.set(xlabel=label, ylabel="physical trajectories (%)", ylim=(-3, 103), xlim=(0, part.length))


def _strip(ax: Axes, part: Timed, arms: list[str], styles: dict[str, ArmStyle]) -> None:
    rng = np.random.default_rng(0)  # the jitter only
    for k, arm in enumerate(arms):
        group = part.table[part.table["arm"] == arm]
        for key, marker, _ in REASONS:
            times = group.loc[group["outcome"] == key, "time"].to_numpy(float)
            y = k + rng.uniform(-0.28, 0.28, len(times))
            ax.plot(times, y, marker, color=styles[arm].colour, alpha=0.65, markersize=4.5, markeredgewidth=0)
        physical = int(group["physical"].sum())
        ax.text(1.03 * part.length, k, f"{physical} of {len(group)}\nphysical", va="center", fontsize=8.5)
    ax.axvline(part.length, color=MUTED, linewidth=0.8)
    label = "time (ps)" if part.unit == "ps" else part.unit
    ax.set(xlabel=label, xlim=(0, 1.24 * part.length), ylim=(len(arms) - 0.45, -0.55))
    ax.set_xticks([t for t in ax.get_xticks() if 0 <= t <= part.length])
    ax.set_yticks(range(len(arms)), arms)
    ax.grid(visible=False, axis="y")
