"""Tables of a survey: the answers and trajectories of all its checks, with what each links to."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from mdl_physpretrain.probes.tables import read_table

__all__ = ["answers_of", "checks_of", "trajectories_of"]

KEPT = ["potential", "condition", "structure_id", "formula", "ensemble", "verdict", "reason", "ps", "planned_ps",
        "closest_pair", "detail"]  # fmt: skip


def answers_of(folder: Path) -> pd.DataFrame:
    """``potential, condition, question, verdict, finding`` of every check of a survey."""
    parts = []
    for path, potential, condition in _files(folder, "verdicts.csv"):
        table = read_table(path).drop(columns="arm")
        parts.append(table.assign(potential=potential, condition=condition))
    columns = ["potential", "condition", "question", "verdict", "finding"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def trajectories_of(folder: Path) -> pd.DataFrame:
    """One row per trajectory of a survey: verdict, reason, ``ps`` until it was lost or ended, ``planned_ps``."""
    parts = []
    for path, potential, condition in _files(folder, "physicality.csv"):
        table = read_table(path, texts=("closest_pair", "detail"))
        table = table[table["label"].fillna("") == ""]
        lost = table["first_unphysical_step"].astype("float64")
        steps = lost.where(lost.notna(), table["steps_done"].astype("float64"))
        per_step = table["timestep"].astype("float64") / 1000
        parts.append(table.assign(potential=potential, condition=condition, ps=steps * per_step,
                                  planned_ps=table["steps"].astype("float64") * per_step))  # fmt: skip
    return pd.concat(parts, ignore_index=True).reindex(columns=KEPT) if parts else pd.DataFrame(columns=KEPT)


def checks_of(folder: Path) -> pd.DataFrame:
    """One row per check of a survey: what was checked, its MD (fs), and ``seconds`` of work (NaN: it has not ended)."""
    rows = []
    for path, potential, condition in _files(folder, "check.json"):
        described = json.loads(path.read_text(encoding="utf-8"))
        settings, timings = described["settings"], path.with_name("timings.json")
        tasks = json.loads(timings.read_text(encoding="utf-8")) if timings.exists() else [{"seconds": math.nan}]
        rows.append((potential, condition, described["potentials"][potential], settings["ensemble"], settings["steps"],
                     settings["timestep"], sum(task["seconds"] for task in tasks)))  # fmt: skip
    return pd.DataFrame(rows, columns=["potential", "condition", "source", "ensemble", "steps", "timestep", "seconds"])


def _files(folder: Path, name: str) -> Iterator[tuple[Path, str, str]]:
    """By potential, then by condition: the mildest first, as numbers."""
    found = [(path, path.parent.parent.name, path.parent.name) for path in folder.glob(f"*/*/{name}")]
    yield from sorted(found, key=lambda file: (file[1], _severity(file[2])))


def _severity(condition: str) -> tuple[float, float, str]:
    """Pressure (GPa) and temperature (K) in the name of a condition; other names come last."""
    number = r"([\d.]+(?:e[+-]?\d+)?)"
    parts = re.fullmatch(rf"{number}K(?:-{number}GPa)?", condition)
    return (float(parts[2] or 0), float(parts[1]), condition) if parts else (math.inf, math.inf, condition)
