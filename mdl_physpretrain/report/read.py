"""Reading a run folder: everything is optional, everything that is missing is remembered."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from mdl_physpretrain.errors import PhysPretrainError

__all__ = ["RunData", "read_run"]

REFERENCE = "baseline"  # the arm that the others are compared with

FIRST = {"overlap": "overlap", "nan": "broken", "explosion": "broken", "lindemann": "lindemann"}  # reason -> outcome

TEXT = (
    "structure_id",
    "arm",
    "pair",
    "set",
    "split",
    "formula",
    "reason",
    "closest_pair",
    "ensemble",
    "element",
    "against",
)
COLUMNS = {  # columns without which a file says nothing
    "physicality": ("structure_id", "overlap", "lindemann_violation", "physical"),
    "efs": ("seed", "arm", "total"),
    "curves": ("pair", "r", "total"),
    "distances": ("set", "pair", "distance"),
    "diatomics": ("arm", "pair", "r", "energy"),
    "alignment": ("arm", "structure_id", "element", "angle"),
    "teacher_history": ("loss",),
    "history": ("epoch",),
}


@dataclass
class RunData:
    """What a run folder holds.

    Attributes
    ----------
    physicality
        One row per trajectory, with the columns ``arm, seed, condition,
        broken`` (NaN or explosion) and ``outcome`` added.
    histories
        Learning curves by (seed, training).
    notes
        Why a part is missing, by the name of the part.
    """

    path: Path
    config: dict[str, Any] | None = None
    config_text: str | None = None
    environment: Any = None
    timings: list[dict[str, Any]] | None = None
    summary: dict[str, Any] | None = None
    examination: dict[str, Any] | None = None
    teacher_errors: dict[str, Any] | None = None
    teacher_history: pd.DataFrame | None = None
    curves: pd.DataFrame | None = None
    filter: dict[str, Any] | None = None
    distances: pd.DataFrame | None = None
    diatomics: pd.DataFrame | None = None
    alignment: pd.DataFrame | None = None
    physicality: pd.DataFrame | None = None
    efs: pd.DataFrame | None = None
    histories: dict[tuple[int, str], pd.DataFrame] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The run's name: that of the configuration, else that of the folder."""
        given = (self.config or {}).get("name")
        return str(given) if given else self.path.resolve().name

    @property
    def arms(self) -> list[str]:
        """Arms in the order of the configuration, then those that only the results know."""
        given = (self.config or {}).get("arms") or []
        if isinstance(given, dict):
            names = [str(name) for name in given]
        elif isinstance(given, (list, tuple)):
            names = [str(a.get("name", "")) if isinstance(a, dict) else str(a) for a in given]
        else:
            names = [str(given)]
        for frame in (self.physicality, self.efs):
            if frame is not None:
                names += sorted(frame["arm"].unique())
        found = list(dict.fromkeys(n for n in names if n))
        return sorted(found, key=lambda name: name != REFERENCE)  # stable: the reference first

    @property
    def seeds(self) -> list[int]:
        """Seeds of which there are results or learning curves."""
        seeds = {seed for seed, _ in self.histories}
        for frame in (self.physicality, self.efs):
            if frame is not None:
                seeds |= set(frame["seed"])
        return sorted(seeds)


