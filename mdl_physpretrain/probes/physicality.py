"""Probe of physicality: overlap, Lindemann indices and explosions of every trajectory (Table 1 of the paper)."""

from __future__ import annotations

import pandas as pd

from mdl_physpretrain.dynamics.assessment import assess
from mdl_physpretrain.probes.base import Answer, Probe, Simulated, Tables
from mdl_physpretrain.statistics.proportions import wilson_interval

__all__ = ["Physicality", "trajectory_counts"]


def trajectory_counts(table: pd.DataFrame) -> dict[str, int]:
    """How many trajectories of a table of :func:`mdl_physpretrain.dynamics.assessment.assess` fail, and at what."""
    return {
        "trajectories": len(table),
        "unphysical": int((~table["physical"]).sum()),
        "overlap": int(table["overlap"].sum()),
        "lindemann": int(table["lindemann_violation"].sum()),
        "broken": int((table["nan"] | table["exploded"]).sum()),
    }


class Physicality(Probe):
    """Overlap, Lindemann indices, NaN, explosion: no trajectory of the main simulation may fail."""

    name = "md"
    question = "MD stays physical"
    applies_to = "simulation"
    files = {"physicality": ("structure_id", "overlap", "lindemann_violation", "physical")}  # noqa: RUF012
    texts = ("closest_pair",)
    expected = frozenset({"physicality"})
    answer_place = 10

    def tables(self, subject: Simulated) -> dict[str, pd.DataFrame]:
        assert subject.runs is not None
        return {"physicality": assess(subject.runs, limits=subject.limits)}

    def answer(self, tables: Tables) -> Answer | None:
        table = tables.get("physicality")
        if table is None:
            return None
        table = table[table["label"].isna()] if "label" in table else table
        if not len(table):
            return None
        failures = table[~table["physical"].astype(bool)]
        low, high = wilson_interval(len(failures), len(table))
        share = f"95 % interval {100 * low:.0f}-{100 * high:.0f} %"
        words = f"{len(failures)} of {len(table)} trajectories unphysical ({share})"
        if not len(failures):
            return "yes", words
        first = failures["reason"].str.split(",").str[0].value_counts()
        return "no", f"{words}: " + ", ".join(f"{reason} {n}" for reason, n in first.items())
