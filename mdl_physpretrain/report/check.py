"""The conclusions of ``physpretrain check``: its sentences, paired tests and answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
from markupsafe import Markup

from mdl_physpretrain.report.conditions import main_conditions
from mdl_physpretrain.report.formats import DASH, p_value, plural, share
from mdl_physpretrain.report.html_tables import Cell, Column, HtmlTable
from mdl_physpretrain.report.read import RunData
from mdl_physpretrain.report.reference import held_against
from mdl_physpretrain.report.sentences import Sentence
from mdl_physpretrain.statistics.paired import compare_potentials

if TYPE_CHECKING:
    from mdl_physpretrain.statistics.paired import PotentialPair

__all__ = ["answer_table", "check_comparisons", "check_sentences", "check_tests"]

MOODS = {"fewer": "good", "more": "bad"}


def check_comparisons(run: RunData) -> list[tuple[str, PotentialPair]]:
    """Every potential against the first one, by condition."""
    table, comparisons = run.physicality, []
    if table is None:
        return []
    for condition in main_conditions(table):  # further simulations are too short and few for a test
        rows = table[table["condition"] == condition].drop_duplicates(["arm", "structure_id", "seed"])
        present = [arm for arm in run.judged if (rows["arm"] == arm).any()]
        comparisons += [(condition, compare_potentials(rows, present[0], arm)) for arm in present[1:]]
    return comparisons


def check_sentences(run: RunData, counts: pd.DataFrame, pairs: list[tuple[str, PotentialPair]]) -> list[Sentence]:
    """A sentence on each potential, then one on each comparison."""
    answers = run.answers
    main = [] if run.physicality is None else main_conditions(run.physicality)
    sentences = []
    for arm in run.judged:
        rows = counts[counts["arm"] == arm].to_dict("records") if len(counts) else []
        answered = any(row["condition"] in main for row in rows)
        texts = [] if answered or not rows else ["The main MD has no answer."]
        texts += [_trajectories(row, several=len(rows) > 1 or not answered) for row in rows]
        counted = [row for row in rows if row["condition"] in main]
        failures = sum(row["unphysical"] for row in rows)
        flags = 0 if answers is None else int(((answers["arm"] == arm) & (answers["verdict"] == "no")).sum())
        unjudged = answers is not None and bool(((answers["arm"] == arm) & (answers["verdict"] == "not judged")).any())
        if not texts and (answers is None or not (answers["arm"] == arm).any()):
            continue
        mood, label = "good", "no failure seen"
        if failures:
            counted = counted if sum(row["unphysical"] for row in counted) else rows
            failed, total = (sum(row[key] for row in counted) for key in ("unphysical", "total"))
            table = run.physicality
            excused = table is not None and not held_against(table[table["arm"] == arm])
            mood, label = "bad", f"{failed} of {total} fail"
            if excused:
                mood, label = "caution" if flags else "good", f"{label}, as with the reference"
        elif flags:
            mood, label = "caution", f"{plural(flags, 'answer')} no"
        elif not rows and unjudged:
            mood, label = "caution", "MD not judged"
        elif not rows:
            label = "no flag"
        sentences.append(
            Sentence(mood, f"{arm}: {label}", Markup("<strong>{}</strong>. ").format(arm) + Markup(" ").join(texts))
        )
    several = len({condition for condition, _ in pairs}) > 1
    for condition, pair in pairs:
        start = f"{condition}. " if several else ""
        label = f"{pair.potential} vs {pair.reference}: no difference shown"
        mood = "neutral"
        if pair.conclusion == "supported":
            mood, label = MOODS[pair.direction], f"{pair.potential}: {pair.direction} unphysical than {pair.reference}"
        elif pair.conclusion == "indicated":
            mood, label = "caution", f"{pair.potential}: {pair.direction} unphysical than {pair.reference}?"
        sentences.append(Sentence(mood, label, Markup("{}{}").format(start, pair.sentence())))
    return sentences


def _trajectories(row: Mapping[Any, Any], *, several: bool) -> str:
    start = f"{row['condition']}: " if several else ""
    kinds = [(row["overlap"], "atom overlap"), (row["lindemann"], "Lindemann"), (row["broken"], "NaN or explosion")]
    failures = ", ".join(f"{n} {kind}" for n, kind in kinds if n)
    total, failed = row["total"], row["unphysical"]
    text = f"{start}Unphysical trajectories: {share(failed, total, row['unphysical_low'], row['unphysical_high'])}"
    return text + (f": {failures}." if failures else ".")


def check_tests(pairs: list[tuple[str, PotentialPair]]) -> HtmlTable | None:
    """The paired tests behind the sentences."""
    if not pairs:
        return None
    several = len({condition for condition, _ in pairs}) > 1
    repeats = any(pair.n_seeds > 1 for _, pair in pairs)
    columns = [
        Column("Comparison", numeric=False),
        Column("Pairs"),
        Column("Only reference fails"),
        Column("Only potential fails"),
        Column("McNemar p"),
    ]
    columns += [Column("Structures fewer / more"), Column("Sign test p")] if repeats else []
    columns.append(Column("Difference", numeric=False))
    rows = []
    for condition, c in pairs:
        words = {"supported": f"{c.direction}, supported", "indicated": f"{c.direction}, not established"}
        cells = [
            Cell(f"{c.potential} vs {c.reference}", condition if several else ""),
            Cell(str(c.n_pairs)),
            Cell(str(c.only_reference)),
            Cell(str(c.only_potential)),
            Cell(p_value(c.p_pairs)),
        ]
        if repeats:
            counts = f"{c.structures_better} / {c.structures_worse}"
            cells += [Cell(counts), Cell(p_value(c.p_structures))]
        rows.append([*cells, Cell(words.get(c.conclusion, "not supported"))])
    return HtmlTable(columns, rows, "comparisons")


def answer_table(run: RunData) -> HtmlTable | None:
    """The questions of the check down, potentials across."""
    table = run.answers
    if table is None:
        return None
    table = table.astype(object).where(table.notna(), "")  # columns of numbers take no text
    arms = [arm for arm in run.judged if (table["arm"] == arm).any()]
    columns = [Column("Question", numeric=False), *(Column(arm, numeric=False) for arm in arms)]
    rows = []
    for question, group in table.groupby("question", sort=False):
        cells = [Cell(str(question), css="wrap")]
        for arm in arms:
            answers = group[group["arm"] == arm]
            answer = str(answers["verdict"].iloc[0]) if len(answers) else ""
            finding = str(answers["finding"].iloc[0]) if len(answers) else ""
            css = {"yes": "good", "no": "flag"}.get(answer, "")
            cells.append(Cell("" if answer == "value" else answer or DASH, finding, css=f"{css} wrap".strip()))
        rows.append(cells)
    return HtmlTable(columns, rows, "verdicts")