def read_run(run_dir: Path) -> RunData:
    """Read a run folder.

    Parameters
    ----------
    run_dir
        The folder that ``physpretrain run`` writes.

    Returns
    -------
    RunData
        Parts that are missing or unreadable are ``None``, with the reason in ``notes``.

    Raises
    ------
    PhysPretrainError
        If ``run_dir`` is not a folder.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise PhysPretrainError(f"run folder {run_dir} does not exist")
    run = RunData(run_dir)

    def take(part: str, file: str, reader: Callable[[Path], Any]) -> Any:
        value, note = _try(run_dir / file, file, reader)
        if note:
            run.notes[part] = note
        return value

    run.config = take("config", "config.yaml", _mapping(lambda p: yaml.safe_load(p.read_text())))
    run.config_text, _ = _try(run_dir / "config.yaml", "config.yaml", lambda p: p.read_text())
    run.environment = take("environment", "environment.json", _json)
    run.timings = take("timings", "timings.json", _timings)
    run.summary = take("summary", "data/summary.json", _mapping(_json))
    run.examination = take("examination", "teacher/examination.json", _examination)
    run.teacher_errors = take("teacher_errors", "teacher/errors.json", _mapping(_json))
    run.teacher_history = take("teacher_history", "teacher/history.csv", _table("teacher_history"))
    run.curves = take("curves", "teacher/curves.csv", _table("curves"))
    run.filter = take("filter", "augment/filter.json", _filter)
    run.distances = take("distances", "augment/min_distances.csv", _table("distances"))
    run.diatomics = take("diatomics", "diatomics.csv", _table("diatomics"))
    run.alignment = take("alignment", "alignment.csv", _table("alignment"))
    run.efs = take("efs", "efs.csv", _table("efs"))
    run.physicality = take("physicality", "physicality.csv", _table("physicality"))
    _read_seed_folders(run)
    if run.efs is not None:
        run.efs = _with_arm_and_seed(run.efs)
    if run.physicality is not None:
        run.physicality = _outcomes(_with_arm_and_seed(run.physicality))
    return run


def _try(path: Path, name: str, reader: Callable[[Path], Any]) -> tuple[Any, str | None]:
    """What ``reader`` makes of a file, or the reason why there is nothing."""
    if not path.is_file():
        return None, f"{name} is not in the run folder."
    try:
        return reader(path), None
    # whatever a damaged file does to a parser, the rest of the report must not suffer
    except Exception as error:
        return None, f"{name} could not be read: {str(error).strip() or type(error).__name__}"


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _mapping(reader: Callable[[Path], Any]) -> Callable[[Path], dict[str, Any]]:
    def read(path: Path) -> dict[str, Any]:
        value = reader(path)
        if not isinstance(value, dict):
            raise TypeError("not a mapping")
        return value

    return read


def _filter(path: Path) -> dict[str, Any]:
    value = _mapping(_json)(path)
    counts = {str(reason): int(n) for reason, n in dict(value.get("counts") or {}).items()}
    before, kept = (None if value.get(k) is None else int(value[k]) for k in ("n_before", "n_kept"))
    return {"counts": counts, "n_before": before, "n_kept": kept}


def _examination(path: Path) -> dict[str, Any]:
    value = _mapping(_json)(path)
    failures = value.get("failures") or []
    return {
        "passed": bool(value.get("passed")),
        "failures": [str(f) for f in (failures if isinstance(failures, list) else [failures])],
        "pairs": [p | {"pair": _pair(p.get("pair", "?"))} for p in value.get("pairs") or [] if isinstance(p, dict)],
    }


def _timings(path: Path) -> list[dict[str, Any]]:
    rows = _json(path)
    if isinstance(rows, dict):
        rows = [{"stage": stage, "seconds": seconds} for stage, seconds in rows.items()]
    return [
        {"stage": str(r["stage"]), "seconds": float(r["seconds"]), "status": str(r.get("status", ""))} for r in rows
    ]


def _table(kind: str) -> Callable[[Path], pd.DataFrame]:
    def read(path: Path) -> pd.DataFrame:
        # names such as "NA" or "nan" are names, and "007" is not 7
        columns = pd.read_csv(path, nrows=0).columns
        missing_values = {c: [""] if c in TEXT else ["", "nan", "NaN", "<NA>", "None"] for c in columns}
        frame = pd.read_csv(path, dtype=dict.fromkeys(TEXT, str), keep_default_na=False, na_values=missing_values)
        missing = [c for c in COLUMNS[kind] if c not in frame.columns]
        if missing:
            raise ValueError(f"column {', '.join(missing)} missing")
        if frame.empty:
            raise ValueError("no rows")
        if "pair" in frame:
            frame["pair"] = frame["pair"].fillna("?").map(_pair)
        return frame

    return read


def _pair(name: Any) -> str:
    """One name for a pair of elements, whichever comes first."""
    return "-".join(sorted(str(name).split("-")))


def _read_seed_folders(run: RunData) -> None:
    """Learning curves, and the MD tables of the seeds where the collected table is not there yet."""
    parts = []
    for folder in sorted(run.path.glob("seed-*")):
        match = re.fullmatch(r"seed-(-?\d+)", folder.name)
        if not match:
            continue
        seed = int(match[1])
        for file in sorted(folder.glob("*/history.csv")):
            history, _ = _try(file, str(file.relative_to(run.path)), _table("history"))
            if history is not None:
                run.histories[seed, file.parent.name] = history
        for file in sorted(folder.glob("md/*.csv")):
            part, _ = _try(file, str(file.relative_to(run.path)), _table("physicality"))
            if part is not None:
                parts.append(part.assign(seed=seed, arm=file.stem))
    if not run.histories:
        run.notes["histories"] = "no seed-*/*/history.csv is in the run folder."
    if run.physicality is None and parts:
        run.physicality = pd.concat(parts, ignore_index=True)
        run.notes["physicality"] += " The trajectories below are those found in the seeds' folders."


def _with_arm_and_seed(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.copy()
    for column, default in (("arm", REFERENCE), ("seed", 0)):
        if column not in frame:
            frame[column] = default
    frame["arm"] = frame["arm"].fillna("?").astype(str)
    frame["seed"] = pd.to_numeric(frame["seed"], errors="coerce").fillna(-1).astype(int)
    return frame


def _outcomes(frame: pd.DataFrame) -> pd.DataFrame:
    """Add ``broken``, ``outcome`` (what went wrong first) and ``condition``."""
    for column in ("overlap", "lindemann_violation", "physical", "nan", "exploded"):
        frame[column] = _truth(frame[column]) if column in frame else False
    frame["structure_id"] = frame["structure_id"].fillna("?").astype(str)
    frame["broken"] = frame["nan"] | frame["exploded"]
    ranked = np.select(
        [frame["physical"], frame["overlap"], frame["broken"], frame["lindemann_violation"]],
        ["physical", "overlap", "broken", "lindemann"],
        "other",
    )
    # "reason" lists what happened in order of time
    reasons = frame["reason"].fillna("") if "reason" in frame else pd.Series("", index=frame.index)
    first = reasons.map(lambda r: FIRST.get(str(r).split(",")[0].strip()))
    frame["outcome"] = first.where(first.notna() & ~frame["physical"], ranked)
    for column in (
        "first_unphysical_step",
        "steps_done",
        "steps",
        "min_distance",
        "lindemann_local",
        "lindemann_global",
    ):
        frame[column] = pd.to_numeric(frame[column], errors="coerce") if column in frame else np.nan
    frame["condition"] = _conditions(frame)
    return frame


def _truth(column: pd.Series) -> pd.Series:
    return column.map(lambda value: str(value).strip().lower() in ("true", "1", "1.0", "yes"))


def _conditions(frame: pd.DataFrame) -> pd.Series:
    """Words such as ``NVT, 1000 K, 1 fs, 5000 steps`` for each row.

    The number of steps is told but does not separate: what fell short of it is
    still the same condition.
    """

    def words(row: dict[str, Any]) -> str:
        known = {k: row[k] for k in ("ensemble", "temperature", "timestep") if k in row and not pd.isna(row[k])}
        found = [str(known["ensemble"]).upper()] if "ensemble" in known else []
        for key, unit in (("temperature", "K"), ("timestep", "fs")):
            if key in known:
                try:
                    found.append(f"{float(known[key]):g} {unit}")
                except ValueError:
                    found.append(f"{known[key]} {unit}")
        return ", ".join(found) or "MD"

    condition = pd.Series([words(row) for row in frame.to_dict("records")], index=frame.index)
    steps = frame["steps"].groupby(condition).transform("max")
    told = steps.map(lambda n: "" if pd.isna(n) else f", {n:.0f} steps")
    return condition + told
