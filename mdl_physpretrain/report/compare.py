"""Several runs in one table: other networks, other data, other settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mdl_physpretrain.errors import PhysPretrainError
from mdl_physpretrain.report.read import RunData, read_run
from mdl_physpretrain.report.tables import efs_table, main_split, physicality_per_seed, physicality_table
from mdl_physpretrain.statistics.seeds import mean_std

__all__ = ["compare_runs", "markdown"]


def compare_runs(folders: Sequence[str | Path]) -> pd.DataFrame:
    """Physicality, errors and training time of every arm of several runs.

    Parameters
    ----------
    folders
        Run folders, finished or not.

    Returns
    -------
    pandas.DataFrame
        One row per run, condition and arm: ``run, backbone, condition, arm,
        seeds, trajectories, overlap, lindemann, broken, unphysical``, the
        latter ``per_seed`` too, with Wilson's 95 % bounds of its share
        ``low, high``; medians over trajectories of ``min_distance`` (Å) and
        ``lindemann_local``; mean and standard deviation over seeds of the
        errors on the test data (eV, eV/Å, eV/Å³, total 0.01 : 50 : 50);
        ``seconds`` of training, pretraining included.

    Raises
    ------
    PhysPretrainError
        If a folder does not exist or none has results.
    """
    rows = [row for folder in folders for row in _rows(read_run(Path(folder)))]
    if not rows:
        raise PhysPretrainError("no results in " + ", ".join(map(str, folders)))
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """The comparison as a Markdown table for people."""
    lines = [
        "| run | arm | overlap | Lindemann | unphysical | per seed | closest, Å | local Lindemann"
        " | E, eV | F, eV/Å | S, eV/Å³ | total | training, s |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in table.to_dict("records"):
        cells = [
            row["run"],
            row["arm"],
            row["overlap"],
            row["lindemann"],
            f"{row['unphysical']} of {row['trajectories']}",
            row["per_seed"],
            _number(row["min_distance"], ".2f"),
            _number(row["lindemann_local"], ".2f"),
            *(_spread(row[key], row[f"{key}_std"]) for key in ("energy_mae", "forces_mae", "stress_mae", "total")),
            _number(row["seconds"], ".0f"),
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def _rows(run: RunData) -> list[dict[str, Any]]:
    counts, errors = physicality_table(run), efs_table(run)
    if not len(counts):
        return []
    per_seed = physicality_per_seed(run)
    if len(errors):
        errors = errors[errors["split"] == main_split(errors)].set_index("arm")
    config = run.config or {}
    rows = []
    for row in counts.to_dict("records"):
        arm, condition = row["arm"], row["condition"]
        here = (run.physicality["arm"] == arm) & (run.physicality["condition"] == condition)  # type: ignore[index]
        own = run.physicality[here]  # type: ignore[index]
        seeds = per_seed[(per_seed["arm"] == arm) & (per_seed["condition"] == condition)]
        known = errors.loc[arm].to_dict() if len(errors) and arm in errors.index else {}
        rows.append(
            {
                "run": run.name,
                "backbone": (config.get("backbone") or {}).get("name"),
                "condition": condition,
                "arm": arm,
                "seeds": row["seeds"],
                "trajectories": row["total"],
                **{k: row[k] for k in ("overlap", "lindemann", "broken", "unphysical")},
                "per_seed": " ".join(map(str, seeds["unphysical"])),
                "low": row["unphysical_low"],
                "high": row["unphysical_high"],
                "min_distance": own["min_distance"].median(),
                "lindemann_local": own["lindemann_local"].median(),
                **{
                    f"{key}{end}": known.get(f"{key}{end}", float("nan"))
                    for key in ("energy_mae", "energy_per_atom_mae", "forces_mae", "stress_mae", "total")
                    for end in ("", "_std")
                },
                "seconds": _seconds(run, arm),
            }
        )
    return rows


def _seconds(run: RunData, arm: str) -> float:
    """Mean training time of an arm over seeds, with the pretraining it starts from."""
    config = run.config or {}
    arms = config.get("arms")
    options = (arms.get(arm) or {}) if isinstance(arms, dict) else {}
    core = options.get("core", "backbone")
    if core == "backbone":
        core = (config.get("backbone") or {}).get("core", "none")
    trainings = [arm] + (
        ["pretrain" if core == "none" else f"pretrain-{core}"] if options.get("pretrain", True) else []
    )
    totals = []
    for seed in run.seeds:
        found = [run.histories.get((seed, name)) for name in trainings]
        if all(h is not None and "seconds" in h for h in found):
            totals.append(sum(float(h["seconds"].iloc[-1]) for h in found if h is not None))
    return mean_std(pd.Series(totals, dtype=float))[0]


def _spread(mean: float, std: float) -> str:
    return _number(mean, ".3g") if pd.isna(std) else f"{mean:.3g} ± {std:.1g}"


def _number(value: float, form: str) -> str:
    return "-" if pd.isna(value) else format(value, form)
