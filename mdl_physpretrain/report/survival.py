"""Time to failure: Kaplan-Meier curves of every condition and arm, and log-rank tests against the first arm."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from mdl_physpretrain.report.read import RunData
from mdl_physpretrain.report.tables import failure_steps
from mdl_physpretrain.statistics.proportions import wilson_interval
from mdl_physpretrain.statistics.survival import kaplan_meier, logrank

__all__ = ["Timed", "curve", "survival_table", "timed"]


class Timed:
    """Trajectories of one condition with the time of their failure or end.

    Attributes
    ----------
    table
        Rows of ``run.physicality`` with ``time`` added (failure, else end),
        in ``unit``.
    length
        Longest time asked for, in ``unit``.
    unit
        ``"ps"``, or ``"MD step"`` where the time step is not known.
    """

    def __init__(self, condition: str, table: pd.DataFrame) -> None:
        step = table["timestep"].to_numpy(float)
        known = len(step) > 0 and bool(np.isfinite(step).all() and (step > 0).all())
        self.condition = condition
        self.unit = "ps" if known else "MD step"
        scale = table["timestep"] / 1000 if known else 1.0
        end = table["steps_done"].fillna(table["steps"]).fillna(0.0)
        self.table = table.assign(time=table["failure_step"].where(~table["physical"], end) * scale)
        self.length = float(np.nanmax([*(table["steps_done"] * scale), *(table["steps"] * scale), 1e-3]))


def timed(run: RunData) -> list[Timed]:
    """The trajectories of a run, apart by condition."""
    if run.physicality is None:
        return []
    table = failure_steps(run.physicality)
    return [Timed(c, table[table["condition"] == c]) for c in dict.fromkeys(table["condition"])]


def curve(group: pd.DataFrame) -> pd.DataFrame:
    """Kaplan-Meier curve of trajectories: ``time, at_risk, failed, censored, survival, low, high`` from time 0 on."""
    found = kaplan_meier(group["time"].to_numpy(float), ~group["physical"].to_numpy(bool))
    found = found.rename(columns={"step": "time"})
    if not len(found) or found["time"].iloc[0] > 0:
        start = {"time": 0.0, "at_risk": len(group), "failed": 0, "censored": 0, "survival": 1.0}
        low, high = wilson_interval(len(group), len(group))  # as long as nothing fails
        found = pd.concat([pd.DataFrame([start | {"low": low, "high": high}]), found], ignore_index=True)
    return found


def survival_table(run: RunData) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All curves in one table, and per condition and arm what they end with.

    Returns
    -------
    tuple of DataFrame
        ``condition, arm, unit, time, at_risk, ...`` of every curve, and
        ``condition, arm, trajectories, failed, survival, low, high`` (at the
        end), ``half`` (time by which half are lost, NaN if they are not),
        ``unit, reference, p`` (log-rank against the first arm).
    """
    curves, ends = [], []
    for part in timed(run):
        table = part.table
        arms = [arm for arm in run.arms if (table["arm"] == arm).any()]
        for arm in arms:
            group = table[table["arm"] == arm]
            found = curve(group)
            curves.append(found.assign(condition=part.condition, arm=arm, unit=part.unit))
            last = found.iloc[-1]
            lost = found.loc[found["survival"] <= 0.5, "time"]
            row: dict[str, Any] = {"condition": part.condition, "arm": arm, "trajectories": len(group)}
            row |= {"failed": int((~group["physical"]).sum())}
            row |= {key: float(last[key]) for key in ("survival", "low", "high")}
            row |= {"half": float(lost.min()) if len(lost) else np.nan, "unit": part.unit}
            row |= {"reference": "", "p": np.nan}
            if arm != arms[0]:
                both = table[table["arm"].isin([arms[0], arm])]
                _, p = logrank(both["time"].to_numpy(float), ~both["physical"].to_numpy(bool), both["arm"].to_numpy())
                row |= {"reference": arms[0], "p": float(p)}
            ends.append(row)
    if not ends:
        return pd.DataFrame(), pd.DataFrame()
    first = ["condition", "arm", "unit"]
    return pd.concat(curves, ignore_index=True)[[*first, *curves[0].columns.drop(first)]], pd.DataFrame(ends)
