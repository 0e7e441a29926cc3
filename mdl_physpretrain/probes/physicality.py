"""Probe of physicality: overlap, Lindemann indices and explosions of every trajectory (Table 1 of the paper)."""

from __future__ import annotations

import pandas as pd

from mdl_physpretrain.dynamics.assessment import assess
from mdl_physpretrain.probes.base import Answer, Probe, Simulated, Tables
from mdl_physpretrain.stability.limits import LIQUID
from mdl_physpretrain.statistics.proportions import wilson_interval
from mdl_physpretrain.statistics.reference import compare_with_reference, has_reference

__all__ = ["Physicality", "trajectory_counts"]


def trajectory_counts(table: pd.DataFrame) -> dict[str, int]:
    """How many trajectories of a table of :func:`mdl_physpretrain.dynamics.assessment.assess` fail, and at what."""
    if "verdict" in table:
        table = table[~table["verdict"].isin(["not judged", "unreadable"])]
    return {
        "trajectories": len(table),
        "unphysical": int((~table["physical"]).sum()),
        "overlap": int(table["overlap"].sum()),
        "lindemann": int(table["lindemann_violation"].sum()),
        "broken": int((table["nan"] | table["exploded"]).sum()),
    }


def _time_step(table: pd.DataFrame) -> dict[str, float]:
    return {} if "timestep" in table else {"timestep": 1.0}


class Physicality(Probe):
    """Overlap, Lindemann indices, NaN, explosion: no trajectory of the main simulation may fail.

    But for those that the reference potential loses, too, where there is one.
    """

    name = "md"
    question = "MD stays physical"
    applies_to = "simulation"
    files = {"physicality": ("structure_id", "overlap", "lindemann_violation", "physical")}  # noqa: RUF012
    texts = ("closest_pair", "mobile", "detail", "reason_paper")
    expected = frozenset({"physicality"})
    answer_place = 10

    def tables(self, subject: Simulated) -> dict[str, pd.DataFrame]:
        assert subject.runs is not None
        return {"physicality": assess(subject.runs, limits=subject.limits)}

    def answer(self, tables: Tables) -> Answer | None:
        table = tables.get("physicality")
        if table is None:
            return None
        table = table[table["label"].fillna("") == ""] if "label" in table else table
        unjudged = table["verdict"] == "not judged" if "verdict" in table else pd.Series(False, index=table.index)
        if not len(table):
            return None
        if unjudged.all():
            return "not judged", "no trajectory could be judged: none has more than one frame in which anything moved"
        table = table[~unjudged]
        failures = table[~table["physical"].astype(bool)]
        low, high = wilson_interval(len(failures), len(table))
        share = f"95 % interval {100 * low:.0f}-{100 * high:.0f} %"
        words = f"{len(failures)} of {len(table)} trajectories unphysical ({share})"
        if "lindemann_variant" in table and (table["lindemann_variant"] == LIQUID).all():
            words += "; melting not judged"
        mobile = table["mobile"].dropna() if "mobile" in table else pd.Series(dtype=object)
        diffusing = sorted({symbol for text in mobile.astype(str) for symbol in text.split(", ") if symbol})
        if diffusing:
            words += f"; {', '.join(diffusing)} diffuse"
        if len(failures):
            first = failures["reason"].str.split(",").str[0].value_counts()
            words += ": " + ", ".join(f"{reason} {n}" for reason, n in first.items())
        if not has_reference(table):
            return "no" if len(failures) else "yes", words
        (beside,) = compare_with_reference(table.assign(condition="", **_time_step(table)), [str(table["arm"].iloc[0])])
        reach = f"95 % interval {100 * beside.low:.0f}-{100 * beside.high:.0f} %"
        words += f"; {beside.lost} of the {beside.kept} that the reference potential keeps ({reach})"
        words += f", {beside.fell} by overlap or explosion where it melts" if beside.fell else ""
        words += f"; {beside.excused} lost with it, too" if beside.excused else ""
        alone = int((failures["reference_verdict"].isna()).sum())
        words += f"; {alone} without a reference" if alone else ""
        return "no" if beside.held or alone else "yes", words
