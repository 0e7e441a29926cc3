"""Figure of the time to failure: survival curves, and every failure by its kind."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mdl_physpretrain.report.drawing import MUTED, ArmStyle, Figure, Legend, Panel, arm_legend
from mdl_physpretrain.report.read import RunData
from mdl_physpretrain.report.tables import FailureTimes, survival_curve, timed_trajectories

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
    parts = timed_trajectories(run)
    panels, present = [], set()
    for part in parts:
        groups = part.by_arm(run.arms)
        present |= set(part.table["outcome"])
        condition = f" ({part.condition})" if len(parts) > 1 else ""
        panels += [
            Panel(f"Still physical{condition}", partial(_survival, part=part, groups=groups, styles=styles)),
            Panel(f"Time of failure{condition}", partial(_failures, part=part, groups=groups, styles=styles)),
        ]
    if not panels:
        return None
    legend = arm_legend(run.arms, styles)
    legend += [Legend(label, MUTED, "marker", marker) for key, marker, label in REASONS if key in present]
    return Figure("When trajectories fail", panels, legend, size=(5.0, 3.3), columns=2)


def _curve(group: pd.DataFrame, length: float) -> pd.DataFrame:
    """Shares in percent; zero is carried on to the end of the axis."""
    curve = survival_curve(group)[["time", "survival", "low", "high"]]
    if curve["time"].iloc[-1] < length and curve["survival"].iloc[-1] <= 0:
        curve.loc[len(curve)] = curve.iloc[-1].where(curve.columns != "time", length)
    return curve.mul([1, 100, 100, 100])


def _survival(ax: Axes, part: FailureTimes, groups: dict[str, pd.DataFrame], styles: dict[str, ArmStyle]) -> None:
    few_groups = len(groups) <= MANY
    for arm, group in groups.items():
        steps: dict[str, Any] = {"where": "post", "color": styles[arm].colour}
        seeds = [seed for _, seed in group.groupby("seed")] if few_groups else []
        for seed in seeds if len(seeds) > 1 else []:
            line = _curve(seed, part.length)
            ax.step(line["time"], line["survival"], alpha=0.35, linewidth=0.7, **steps)
        line, alpha = _curve(group, part.length), 0.14 if few_groups else 0.07
        band: dict[str, Any] = {"step": "post", "color": styles[arm].colour, "linewidth": 0}
        ax.fill_between(line["time"], line["low"], line["high"], alpha=alpha, **band)
        ax.step(line["time"], line["survival"], linestyle=styles[arm].line, linewidth=2.2, **steps)
    ax.set(xlabel=_axis(part), ylabel="physical trajectories (%)", ylim=(-3, 103), xlim=(0, part.length))


def _axis(part: FailureTimes) -> str:
    return "time (ps)" if part.unit == "ps" else part.unit


def _failures(ax: Axes, part: FailureTimes, groups: dict[str, pd.DataFrame], styles: dict[str, ArmStyle]) -> None:
    rng = np.random.default_rng(0)  # the jitter only
    for k, (arm, group) in enumerate(groups.items()):
        for key, marker, _ in REASONS:
            times = group.loc[group["outcome"] == key, "time"].to_numpy(float)
            y = k + rng.uniform(-0.28, 0.28, len(times))
            ax.plot(times, y, marker, color=styles[arm].colour, alpha=0.65, markersize=4.5, markeredgewidth=0)
        physical = int(group["physical"].sum())
        ax.text(1.03 * part.length, k, f"{physical} of {len(group)}\nphysical", va="center", fontsize=8.5)
    ax.axvline(part.length, color=MUTED, linewidth=0.8)
    ax.set(xlabel=_axis(part), xlim=(0, 1.24 * part.length), ylim=(len(groups) - 0.45, -0.55))
    ax.set_xticks([t for t in ax.get_xticks() if 0 <= t <= part.length])
    ax.set_yticks(range(len(groups)), list(groups))
    ax.grid(visible=False, axis="y")
