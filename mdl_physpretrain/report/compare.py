"""Several runs in one table: other networks, other data, other settings."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from mdl_physpretrain.errors import PhysPretrainError
from mdl_physpretrain.report.formats import markdown_table, plain_number, plain_spread
from mdl_physpretrain.report.read import RunData, read_run, refuse_foreign
from mdl_physpretrain.report.reference import compared_with_reference as compared
from mdl_physpretrain.report.sentences import left_sentence
from mdl_physpretrain.report.tables import efs_table, main_split, physicality_per_seed, physicality_table
from mdl_physpretrain.statistics.seeds import mean_std

__all__ = ["compare_runs", "markdown"]

ERRORS = {"E, eV": "energy_mae", "F, eV/Å": "forces_mae", "S, eV/Å³": "stress_mae", "total": "total"}
COLUMNS = [
    "run", "backbone", "condition", "arm", "seeds", "trajectories", "overlap", "lindemann", "broken", "unphysical",
    "per_seed", "low", "high", "kept_by_reference", "lost_of_kept",
    "fell_where_reference_melts", "min_distance", "lindemann_local", "energy_mae", "energy_mae_std",
    "energy_per_atom_mae", "energy_per_atom_mae_std", "forces_mae", "forces_mae_std", "stress_mae", "stress_mae_std",
    "total", "total_std", "seconds",
]  # fmt: skip


def compare_runs(folders: Sequence[str | Path]) -> pd.DataFrame:
    """Physicality, errors and training time of every arm of several runs.

    Parameters
    ----------
    folders
        Run folders, finished or not.

    Returns
    -------
    pandas.DataFrame
        One row per run (its name, and its folder where several have one
        name), condition and arm: ``run, backbone, condition, arm,
        seeds, trajectories, overlap, lindemann, broken, unphysical``, the
        latter ``per_seed`` too, with Wilson's 95 % bounds of its share
        ``low, high``; medians over trajectories of ``min_distance`` (Å) and
        ``lindemann_local``; where there is a reference potential, how many
        trajectories it keeps (``kept_by_reference``), how many of these the
        arm loses, and how many it loses by overlap or explosion where the
        reference only passes the Lindemann limits; mean and standard deviation over seeds of the
        errors on the test data (eV, eV/Å, eV/Å³, total 0.01 : 50 : 50);
        ``seconds`` of training, pretraining included.

    Raises
    ------
    PhysPretrainError
        If a folder does not exist, is none of a run, or none has results; one without any is told.
    """
    runs = [read_run(Path(folder)) for folder in folders]
    for run in runs:
        refuse_foreign(run)
        if left := left_sentence(run.left):
            warnings.warn(f"{run.path}: {left.text.striptags()}", stacklevel=2)
    tables = {str(run.path): _table(run) for run in runs}
    names = Counter(run.name for run in runs)
    for run in runs:
        if names[run.name] > 1:
            tables[str(run.path)]["run"] = f"{run.name} ({run.path})"
    if empty := [name for name, table in tables.items() if not len(table)]:
        words = "no results in " + ", ".join(empty)
        if len(empty) == len(tables):
            raise PhysPretrainError(words)
        warnings.warn(words, stacklevel=2)
    return pd.concat([table for table in tables.values() if len(table)], ignore_index=True)


def markdown(table: pd.DataFrame) -> str:
    """The comparison as a Markdown table for people."""
    beside = bool(table["kept_by_reference"].notna().any())
    rows = [
        {
            "run": row["run"],
            "arm": row["arm"],
            "overlap": row["overlap"],
            "Lindemann": row["lindemann"],
            "unphysical": f"{row['unphysical']} of {row['trajectories']}",
            "per seed": row["per_seed"],
            **({"lost of those the reference keeps": _of_kept(row)} if beside else {}),
            "closest, Å": plain_number(row["min_distance"], ".2f", missing="-"),
            "local Lindemann": plain_number(row["lindemann_local"], ".2f", missing="-"),
            **{heading: plain_spread(row[key], row[f"{key}_std"], missing="-") for heading, key in ERRORS.items()},
            "training, s": plain_number(row["seconds"], ".0f", missing="-"),
        }
        for row in table.to_dict("records")
    ]
    return markdown_table(rows)


def _table(run: RunData) -> pd.DataFrame:
    table, errors, keys = physicality_table(run), efs_table(run), ["condition", "arm"]
    if run.physicality is None:
        return table
    table = table.rename(columns={"total": "trajectories", "unphysical_low": "low", "unphysical_high": "high"})
    per_seed = physicality_per_seed(run).groupby(keys)["unphysical"].agg(lambda counts: " ".join(map(str, counts)))
    medians = run.physicality.groupby(keys)[["min_distance", "lindemann_local"]].median()
    table = table.merge(per_seed.rename("per_seed"), on=keys).merge(medians, on=keys)
    if len(errors):
        errors = errors[errors["split"] == main_split(errors)].drop(columns=["split", "seeds"])
        table = table.merge(errors, on="arm", how="left")
    rows = [{**asdict(row), "lost_of_kept": row.lost, "kept_by_reference": row.kept} for row in compared(run)]
    if rows:
        beside = pd.DataFrame(rows).rename(columns={"fell": "fell_where_reference_melts"})
        columns = ["kept_by_reference", "lost_of_kept", "fell_where_reference_melts"]
        table = table.merge(beside[[*keys, *columns]].astype(dict.fromkeys(columns, "Int64")), on=keys, how="left")
    backbone = ((run.config or {}).get("backbone") or {}).get("name")
    table = table.assign(run=run.name, backbone=backbone, seconds=[_seconds(run, arm) for arm in table["arm"]])
    return table.reindex(columns=COLUMNS)


def _seconds(run: RunData, arm: str) -> float:
    """Mean training time of an arm over seeds, with the pretraining it starts from."""
    config = run.config or {}
    arms = config.get("arms")
    options = (arms.get(arm) or {}) if isinstance(arms, dict) else {}
    core = options.get("core", "backbone")
    if core == "backbone":
        core = (config.get("backbone") or {}).get("core", "none")
    trainings = [arm]
    if options.get("pretrain", True):
        trainings.append("pretrain" if core == "none" else f"pretrain-{core}")
    totals = []
    for seed in run.seeds:
        histories = [run.histories.get((seed, training)) for training in trainings]
        if all(history is not None and "seconds" in history for history in histories):
            totals.append(sum(float(history["seconds"].iloc[-1]) for history in histories if history is not None))
    return mean_std(totals)[0]


def _of_kept(row: Mapping[Any, Any]) -> str:
    if pd.isna(row["kept_by_reference"]):
        return "-"
    lost, kept, fell = (int(row[key]) for key in ("lost_of_kept", "kept_by_reference", "fell_where_reference_melts"))
    return f"{lost} of {kept}" + (f" + {fell}" if fell else "")
