"""Tables as the page shows them: headings, units, formatted cells, keys to sort by."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd

from mdl_physpretrain.probes.page import Cell, Column, HtmlTable
from mdl_physpretrain.report.formats import DASH, duration, number, percent_range, plural, spread
from mdl_physpretrain.report.read import RunData
from mdl_physpretrain.report.tables import efs_reference_rows
from mdl_physpretrain.statistics.reference import has_reference
from mdl_physpretrain.statistics.survival import NOT_RUN

__all__ = [
    "Cell",
    "Column",
    "HtmlTable",
    "alignment",
    "column",
    "count",
    "decimal",
    "efs",
    "html_table",
    "name",
    "per_seed",
    "physicality",
    "replay",
    "rounds",
    "timings",
    "trajectories",
    "words",
]  # fmt: skip

Row = dict[Any, Any]
MAX_ROWS = 1000  # trajectories on the page; the CSV has all of them
OUTCOMES = {
    "physical": "physical",
    "overlap": "atom overlap",
    "lindemann": "Lindemann",
    "broken": "NaN or explosion",
    "other": "other",
}
CRITERIA = {"overlap": "Atom overlap", "lindemann": "Lindemann", "broken": "NaN, explosion", "physical": "Physical"}
ERRORS = (  # heading, unit, column, factor to that unit, decimals
    ("Energy", "eV / structure", "energy_mae", 1, 3),
    ("Energy", "meV / atom", "energy_per_atom_mae", 1000, 1),
    ("Forces", "eV/Å", "forces_mae", 1, 4),
    ("Stress", "eV/Å³", "stress_mae", 1, 5),
    ("Stress", "GPa", "stress_mae_gpa", 1, 3),
    ("Total", "", "total", 1, 3),
)


TableColumn = tuple[Column, Callable[[Row], Cell]]  # a heading, and what makes its cell of a row


def html_table(rows: pd.DataFrame | list[Row], columns: list[TableColumn], file: str, **options: Any) -> HtmlTable:
    """The table whose columns make their cells of every row; ``options`` are fields of :class:`HtmlTable`."""
    records: list[Row] = rows.to_dict("records") if isinstance(rows, pd.DataFrame) else rows
    cells = [[cell(row) for _, cell in columns] for row in records]
    return HtmlTable([heading for heading, _ in columns], cells, file, **options)


def column(title: str, unit: str = "", *, cell: Callable[[Row], Cell], numeric: bool = True) -> TableColumn:
    """A column with what makes its cells."""
    return Column(title, unit, numeric), cell


def name(title: str, key: str, *, missing: str = "", css: str = "") -> TableColumn:
    """A column of words."""
    return column(title, numeric=False, cell=lambda row: Cell(words(row.get(key)) or missing, css=css))


def count(title: str, key: str) -> TableColumn:
    """A column of whole numbers."""
    return column(title, cell=lambda row: Cell(str(row[key]), key=row[key]))


def decimal(title: str, key: str, digits: int, unit: str = "", factor: float = 1) -> TableColumn:
    """A column of numbers with fixed decimals, those of the table times ``factor``."""

    def cell(row: Row) -> Cell:
        value = row.get(key)
        if value is None or pd.isna(value):
            return Cell(DASH, key="")
        return Cell(number(factor * value, digits), key=value)

    return column(title, unit, cell=cell)


def _arm(heading: str, *, note: str = "") -> TableColumn:
    """Arm or potential with its mark; ``note``: the column whose words stand below."""
    return column(heading, numeric=False, cell=lambda row: Cell(row["arm"], row.get(note, ""), arm=row["arm"]))


def _condition(table: pd.DataFrame) -> str:
    """The column with the condition where there are several."""
    return "condition" if table["condition"].nunique() > 1 else ""


def words(value: Any) -> str:
    """Text of a value; none for a missing one."""
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


def physicality(table: pd.DataFrame, heading: str, *, seeds: bool, still: pd.DataFrame) -> HtmlTable:
    """Table 1 with intervals.

    Parameters
    ----------
    table, still
        Of :func:`mdl_physpretrain.report.tables.physicality_table` and ``still_physical_table``.
    heading
        Heading of the first column.
    seeds
        Whether seeds repeat a training, and their spread is told.
    """

    def total(row: Row) -> Cell:
        return Cell(str(row["total"]), plural(row["seeds"], "seed") if seeds or row["seeds"] > 1 else "")

    def failing(row: Row, criterion: str) -> Cell:
        note = percent_range(row[f"{criterion}_low"], row[f"{criterion}_high"])
        if row["seeds"] > 1 and seeds:
            note += f"\nper seed\n{spread(row[f'{criterion}_seed_mean'], row[f'{criterion}_seed_std'], 1)}"
        css = "" if criterion == "physical" else "bad" if row[criterion] else "zero"
        return Cell(str(row[criterion]), note, css=css)

    columns = [_arm(heading, note=_condition(table)), column("Trajectories", cell=total)]
    columns += [column(title, cell=partial(failing, criterion=key)) for key, title in CRITERIA.items()]
    if len(still):
        by_arm = still.set_index(["condition", "arm", "time"]).to_dict("index")

        def watched(row: Row, time: float) -> Cell:
            at = by_arm.get((row["condition"], row["arm"], time))
            if at is None or not at["total"]:
                return Cell(DASH if at is None else NOT_RUN, css="brief")
            return Cell(
                f"{100 * at['share']:.0f}%",
                f"{at['physical']} of {at['total']}\n{percent_range(at['low'], at['high'])}",
            )

        times = sorted(still.loc[still["total"] > 0, "time"].unique())  # that something was run for
        columns += [column("Physical at", f"{time:g} ps", cell=partial(watched, time=time)) for time in times]
    return html_table(table, columns, "physicality")


def alignment(table: pd.DataFrame) -> HtmlTable:
    """Fig. B.1 in numbers, of :func:`mdl_physpretrain.probes.force_alignment.alignment_summary`."""

    def atoms(row: Row, key: str) -> Cell:
        return Cell(str(row[key]) if row["n_atoms"] or row["left_out"] else DASH)

    columns = [
        column("Arm", numeric=False, cell=lambda row: Cell(row["arm"], arm=row["arm"] if row["n_atoms"] else None)),
        column("Atoms", cell=partial(atoms, key="n_atoms")),
        column("Without direction", cell=partial(atoms, key="left_out")),
        column("Mean", "°", cell=lambda row: Cell(spread(row["mean"], row["mean_error"], 1))),
        decimal("Median", "median", 1, "°"),
        *(decimal(f"Below {limit}°", f"below_{limit}", 0, "%", 100) for limit in (30, 60, 90)),
    ]
    return html_table(table.reset_index(), columns, "alignment")


def per_seed(table: pd.DataFrame, heading: str) -> HtmlTable:
    """Counts of each seed."""
    columns = [name("Condition", "condition")] if _condition(table) else []
    columns += [count("Seed", "seed"), _arm(heading), count("Trajectories", "total")]
    columns += [count(title, key) for key, title in CRITERIA.items()]
    return html_table(table, columns, "physicality_per_seed", sortable=True)


def efs(table: pd.DataFrame, run: RunData) -> HtmlTable:
    """Table 2: mean ± standard deviation over seeds, the lowest total of each split marked."""
    several = table["split"].nunique() > 1
    lowest = table.groupby("split")["total"].min()

    def potential(row: Row) -> Cell:
        if "arm" not in row:
            return Cell(row["name"], row["note"])
        notes = [] if run.is_check else [plural(row["seeds"], "seed")]
        return Cell(row["arm"], " · ".join(notes + ([row["split"]] if several else [])), arm=row["arm"])

    def error(row: Row, key: str, factor: float, digits: int) -> Cell:
        best = key == "total" and row["total"] == lowest.get(row.get("split"))
        std = factor * row.get(f"{key}_std", math.nan)
        note = f"± {number(std, digits)}" if math.isfinite(std) else ""
        return Cell(number(factor * row[key], digits), note, css="best" if best else "")

    columns = [column("Potential" if run.is_check else "Arm", numeric=False, cell=potential)]
    for title, unit, key, factor, digits in ERRORS:
        columns.append(column(title, unit, cell=partial(error, key=key, factor=factor, digits=digits)))
    yardsticks = efs_reference_rows(run)
    css = [""] * len(table) + ["reference"] * len(yardsticks)
    return html_table([*table.to_dict("records"), *yardsticks], columns, "efs", row_css=css)


def trajectories(table: pd.DataFrame, heading: str) -> HtmlTable:
    """One row per trajectory, failing ones marked."""

    def outcome(row: Row) -> Cell:
        kind, reason = str(row["outcome"]), words(row.get("reason"))
        return Cell(OUTCOMES[kind], "" if reason == kind else reason, css="" if kind == "physical" else "flag")

    def first(row: Row) -> Cell:
        step = row["first_unphysical_step"]
        return Cell(DASH, key="") if pd.isna(step) else Cell(f"{int(step)}", key=int(step))

    def pair(row: Row) -> Cell:
        closest, detail = words(row.get("closest_pair")), words(row.get("detail"))
        other = "apart" in detail and not detail.startswith(f"{closest} ")  # of large atoms beside a short bond
        return Cell(closest or DASH, detail if other else "")

    def beside(row: Row) -> Cell:
        verdict = words(row["reference_verdict"])
        at = f"at step {row['reference_step']:.0f}" if verdict and verdict != "kept" else ""
        return Cell(verdict or DASH, at, css="flag" if str(row["held_against"]) == "True" else "")

    def structure(row: Row) -> Cell:
        return Cell(words(row["structure_id"]), words(row.get("formula")))

    columns = [column("Structure", numeric=False, cell=structure)]
    columns += [name("Condition", "condition")] if _condition(table) else []
    columns += [
        _arm(heading),
        count("Seed", "seed"),
        column("Outcome", numeric=False, cell=outcome),
        column("First at step", cell=first),
        decimal("Min. distance", "min_distance", 2, "Å"),
        decimal("Threshold", "overlap_threshold", 2, "Å"),
        column("Closest pair", numeric=False, cell=pair),
        decimal("Lindemann, local", "lindemann_local", 3),
        decimal("Lindemann, global", "lindemann_global", 3),
    ]
    if has_reference(table):
        columns.append(column("Reference", numeric=False, cell=beside))
    shown = table.head(MAX_ROWS)
    css = ["" if outcome == "physical" else "failing" for outcome in shown["outcome"]]
    return html_table(shown, columns, "trajectories", sortable=True, row_css=css, css="dense")


def replay(table: pd.DataFrame) -> HtmlTable:
    """Which of the teacher's labels each network replayed, and what that was decided by."""
    columns = [
        name("Arm", "arm"),
        count("Seed", "seed"),
        name("Replayed labels", "scope"),
        count("Structures", "n_labels"),
        decimal("Network's error of changes", "network_error", 1, "%", 100),
        decimal("Teacher's", "teacher_error", 1, "%", 100),
    ]
    if table["simulated"].notna().any():
        columns += [
            decimal("Tolerance", "tolerance", 2),
            decimal("Trajectories lost in the trial", "lost", 0),
            decimal("With the usual tolerance", "lost_closer", 0),
            decimal("Of", "simulated", 0),
        ]
    return html_table(table, columns, "replay")


