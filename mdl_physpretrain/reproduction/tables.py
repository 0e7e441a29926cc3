"""Rows of Tables 1, 2, B.1 and B.2 and of section 4.1 from finished runs, beside the printed ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from mdl_physpretrain.report.read import RunData, read_run
from mdl_physpretrain.report.tables import efs_table, main_split, physicality_per_seed, physicality_table

__all__ = ["accuracy", "overhead", "printed", "stability"]

PRINTED = Path(__file__).with_name("printed")
CRITERIA = ("overlap", "lindemann", "unphysical")
STAGES = ("teacher", "augment", "pretrain", "finetune", "evaluate", "md")


def printed(name: str) -> pd.DataFrame:
    """Numbers as the paper prints them: ``"stability"``, ``"accuracy"`` or ``"overhead"``.

    A row of the paper that is not legible in the text at hand (the baseline of
    TorchMD on phosphorus, Table 1) is left out.
    """
    return pd.read_csv(PRINTED / f"{name}.csv", dtype={"table": str})


def stability(runs: Mapping[tuple[str, str], Path]) -> pd.DataFrame:
    """Tables 1 and B.1.

    Parameters
    ----------
    runs
        Run folders by system and backbone.

    Returns
    -------
    pandas.DataFrame
        One row per system, backbone, condition and setup: ``trajectories,
        seeds, overlap, lindemann, unphysical`` (counts; the latter
        ``per_seed`` too) with Wilson's 95 % bounds of each share
        (``overlap_low`` ...), and ``printed_overlap, printed_lindemann`` (of
        100) of the paper with its ``printed_usage``.
    """
    rows: list[dict[str, Any]] = []
    paper = printed("stability")
    for (system, backbone), folder in runs.items():
        run = read_run(folder)
        counts, seeds = physicality_table(run), physicality_per_seed(run)
        for row in counts.to_dict("records"):
            arm, condition = row["arm"], row["condition"]
            ensemble, temperature = _condition(run, condition)
            per_seed = seeds[(seeds["arm"] == arm) & (seeds["condition"] == condition)]
            printed_rows = paper[
                (paper["system"] == system)
                & (paper["backbone"] == backbone)
                & (paper["setup"] == arm)
                & (paper["ensemble"] == ensemble)
                & (paper["temperature"] == temperature)
            ]
            rows.append(
                {
                    "system": system,
                    "backbone": backbone,
                    "condition": condition,
                    "ensemble": ensemble,
                    "temperature": temperature,
                    "setup": arm,
                    "seeds": row["seeds"],
                    "trajectories": row["total"],
                    **{f"{name}{end}": row[f"{name}{end}"] for name in CRITERIA for end in ("", "_low", "_high")},
                    "per_seed": " ".join(map(str, per_seed["unphysical"])),
                    **_printed(printed_rows, ("overlap", "lindemann", "usage")),
                }
            )
    return pd.DataFrame(rows)


def accuracy(runs: Mapping[tuple[str, str], Path]) -> pd.DataFrame:
    """Tables 2 and B.2.

    Parameters
    ----------
    runs
        Run folders by system and backbone.

    Returns
    -------
    pandas.DataFrame
        One row per system, backbone and setup: mean over seeds and standard
        deviation (``_std``) of ``energy_mae`` (eV per structure),
        ``forces_mae`` (eV/Å), ``stress_mae`` (eV/Å³) and ``total``
        (0.01 : 50 : 50) on the test data, the total of the trivial predictor,
        and the paper's numbers (``printed_...``). The paper calls its stress
        errors GPa; its totals follow from them with the weight 50 as they are.
    """
    rows: list[dict[str, Any]] = []
    paper = printed("accuracy").rename(columns={"stress_mae_gpa": "stress_mae"})
    keys = ("energy_mae", "forces_mae", "stress_mae", "total")
    for (system, backbone), folder in runs.items():
        run = read_run(folder)
        table = efs_table(run)
        if not len(table):
            continue
        split = main_split(table)
        trivial = ((run.summary or {}).get("trivial") or {}).get("total", math.nan)
        for row in table[table["split"] == split].to_dict("records"):
            in_paper = paper[
                (paper["system"] == system) & (paper["backbone"] == backbone) & (paper["setup"] == row["arm"])
            ]
            rows.append(
                {
                    "system": system,
                    "backbone": backbone,
                    "setup": row["arm"],
                    "split": split,
                    "seeds": row["seeds"],
                    **{f"{k}{end}": row[f"{k}{end}"] for k in keys for end in ("", "_std")},
                    "trivial_total": trivial,
                    **_printed(in_paper, (*keys, "usage")),
                }
            )
    return pd.DataFrame(rows)


def overhead(runs: Mapping[tuple[str, str], Path]) -> pd.DataFrame:
    """Section 4.1: seconds per stage.

    Parameters
    ----------
    runs
        Run folders by system and backbone.

    Returns
    -------
    pandas.DataFrame
        ``system, backbone, stage, tasks, seconds`` (sum over tasks) and
        ``seconds_per_task``; ``stage`` ``"augment"`` is augmentation and
        labelling. The paper's seconds (MPtrj subset, TorchMD, one A100) are
        the rows of the system ``"paper"``.
    """
    rows: list[dict[str, Any]] = []
    for (system, backbone), folder in runs.items():
        for stage in STAGES:
            seconds = [t["seconds"] for t in read_run(folder).timings or [] if t["stage"].split()[0] == stage]
            if seconds:
                task = {"system": system, "backbone": backbone, "stage": stage, "tasks": len(seconds)}
                rows.append({**task, "seconds": sum(seconds), "seconds_per_task": sum(seconds) / len(seconds)})
    for row in printed("overhead").to_dict("records"):
        paper = {"system": "paper", "backbone": "torchmd_et", "stage": row["stage"], "tasks": 1}
        rows.append({**paper, "seconds": row["seconds"], "seconds_per_task": row["seconds"]})
    return pd.DataFrame(rows)


def _condition(run: RunData, condition: str) -> tuple[str, float]:
    """Ensemble and temperature behind the words of a condition."""
    assert run.physicality is not None
    row = run.physicality[run.physicality["condition"] == condition].iloc[0]
    return str(row.get("ensemble", "")).lower(), float(row.get("temperature", math.nan))


def _printed(rows: pd.DataFrame, keys: tuple[str, ...]) -> dict[str, float]:
    return {f"printed_{key}": float(rows[key].iloc[0]) if len(rows) else math.nan for key in keys}
