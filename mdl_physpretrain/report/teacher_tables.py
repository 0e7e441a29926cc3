"""Tables of the teacher and of its labels."""

from __future__ import annotations

from typing import Any

import pandas as pd

from mdl_physpretrain.augmentation.coverage import uncovered
from mdl_physpretrain.probes.page import Cell, HtmlTable
from mdl_physpretrain.report.formats import DASH, number
from mdl_physpretrain.report.html_tables import Row, TableColumn, column, count, decimal, html_table, name, words

__all__ = ["change_errors", "comparison", "coverage", "filtered", "teacher_pairs"]

MOST_COMPOSITIONS = 12  # on the page, those with most pairs of frames; the CSV has all of them


def teacher_pairs(examination: dict[str, Any]) -> HtmlTable | None:
    """The examination of every pair."""
    pairs = [{"pair": "?"} | pair for pair in examination.get("pairs") or [] if isinstance(pair, dict)]
    if not pairs:
        return None

    def yes(title: str, key: str) -> TableColumn:
        answers = {None: Cell(DASH), True: Cell("yes"), False: Cell("no", css="flag")}
        return column(title, numeric=False, cell=lambda row: answers[None if row.get(key) is None else bool(row[key])])

    def passed(row: Row) -> Cell:
        return Cell("passed", css="good") if row.get("passed") else Cell("failed", css="flag")

    def well(row: Row) -> Cell:
        position = row.get("well_position")
        return Cell(number(position, 2), css="flag" if row.get("well") is False else "", key=position or "")

    def bonds(row: Row) -> Cell:
        return Cell(words(row.get("n_bonds")) or DASH, key=row.get("n_bonds"))

    columns = [
        name("Pair", "pair"),
        column("Verdict", numeric=False, cell=passed),
        yes("Core", "core"),
        decimal("Wall", "wall_energy", 1, "eV"),
        yes("Smooth", "smooth"),
        column("Well", "Å", cell=well),
        decimal("Data", "data_distance", 2, "Å"),
        column("Bonds", cell=bonds),
        name("Notes", "notes", css="wrap"),
    ]
    return html_table(pairs, columns, "teacher_pairs", sortable=len(pairs) > 6)


def filtered(result: dict[str, Any]) -> HtmlTable | None:
    """What the label filter removed, by reason."""
    counts, before = result.get("counts"), result.get("n_before")
    if not isinstance(counts, dict) or not counts:
        return None
    rows = [
        {"reason": str(reason).replace("_", " "), "removed": n, "share": f"{100 * n / before:.1f}%" if before else DASH}
        for reason, n in counts.items()
    ]
    columns = [name("Reason", "reason"), count("Removed", "removed")]
    return html_table(rows, [*columns, column("Share", cell=lambda row: Cell(row["share"]))], "filter")


def coverage(table: pd.DataFrame) -> HtmlTable:
    """How much of the distances of each pair of elements the data cover, alone and with augmented structures."""
    rows = []
    for pair, bins in table.groupby("pair", sort=False):
        shares = (bins["data"] >= bins["wanted"]).mean(), (bins["count"] >= bins["wanted"]).mean()
        holes = [stretch.removeprefix(f"{pair} ") for stretch in uncovered(bins)]
        reach = f"{bins['low'].min():.2f}–{bins['high'].max():.2f}"
        rows.append({"pair": pair, "reach": reach, "before": shares[0], "after": shares[1], "holes": ", ".join(holes)})
    columns = [
        name("Pair", "pair"),
        column("Core to data", "Å", cell=lambda row: Cell(row["reach"])),
        decimal("Covered by the data", "before", 0, "%", 100),
        decimal("With augmentation", "after", 0, "%", 100),
        name("Not covered", "holes", missing=DASH, css="wrap"),
    ]
    return html_table(rows, columns, "coverage", sortable=len(rows) > 6)


def comparison(table: pd.DataFrame) -> HtmlTable:
    """Native teachers that were fitted, and which one labels."""
    columns = [
        name("Teacher", "teacher"),
        column("Examination", cell=lambda row: Cell("passed") if row["passed"] else Cell("failed", css="bad")),
        decimal("Error", "error", 3, "eV/Å"),
        decimal("Of predicting none", "trivial", 3, "eV/Å"),
        *([decimal("Stiffness", "stiffness", 2)] if "stiffness" in table else []),
        name("Measured on", "of"),
        column("Labels", cell=lambda row: Cell("yes" if row["chosen"] else "")),
    ]
    return html_table(table.to_dict("records"), columns, "comparison")


def change_errors(table: pd.DataFrame) -> HtmlTable:
    """What the labels of each composition may be wrong by."""
    columns = [
        name("Composition", "composition"),
        count("Pairs of frames", "pairs"),
        decimal("Error", "error", 3, "eV/Å"),
        decimal("Of predicting none", "trivial", 3, "eV/Å"),
        decimal("Labels wrong by", "expected", 0, "% of the change", 100),
        *([name("Labelled by", "labelled_by")] if "labelled_by" in table else []),
    ]
    return html_table(table.head(MOST_COMPOSITIONS), columns, "change_errors", sortable=len(table) > 6)
