"""Liquids: what the Lindemann limits say of them, in the conclusions."""

from __future__ import annotations

import pandas as pd
from markupsafe import Markup

from mdl_physpretrain.report.conditions import NOT_JUDGED, main_conditions
from mdl_physpretrain.report.read import RunData
from mdl_physpretrain.report.sentences import Sentence
from mdl_physpretrain.stability.limits import LIQUID
from mdl_physpretrain.statistics.reference import KEPT, REFERENCE_POTENTIAL

__all__ = ["liquid_sentences"]


def liquid_sentences(run: RunData) -> list[Sentence]:
    """That melting was not judged, or the question whether what melts everywhere is a liquid."""
    table = run.physicality
    if table is None or not len(table):
        return []
    option = "--variant liquid" if run.is_check else "md.lindemann_variant: liquid"
    if liquid := _liquid_conditions(table):
        text = (
            f"Melting is no failure at {'; '.join(liquid)} ({option}): overlap, explosion and NaN alone make a "
            "trajectory unphysical there."
        )
        return [Sentence("neutral", "melting not judged", Markup.escape(text))]
    shown = table[table["condition"].isin(main_conditions(table)) & (table["arm"] != REFERENCE_POTENTIAL)]
    kept = "reference_verdict" in shown and bool((shown["reference_verdict"] == KEPT).any())
    if kept or run.variant != "literature" or not _all_melt_only(shown):
        return []
    text = (
        f"All {len(shown)} trajectories pass the Lindemann limits, and nothing else happens in any. If these materials "
        f"are liquid at this temperature, that is no failure: {option} says so."
    )
    return [Sentence("caution", "all melt: liquids?", Markup.escape(text))]


def _liquid_conditions(table: pd.DataFrame) -> list[str]:
    """Conditions in which melting was not judged."""
    if "lindemann_variant" not in table:
        return []
    words = table.loc[table["lindemann_variant"] == LIQUID, "condition"]
    return list(dict.fromkeys(words.str.removesuffix(NOT_JUDGED)))


def _all_melt_only(table: pd.DataFrame) -> bool:
    """Whether every trajectory passes the Lindemann limits, and neither overlaps nor breaks at any time."""
    only = table["lindemann_violation"] & ~table["overlap"] & ~table["broken"]
    return len(table) > 1 and bool(only.all())
