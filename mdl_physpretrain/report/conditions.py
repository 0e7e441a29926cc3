"""First failure of each trajectory, and the conditions of its simulation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from mdl_physpretrain.report.parse import truth
from mdl_physpretrain.stability.limits import LIQUID
from mdl_physpretrain.statistics.survival import length_caution

__all__ = ["NOT_JUDGED", "condition_words", "main_conditions", "too_short", "with_outcomes"]

NOT_JUDGED = ", melting not judged"  # behind the words of a condition
FIRST = {"overlap": "overlap", "nan": "broken", "explosion": "broken", "lindemann": "lindemann"}  # reason -> outcome
NUMBERS = ("first_unphysical_step", "steps_done", "steps", "min_distance", "lindemann_local", "lindemann_global",
           "timestep")  # fmt: skip


def with_outcomes(frame: pd.DataFrame) -> pd.DataFrame:
    """Add ``broken``, ``outcome`` (what went wrong first) and ``condition``; without what is not judged."""
    if "verdict" in frame:
        frame = frame[~frame["verdict"].isin(["not judged", "unreadable"])].reset_index(drop=True)
    for column in ("overlap", "lindemann_violation", "physical", "nan", "exploded"):
        frame[column] = truth(frame[column]) if column in frame else False
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
    for column in NUMBERS:
        frame[column] = pd.to_numeric(frame[column], errors="coerce") if column in frame else np.nan
    if "reference_verdict" in frame:
        beside = frame["reference_verdict"].notna()
        held = truth(frame["held_against"]) if "held_against" in frame else False
        frame["held_against"] = pd.Series(held, frame.index).astype("boolean").where(beside)
        step = pd.Series(frame.get("reference_step", np.nan), frame.index)
        frame["reference_step"] = pd.to_numeric(step, errors="coerce")
    words = pd.Series([condition_words(row) for row in frame.to_dict("records")], index=frame.index)
    if "label" in frame:  # simulations that differ in something that the words do not tell
        label = frame["label"].fillna("").astype(str)
        alike = label.groupby(words).transform("nunique") > 1
        words += (" (" + label + ")").where(alike & (label != "") & (words != label), "")
    frame["md"] = words
    frame["condition"] = _with_steps(frame)
    if "lindemann_variant" in frame:
        frame["condition"] += np.where(frame["lindemann_variant"] == LIQUID, NOT_JUDGED, "")
    if "label" in frame:  # the main simulation first
        frame = frame.sort_values("label", key=lambda label: label.fillna("") != "", kind="stable", ignore_index=True)
    return frame


def main_conditions(frame: pd.DataFrame) -> list[str]:
    """Conditions of the main simulation; all, where none is marked as a further one.

    Empty where only further ones were done: an MD without thermostat does not
    answer what the main one was asked.
    """
    if "label" in frame:
        frame = frame[frame["label"].fillna("") == ""]
    return list(dict.fromkeys(frame["condition"]))


def condition_words(row: Mapping[Any, Any]) -> str:
    """Words such as ``NVT, 1000 K, 1 fs`` of a row or of the settings of a simulation."""
    words = []
    for key, unit in (("ensemble", ""), ("temperature", " K"), ("timestep", " fs")):
        value = row.get(key)
        if value is None or pd.isna(value):
            continue
        try:
            words.append(f"{float(value):g}{unit}")
        except ValueError:
            words.append(f"{value}{unit}" if unit else str(value).upper())
    if row.get("barostat") == "cell_rescaling" and str(row.get("ensemble")).lower() == "npt":
        words.append("cell rescaling")
    label = row.get("label")
    return ", ".join(words) or (label if isinstance(label, str) and label else "MD")


def _with_steps(frame: pd.DataFrame) -> pd.Series:
    """The condition with its number of steps.

    Trajectories whose length alone differs share a condition (existing
    trajectories have the length they have), unless one arm and seed ran the
    same structure for two lengths: those are two experiments.
    """
    lengths = frame.groupby([c for c in ("md", "arm", "seed", "structure_id") if c in frame])["steps"]
    twice = (lengths.transform("nunique") > 1).groupby(frame["md"]).transform("any")
    longest = frame.groupby("md")["steps"].transform("max")
    steps = frame["steps"].where(twice, longest)
    return frame["md"] + steps.map(lambda n: "" if pd.isna(n) else f", {n:.0f} steps")


def too_short(frame: pd.DataFrame) -> str:
    """Which main simulations are too short to say that a potential stays physical; empty: none."""
    parts = [frame[frame["condition"] == condition] for condition in main_conditions(frame)]
    return length_caution((part["steps"].max(), part["timestep"].max()) for part in parts)
