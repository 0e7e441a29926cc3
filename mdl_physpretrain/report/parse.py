"""Parsers of the files of a run folder; each raises on what it cannot use."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from mdl_physpretrain.probes.registry import table_kinds
from mdl_physpretrain.probes.tables import read_table
from mdl_physpretrain.teacher.held_out import verdict_sentence

__all__ = ["attempt", "pair_name", "read_check", "read_examination", "read_filter", "read_json", "read_mapping",
           "read_timings", "table_reader", "truth"]  # fmt: skip

COLUMNS = {  # columns without which a file says nothing; those of the probes are theirs to tell
    "curves": ("pair", "r", "total"),
    "distances": ("set", "pair", "distance"),
    "coverage": ("pair", "low", "high", "data", "count", "wanted", "covered"),
    "decomposition": ("part", "total"),
    "comparison": ("teacher", "passed", "error", "trivial", "of", "chosen"),
    "change_errors": ("composition", "pairs", "error", "trivial", "expected"),
    "verdicts": ("arm", "question", "verdict", "finding"),
    "teacher_history": ("loss",),
    "history": ("epoch",),
    "rounds": ("round", "n_trajectories", "n_lost", "val_total"),
}


def attempt(path: Path, name: str, reader: Callable[[Path], Any]) -> tuple[Any, str | None]:
    """What ``reader`` makes of a file, or the reason why there is nothing."""
    if not path.is_file():
        return None, f"{name} is not in the run folder."
    try:
        return reader(path), None
    # whatever a damaged file does to a parser, the rest of the report must not suffer
    except Exception as error:
        return None, f"{name} could not be read: {str(error).strip() or type(error).__name__}"


def read_json(path: Path) -> Any:
    """Any JSON value."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_mapping(reader: Callable[[Path], Any]) -> Callable[[Path], dict[str, Any]]:
    """A reader that accepts only mappings."""

    def read(path: Path) -> dict[str, Any]:
        value = reader(path)
        if not isinstance(value, dict):
            raise TypeError("not a mapping")
        return value

    return read


def read_check(path: Path) -> dict[str, Any]:
    """``check.json``: command, potentials, settings."""
    value = read_mapping(read_json)(path)
    potentials = value.get("potentials") or {}
    if not isinstance(potentials, dict):
        raise TypeError("potentials is not a mapping")
    return value | {"potentials": {str(name): str(text) for name, text in potentials.items()}}


def read_filter(path: Path) -> dict[str, Any]:
    """Counts of the label filter."""
    value = read_mapping(read_json)(path)
    counts = {str(reason): int(n) for reason, n in dict(value.get("counts") or {}).items()}
    before, kept = (None if value.get(k) is None else int(value[k]) for k in ("n_before", "n_kept"))
    return {"counts": counts, "n_before": before, "n_kept": kept}


def read_examination(path: Path) -> dict[str, Any]:
    """The teacher's examination."""
    value = read_mapping(read_json)(path)
    failures = value.get("failures") or []
    forces = value.get("forces")
    return {
        "passed": bool(value.get("passed")),
        "words": [verdict_sentence(forces)] if isinstance(forces, dict) else [],
        "n_extrapolated": len(value.get("extrapolated") or []),
        "failures": [str(f) for f in (failures if isinstance(failures, list) else [failures])],
        "pairs": [p | {"pair": pair_name(p.get("pair", "?"))} for p in value.get("pairs") or [] if isinstance(p, dict)],
    }


def read_timings(path: Path) -> list[dict[str, Any]]:
    """Stages with their seconds."""
    rows = read_json(path)
    if isinstance(rows, dict):
        rows = [{"stage": stage, "seconds": seconds} for stage, seconds in rows.items()]
    return [
        {"stage": str(r["stage"]), "seconds": float(r["seconds"]), "status": str(r.get("status", ""))} for r in rows
    ]


def table_reader(kind: str) -> Callable[[Path], pd.DataFrame]:
    """A reader of CSV files of a kind: that of a probe, or a key of ``COLUMNS``."""
    probe = table_kinds().get(kind)
    required = COLUMNS[kind] if probe is None else probe.files[kind]

    def read(path: Path) -> pd.DataFrame:
        frame = read_table(path, texts=probe.texts if probe else (), whole_steps=False)
        missing = [c for c in required if c not in frame.columns]
        if missing:
            raise ValueError(f"column {', '.join(missing)} missing")
        if frame.empty:
            raise ValueError("no rows")
        if "pair" in frame:
            frame["pair"] = frame["pair"].fillna("?").map(pair_name)
        if "structure_id" in frame:
            frame["structure_id"] = frame["structure_id"].fillna("?")
        for column in probe.numbers if probe else ():
            if column in frame:
                frame[column] = pd.to_numeric(frame[column], errors="coerce")
        for column in probe.flags if probe else ():
            if column in frame:
                frame[column] = truth(frame[column])
        return frame

    return read


def pair_name(name: Any) -> str:
    """One name for a pair of elements, whichever comes first."""
    return "-".join(sorted(str(name).split("-")))


def truth(column: pd.Series) -> pd.Series:
    """True and false, however they were written."""
    return column.map(lambda value: str(value).strip().lower() in ("true", "1", "1.0", "yes")).astype(bool)
