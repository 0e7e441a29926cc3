"""The conclusions of a run: sentences, the numbers at a glance, and the paired tests behind them."""

from __future__ import annotations

from typing import Any

import pandas as pd
from markupsafe import Markup

from mdl_physpretrain.report.conditions import main_conditions
from mdl_physpretrain.report.formats import p_value, percent_range, spread
from mdl_physpretrain.report.html_tables import OUTCOMES, Cell, Column, HtmlTable
from mdl_physpretrain.report.read import RunData
from mdl_physpretrain.report.sentences import Sentence, accuracy_sentence, physicality_sentence, teacher_sentence
from mdl_physpretrain.report.tables import main_split
from mdl_physpretrain.report.yardsticks import cut_trainings, pair_sentences, trivial_sentences
from mdl_physpretrain.statistics.paired import Comparison
from mdl_physpretrain.statistics.seeds import PairedDifference

__all__ = ["paired_tests", "run_sentences", "summary_cards"]

CRITERIA = {"unphysical": "unphysical (any)", "overlap": "atom overlap", "lindemann_violation": "Lindemann",
            "held_against": "lost, not by the reference"}  # fmt: skip


def run_sentences(
    run: RunData,
    counts: pd.DataFrame,
    errors: pd.DataFrame,
    paired: list[Comparison],
    differences: list[PairedDifference],
) -> list[Sentence]:
    """The conclusions about the arms of a run."""
    several = len(counts) > 0 and counts["condition"].nunique() > 1
    cut = cut_trainings(run.plan)
    sentences = [
        physicality_sentence(c, counts, name_condition=several, cut=cut) for c in paired if c.criterion == "unphysical"
    ]
    if len(counts) and not sentences:
        text = Markup("Trajectories of one arm only: there is nothing to compare with.")
        sentences.append(Sentence("neutral", "one arm only", text))
    if differences:
        split = main_split(errors)
        by_arm = errors[errors["split"] == split].set_index("arm")
        sentences += [accuracy_sentence(d, by_arm, split=split, cut=cut) for d in differences]
    sentences += [*trivial_sentences(run), *pair_sentences(run)]
    if run.examination is not None:
        sentences.append(teacher_sentence(run.examination))
    return sentences


def summary_cards(run: RunData, counts: pd.DataFrame, errors: pd.DataFrame) -> list[dict[Any, Any]]:
    """Per condition and arm: the numbers at a glance. What happened first gives the bar its colours."""
    totals: dict[str, str] = {}
    if len(errors):
        main = errors[errors["split"] == main_split(errors)]
        totals = {row["arm"]: spread(row["total"], row["total_std"]) for row in main.to_dict("records")}
    if run.physicality is None:
        return [{"arm": arm, "condition": "", "total": 0, "bar": [], "error": error} for arm, error in totals.items()]
    outcomes = run.physicality.groupby(["arm", "condition"])["outcome"].value_counts()
    shown = main_conditions(run.physicality) if run.is_check else counts["condition"].unique()
    cards: list[dict[Any, Any]] = []
    for row in counts[counts["condition"].isin(shown)].to_dict("records"):
        happened = outcomes.loc[row["arm"], row["condition"]]
        bar = [(key, label, int(happened[key])) for key, label in OUTCOMES.items() if key in happened]
        interval = percent_range(row["physical_low"], row["physical_high"])
        cards.append({**row, "bar": bar, "error": totals.get(row["arm"]), "interval": interval})
    return cards


def paired_tests(paired: list[Comparison]) -> HtmlTable | None:
    """The paired tests behind the conclusions."""
    if not paired:
        return None
    several = len({c.condition for c in paired}) > 1
    columns = [
        Column("Comparison", numeric=False),
        Column("Criterion", numeric=False),
        *map(Column, ("Pairs", "Only reference fails", "Only arm fails", "McNemar p", "Seeds fewer / equal / more")),
        Column("Difference", numeric=False),
    ]
    rows = []
    for c in paired:
        words = {"supported": f"{c.direction}, supported", "indicated": f"{c.direction}, not established"}
        texts = (CRITERIA[c.criterion], c.n_pairs, c.only_reference, c.only_arm, p_value(c.p_value))
        seeds = f"{c.seeds_better} / {c.seeds_equal} / {c.seeds_worse}"
        first = Cell(f"{c.arm} vs {c.reference}", c.condition if several else "")
        last = words.get(c.conclusion, "not supported")
        rows.append([first, *(Cell(str(text)) for text in (*texts, seeds, last))])
    return HtmlTable(columns, rows, "comparisons")
