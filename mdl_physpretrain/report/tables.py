"""The report's tables as data frames, the same numbers for the page, the CSV and the JSON files."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from ase.units import GPa

from mdl_physpretrain.report.read import RunData
from mdl_physpretrain.stability.limits import Limits
from mdl_physpretrain.statistics.paired import Comparison, compare_counts
from mdl_physpretrain.statistics.proportions import wilson_interval
from mdl_physpretrain.statistics.reference import has_reference
from mdl_physpretrain.statistics.seeds import PairedDifference, mean_std, paired_difference
from mdl_physpretrain.statistics.survival import TIMES, kaplan_meier, logrank, share_at

__all__ = ["EFS_KEYS", "FailureTimes", "accuracy_differences", "comparisons", "efs_reference_rows", "efs_table",
           "failure_steps", "main_split", "physicality_per_seed", "physicality_table", "still_physical_table",
           "survival_curve", "survival_table", "timed_trajectories", "trajectory_table"]  # fmt: skip

EFS_KEYS = ("energy_mae", "energy_per_atom_mae", "forces_mae", "stress_mae", "stress_mae_gpa", "total")
FAILURES = {"overlap": "overlap", "lindemann": "lindemann_violation", "broken": "broken"}
TRAJECTORY_COLUMNS = (
    "structure_id", "formula", "n_atoms", "condition", "arm", "seed", "outcome", "reason", "detail",
    "first_unphysical_step", "steps_done", "min_distance", "overlap_threshold", "closest_pair", "lindemann_local",
    "lindemann_global", "temperature_mean", "reference_verdict", "reference_step", "held_against",
)  # fmt: skip


def _groups(frame: pd.DataFrame | None, keys: list[str], arms: list[str]) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """Rows by the values of ``keys``, conditions and splits as they come, seeds ascending, arms as on the page."""
    if frame is None:
        return []
    position: dict[str, Any] = {key: list(dict.fromkeys(frame[key])).index for key in keys}
    position |= {"arm": arms.index, "seed": int}
    ranks = {key: frame[key].map(position[key]) for key in keys}
    groups = frame.groupby([ranks[key] for key in keys])
    return [({key: group[key].iloc[0] for key in keys}, group) for _, group in groups]


def _criteria(group: pd.DataFrame) -> dict[str, pd.Series]:
    failures = {criterion: group[column] for criterion, column in FAILURES.items()}
    return {**failures, "unphysical": ~group["physical"], "physical": group["physical"]}


def physicality_table(run: RunData) -> pd.DataFrame:
    """Table 1: per condition and arm the counts of failing trajectories with Wilson's 95 % intervals.

    Returns
    -------
    pandas.DataFrame
        ``condition, arm, seeds, total`` and for each of ``overlap, lindemann,
        broken`` (NaN or explosion), ``unphysical, physical`` the count,
        ``_low, _high`` (bounds of the share, 0 to 1) and ``_seed_mean,
        _seed_std`` (count per seed).
    """
    rows = []
    for row, group in _groups(run.physicality, ["condition", "arm"], run.arms):
        row |= {"seeds": group["seed"].nunique(), "total": len(group)}
        for criterion, hit in _criteria(group).items():
            row[criterion] = int(hit.sum())
            row[f"{criterion}_low"], row[f"{criterion}_high"] = wilson_interval(row[criterion], len(group))
            mean, std, _ = mean_std(hit.groupby(group["seed"]).sum())
            row |= {f"{criterion}_seed_mean": mean, f"{criterion}_seed_std": std}
        rows.append(row)
    return pd.DataFrame(rows)


def physicality_per_seed(run: RunData) -> pd.DataFrame:
    """The counts of :func:`physicality_table` for each seed."""
    groups = _groups(run.physicality, ["condition", "seed", "arm"], run.arms)
    counts = [
        row | {"total": len(group)} | {criterion: int(hit.sum()) for criterion, hit in _criteria(group).items()}
        for row, group in groups
    ]
    return pd.DataFrame(counts)


def comparisons(run: RunData) -> list[Comparison]:
    """Every arm against the first one, for each condition and criterion."""
    if run.physicality is None:
        return []
    table = run.physicality.assign(unphysical=~run.physicality["physical"])
    pairs = []
    for condition, part in table.groupby("condition", sort=False):
        present = [arm for arm in run.judged if (part["arm"] == arm).any()]
        beside = part[part["held_against"].notna()] if has_reference(part) else None
        for arm in present[1:]:
            for criterion in ("unphysical", "overlap", "lindemann_violation"):
                pairs.append(compare_counts(part, present[0], arm, criterion, str(condition)))
            if beside is not None and {present[0], arm} <= set(beside["arm"]):
                pairs.append(compare_counts(beside, present[0], arm, "held_against", str(condition)))
    return pairs


def _complete_efs(frame: pd.DataFrame) -> pd.DataFrame:
    """All EFS columns as numbers; GPa from eV/Å³ where they are missing."""
    frame = frame.copy()
    for key in EFS_KEYS:
        frame[key] = pd.to_numeric(frame[key], errors="coerce") if key in frame else np.nan
    frame["stress_mae_gpa"] = frame["stress_mae_gpa"].fillna(frame["stress_mae"] / GPa)
    frame["split"] = frame["split"].fillna("test").astype(str) if "split" in frame else "test"
    return frame


def efs_table(run: RunData) -> pd.DataFrame:
    """Table 2: mean and standard deviation over the seeds of every error.

    Returns
    -------
    pandas.DataFrame
        ``split, arm, seeds`` and ``<error>, <error>_std`` for each of
        ``energy_mae`` (eV per structure), ``energy_per_atom_mae`` (eV),
        ``forces_mae`` (eV/Å), ``stress_mae`` (eV/Å³), ``stress_mae_gpa`` and
        ``total`` (0.01 : 50 : 50); the main split first.
    """
    if run.efs is None:
        return pd.DataFrame()
    frame = _complete_efs(run.efs)
    frame = frame.sort_values("split", key=lambda split: split != main_split(frame), kind="stable")
    rows = []
    for row, group in _groups(frame, ["split", "arm"], run.arms):
        row["seeds"] = group["seed"].nunique()
        for key in EFS_KEYS:
            row[key], row[f"{key}_std"], _ = mean_std(group[key])
        rows.append(row)
    return pd.DataFrame(rows)


def main_split(table: pd.DataFrame) -> str:
    """The split that conclusions speak about: ``test`` where there is one."""
    splits = list(dict.fromkeys(table["split"]))
    return "test" if "test" in splits else splits[0]


def efs_reference_rows(run: RunData) -> list[dict[Any, Any]]:
    """Yardsticks for Table 2: the trivial predictor, and the teacher on the data it was fitted to."""
    errors, trivial = run.teacher_errors or {}, (run.summary or {}).get("trivial")
    where = "reference energies, zero forces and stress"
    if not isinstance(trivial, dict):
        trivial, where = errors.get("trivial"), f"{where}; on the teacher's data"
    teacher = ("teacher", "on the data it was fitted to, energies as fitted", errors.get("train"))
    rows = [
        {"name": name, "note": note, **{key: values.get(key) for key in EFS_KEYS}}
        for name, note, values in (("trivial predictor", where, trivial), teacher)
        if isinstance(values, dict)
    ]
    return _complete_efs(pd.DataFrame(rows)).drop(columns="split").to_dict("records") if rows else []


def accuracy_differences(run: RunData) -> list[PairedDifference]:
    """Total error of every arm minus that of the first one, within seeds, on the main split."""
    if run.efs is None:
        return []
    frame = _complete_efs(run.efs)
    frame = frame[frame["split"] == main_split(frame)]
    totals = {arm: group.groupby("seed")["total"].mean() for arm, group in frame.groupby("arm")}
    present = [arm for arm in run.arms if arm in totals]
    return [
        paired_difference(totals[present[0]], totals[arm], reference=present[0], arm=arm, quantity="total")
        for arm in present[1:]
    ]


def trajectory_table(run: RunData) -> pd.DataFrame:
    """One row per trajectory, the failing ones first (earliest failure first)."""
    if run.physicality is None:
        return pd.DataFrame()
    by = ["physical", "first_unphysical_step", "seed"]
    ranked = run.physicality.sort_values(by, kind="stable", na_position="last", ignore_index=True)
    if "overlap_threshold" in ranked and "closest_pair" in ranked:  # of earlier versions: that of the first frame
        limits = Limits(variant=run.variant)
        start = pd.to_numeric(ranked["overlap_threshold"], errors="coerce")
        pairs = ranked["closest_pair"].fillna("").astype(str)
        ranked["overlap_threshold"] = [limits.overlap_distance(*row) for row in zip(pairs, start, strict=True)]
    return ranked[[column for column in TRAJECTORY_COLUMNS if column in ranked]]


def failure_steps(table: pd.DataFrame) -> pd.DataFrame:
    """Step at which each trajectory was lost; infinite for those physical to their end.

    A trajectory judged unphysical without a step (the criterion is known only
    over the whole run) counts as lost at its last step.
    """
    step = table["first_unphysical_step"].where(table["first_unphysical_step"].notna(), table["steps_done"])
    step = step.fillna(0.0)
    return table.assign(failure_step=step.where(~table["physical"], math.inf))


class FailureTimes:
    """Trajectories of one condition with the ``time`` of failure or end, and the ``planned`` one."""

    def __init__(self, condition: str, table: pd.DataFrame) -> None:
        step = table["timestep"].to_numpy(float)
        in_ps = len(step) > 0 and bool(np.isfinite(step).all() and (step > 0).all())
        self.condition = condition
        self.unit = "ps" if in_ps else "MD step"
        scale = table["timestep"] / 1000 if in_ps else 1.0
        end = table["steps_done"].fillna(table["steps"]).fillna(0.0)
        time = table["failure_step"].where(~table["physical"], end) * scale
        self.table = table.assign(time=time, planned=table["steps"].fillna(end) * scale)
        self.length = float(np.nanmax([*(table["steps_done"] * scale), *(table["steps"] * scale), 1e-3]))

    def by_arm(self, arms: list[str]) -> dict[str, pd.DataFrame]:
        """Trajectories of each arm that has any, in the order of ``arms``."""
        return {arm: self.table[self.table["arm"] == arm] for arm in arms if (self.table["arm"] == arm).any()}


def timed_trajectories(run: RunData) -> list[FailureTimes]:
    """The trajectories of a run, apart by condition."""
    if run.physicality is None:
        return []
    return [FailureTimes(str(c), part) for c, part in failure_steps(run.physicality).groupby("condition", sort=False)]


def still_physical_table(run: RunData) -> pd.DataFrame:
    """Share of trajectories still physical at 1, 2, 5 and 10 ps, over those that were to run for so long.

    Where there are none of these, ``total`` is 0. Empty where the time step is not known.
    """
    rows = []
    for part in timed_trajectories(run):
        for arm, group in part.by_arm(run.arms).items() if part.unit == "ps" else ():
            for time in TIMES:
                long = group[group["planned"].round(9) >= time]
                names: dict[str, Any] = {"condition": part.condition, "arm": arm}
                if len(long):
                    shares = share_at(long["time"].round(9).to_numpy(float), ~long["physical"].to_numpy(bool), [time])
                    rows.append(shares.assign(**names))
                else:
                    nothing = {"time": time, "total": 0, "physical": 0, "share": np.nan, "low": np.nan, "high": np.nan}
                    rows.append(pd.DataFrame([{**nothing, **names}]))
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def survival_curve(group: pd.DataFrame) -> pd.DataFrame:
    """Kaplan-Meier curve of trajectories: ``time, at_risk, failed, censored, survival, low, high`` from time 0 on."""
    curve = kaplan_meier(group["time"].to_numpy(float), ~group["physical"].to_numpy(bool))
    curve = curve.rename(columns={"step": "time"})
    if curve["time"].iloc[0] > 0:
        low, high = wilson_interval(len(group), len(group))  # as long as nothing fails
        start = {"time": 0.0, "at_risk": len(group), "failed": 0, "censored": 0, "survival": 1.0}
        curve = pd.concat([pd.DataFrame([start | {"low": low, "high": high}]), curve], ignore_index=True)
    return curve


def survival_table(run: RunData) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All survival curves in one table, and a row per condition and arm about their ends.

    These rows have ``survival, low, high`` at the end, ``half`` (time by which half are lost, or NaN), and the log-rank
    ``p`` against the first arm.
    """
    curves, ends = [], []
    for part in timed_trajectories(run):
        groups = part.by_arm(run.arms)
        reference = next(iter(groups), "")
        for arm, group in groups.items():
            curve = survival_curve(group)
            labels = {"condition": part.condition, "arm": arm, "unit": part.unit}
            curves.append(pd.DataFrame({**labels, **curve}))
            p = np.nan
            if arm != reference:
                two_arms = pd.concat([groups[reference], group])
                p = logrank(
                    two_arms["time"].to_numpy(float),
                    ~two_arms["physical"].to_numpy(bool),
                    two_arms["arm"].to_numpy(),
                )[1]
            ends.append(
                {
                    "condition": part.condition,
                    "arm": arm,
                    "trajectories": len(group),
                    "failed": int((~group["physical"]).sum()),
                    **curve[["survival", "low", "high"]].iloc[-1].to_dict(),
                    "half": curve.loc[curve["survival"] <= 0.5, "time"].min(),
                    "unit": part.unit,
                    "reference": "" if arm == reference else reference,
                    "p": p,
                }
            )
    return (pd.concat(curves, ignore_index=True), pd.DataFrame(ends)) if ends else (pd.DataFrame(), pd.DataFrame())
