"""The report's tables as data frames, the same numbers for the page, the CSV and the JSON files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from ase.units import GPa

from mdl_physpretrain.report.read import RunData
from mdl_physpretrain.statistics.paired import Comparison, compare_counts
from mdl_physpretrain.statistics.proportions import wilson_interval
from mdl_physpretrain.statistics.seeds import PairedDifference, mean_std, paired_difference

__all__ = [
    "EFS_KEYS",
    "EFS_WEIGHTS",
    "accuracy_differences",
    "comparisons",
    "efs_reference_rows",
    "efs_table",
    "physicality_per_seed",
    "physicality_table",
    "save_table",
    "trajectory_table",
]

EFS_WEIGHTS = (0.01, 50.0, 50.0)  # energy : forces : stress, Table 2
EFS_KEYS = ("energy_mae", "energy_per_atom_mae", "forces_mae", "stress_mae", "stress_mae_gpa", "total")
FAILURES = {"overlap": "overlap", "lindemann": "lindemann_violation", "broken": "broken"}


def _order(frame: pd.DataFrame, arms: Sequence[str]) -> pd.DataFrame:
    rank = {arm: k for k, arm in enumerate(arms)}
    return frame.sort_values("arm", key=lambda a: a.map(rank), kind="stable")


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
    rows: list[dict[str, Any]] = []
    if run.physicality is None:
        return pd.DataFrame()
    for (condition, arm), group in _order(run.physicality, run.arms).groupby(["condition", "arm"], sort=False):
        row: dict[str, Any] = {
            "condition": condition,
            "arm": arm,
            "seeds": group["seed"].nunique(),
            "total": len(group),
        }
        for name, hit in _criteria(group).items():
            count = int(hit.sum())
            low, high = wilson_interval(count, len(group))
            mean, std, _ = mean_std(hit.groupby(group["seed"]).sum())
            row |= {name: count, f"{name}_low": low, f"{name}_high": high}
            row |= {f"{name}_seed_mean": mean, f"{name}_seed_std": std}
        rows.append(row)
    conditions = list(dict.fromkeys(run.physicality["condition"]))
    return pd.DataFrame(rows).sort_values(
        "condition", key=lambda c: c.map(conditions.index), kind="stable", ignore_index=True
    )


def _criteria(group: pd.DataFrame) -> dict[str, pd.Series]:
    hits = {name: group[column] for name, column in FAILURES.items()}
    return {**hits, "unphysical": ~group["physical"], "physical": group["physical"]}


def physicality_per_seed(run: RunData) -> pd.DataFrame:
    """The counts of :func:`physicality_table` for each seed."""
    if run.physicality is None:
        return pd.DataFrame()
    rows = []
    for (condition, seed, arm), group in _order(run.physicality, run.arms).groupby(
        ["condition", "seed", "arm"], sort=False
    ):
        counts = {name: int(hit.sum()) for name, hit in _criteria(group).items()}
        rows.append({"condition": condition, "seed": seed, "arm": arm, "total": len(group), **counts})
    return pd.DataFrame(rows).sort_values(["condition", "seed"], kind="stable", ignore_index=True)


def comparisons(run: RunData) -> list[Comparison]:
    """Every arm against the first one, for each condition and criterion."""
    table = run.physicality
    if table is None:
        return []
    table = table.assign(unphysical=~table["physical"])
    found = []
    for condition in dict.fromkeys(table["condition"]):
        present = [a for a in run.arms if ((table["arm"] == a) & (table["condition"] == condition)).any()]
        for arm in present[1:]:
            for criterion in ("unphysical", "overlap", "lindemann_violation"):
                found.append(compare_counts(table, present[0], arm, criterion, condition))
    return found


def _complete_efs(frame: pd.DataFrame) -> pd.DataFrame:
    """All EFS columns as numbers; GPa from eV/Å³ where they are missing."""
    frame = frame.copy()
    for key in EFS_KEYS:
        frame[key] = pd.to_numeric(frame[key], errors="coerce") if key in frame else np.nan
    frame["stress_mae_gpa"] = frame["stress_mae_gpa"].fillna(frame["stress_mae"] / GPa)
    if "split" not in frame:
        frame["split"] = "test"
    frame["split"] = frame["split"].fillna("test").astype(str)
    return frame


def efs_table(run: RunData) -> pd.DataFrame:
    """Table 2: mean and standard deviation over the seeds of every error.

    Returns
    -------
    pandas.DataFrame
        ``split, arm, seeds`` and ``<error>, <error>_std`` for each of
        ``energy_mae`` (eV per structure), ``energy_per_atom_mae`` (eV),
        ``forces_mae`` (eV/Å), ``stress_mae`` (eV/Å³), ``stress_mae_gpa`` and
        ``total`` (0.01 : 50 : 50).
    """
    rows = []
    if run.efs is None:
        return pd.DataFrame()
    frame = _complete_efs(run.efs)
    for (split, arm), group in _order(frame, run.arms).groupby(["split", "arm"], sort=False):
        row: dict[str, Any] = {"split": split, "arm": arm, "seeds": group["seed"].nunique()}
        for key in EFS_KEYS:
            row[key], row[f"{key}_std"], _ = mean_std(group[key])
        rows.append(row)
    table = pd.DataFrame(rows)
    splits = sorted(dict.fromkeys(table["split"]), key=lambda split: split != main_split(table))
    return table.sort_values("split", key=lambda s: s.map(splits.index), kind="stable", ignore_index=True)


def main_split(table: pd.DataFrame) -> str:
    """The split that verdicts speak about: ``test`` where there is one."""
    splits = list(dict.fromkeys(table["split"]))
    return "test" if "test" in splits else splits[0]


def efs_reference_rows(run: RunData) -> list[dict[str, Any]]:
    """Yardsticks for Table 2: the trivial predictor, and the teacher on the data it was fitted to."""
    rows = []
    errors, summary = run.teacher_errors or {}, run.summary or {}
    trivial, where = summary.get("trivial"), "reference energies, zero forces and stress"
    if not isinstance(trivial, dict):
        trivial, where = errors.get("trivial"), f"{where}; on the teacher's data"
    for name, values, note in (
        ("trivial predictor", trivial, where),
        ("teacher", errors.get("train"), "on the data it was fitted to"),
    ):
        if isinstance(values, dict):
            row = _complete_efs(pd.DataFrame([{k: values.get(k) for k in EFS_KEYS}])).iloc[0]
            rows.append({"name": name, "note": note, **{k: float(row[k]) for k in EFS_KEYS}})
    return rows


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
    table = run.physicality
    if table is None:
        return pd.DataFrame()
    columns = (
        "structure_id",
        "formula",
        "n_atoms",
        "condition",
        "arm",
        "seed",
        "outcome",
        "reason",
        "first_unphysical_step",
        "steps_done",
        "min_distance",
        "overlap_threshold",
        "closest_pair",
        "lindemann_local",
        "lindemann_global",
        "temperature_mean",
    )
    ranked = table.sort_values(["physical", "first_unphysical_step", "seed"], kind="stable", na_position="last")
    return ranked[[c for c in columns if c in ranked]].reset_index(drop=True)


def save_table(frame: pd.DataFrame, folder: Any, name: str) -> str:
    """Write ``name.csv`` and ``name.json`` (a list of records, null for what is missing)."""
    frame.to_csv(folder / f"{name}.csv", index=False)
    frame.to_json(folder / f"{name}.json", orient="records", indent=1, force_ascii=False, double_precision=15)
    return name


def failure_steps(table: pd.DataFrame) -> pd.DataFrame:
    """Step at which each trajectory was lost; infinite for those physical to their end.

    A trajectory judged unphysical without a step (the criterion is known only
    over the whole run) counts as lost at its last step.
    """
    step = table["first_unphysical_step"].where(table["first_unphysical_step"].notna(), table["steps_done"])
    step = step.fillna(0.0)
    return table.assign(failure_step=step.where(~table["physical"], math.inf))