def rounds(table: pd.DataFrame) -> HtmlTable:
    """What the closed loops saw of each network, and what they made of it."""

    def verdict(row: Row) -> Cell:
        if not row["round"]:
            return Cell("finetuned")
        taken = {"True": "accepted", "False": "refused"}.get(str(row.get("accepted")))
        return Cell(taken or "nothing to learn", css="bad" if taken == "refused" else "")

    def lost(row: Row) -> Cell:
        return Cell(f"{row['n_lost']:g} of {row['n_trajectories']:g}", key=row["n_lost"])

    marks = [c for c in table if str(c).startswith("physical_at_")]
    shares = [
        decimal(f"At {str(c).removeprefix('physical_at_').removesuffix('ps')} ps", str(c), 0, "% physical", 100)
        for c in marks
    ]
    columns = [
        name("Arm", "arm"),
        count("Seed", "seed"),
        count("Round", "round"),
        column("Network", numeric=False, cell=verdict),
        decimal("Validation total", "val_total", 3),
        column("Lost in MD", cell=lost),
        decimal("First loss", "first_loss_fs", 0, "fs"),
        *shares,
        name("Holes of pairs", "holes", missing=DASH, css="wrap"),
        count("Collapse", "collapsed"),
        count("New structures", "n_new"),
        decimal("Time", "seconds", 0, "s"),
    ]
    return html_table(table, columns, "rounds")


def timings(rows: list[dict[str, Any]]) -> HtmlTable:
    """Wall time per stage with a bar."""
    finite = [row["seconds"] for row in rows if math.isfinite(row["seconds"])]
    total, longest = sum(finite), max([*finite, 1e-9])

    def share(row: Row) -> Cell:
        if row is overall:
            return Cell("")
        return Cell(f"{100 * row['seconds'] / total:.0f}%" if total and math.isfinite(row["seconds"]) else DASH)

    def bar(row: Row) -> Cell:
        drawn = row is not overall and math.isfinite(row["seconds"])
        return Cell(f"{100 * row['seconds'] / longest:.1f}" if drawn else "0", css="bar")

    overall = {"stage": "all stages", "seconds": total, "status": ""}
    columns = [
        name("Stage", "stage"),
        column("Time", cell=lambda row: Cell(duration(row["seconds"]))),
        column("Share", cell=share),
        column("", numeric=False, cell=bar),
        column("Status", numeric=False, cell=lambda row: Cell(row["status"] or ("" if row is overall else DASH))),
    ]
    css = [""] * len(rows) + ["total"]
    return html_table([*rows, overall], columns, "timings", row_css=css)
