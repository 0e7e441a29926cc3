"""Tables as the page shows them: headings, units, formatted cells, keys to sort by."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from mdl_physpretrain.probes.page import DASH, Cell, Column, HtmlTable, number, spread
from mdl_physpretrain.report.read import RunData
from mdl_physpretrain.report.tables import efs_reference_rows

__all__ = [
    "Cell",
    "Column",
    "HtmlTable",
    "alignment",
    "efs",
    "filtered",
    "per_seed",
    "physicality",
    "teacher_pairs",
    "trajectories",
]

MAX_ROWS = 1000  # trajectories on the page; the CSV has all of them

OUTCOMES = {
    "physical": "physical",
    "overlap": "atom overlap",
    "lindemann": "Lindemann",
    "broken": "NaN or explosion",
    "other": "other",
}


def _count(row: dict[str, Any], name: str, *, bad: bool, seeds: bool) -> Cell:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    mean, std = row[f"{name}_seed_mean"], row[f"{name}_seed_std"]
    note = f"{100 * low:.0f}–{100 * high:.0f}%" if math.isfinite(low) else ""
    if row["seeds"] > 1 and seeds:
        note += f"\nper seed {spread(mean, std, 1)}"
    css = "" if not bad else ("bad" if row[name] else "zero")
    return Cell(str(row[name]), note, css=css)


def physicality(table: pd.DataFrame, who: str, *, seeds: bool) -> HtmlTable:
    """Table 1 with intervals; ``seeds``: whether seeds repeat a training, and their spread is told."""
    several = table["condition"].nunique() > 1
    columns = [
        Column(who, numeric=False),
        Column("Trajectories"),
        Column("Atom overlap"),
        Column("Lindemann"),
        Column("NaN, explosion"),
        Column("Physical"),
    ]
    rows = []
    for row in table.to_dict("records"):
        told = f"{row['seeds']} seed" + ("s" if row["seeds"] != 1 else "") if seeds or row["seeds"] > 1 else ""
        rows.append(
            [
                Cell(row["arm"], row["condition"] if several else "", arm=row["arm"]),
                Cell(str(row["total"]), told),
                *(_count(row, name, bad=True, seeds=seeds) for name in ("overlap", "lindemann", "broken")),
                _count(row, "physical", bad=False, seeds=seeds),
            ]
        )
    return HtmlTable(columns, rows, "physicality")


def alignment(table: pd.DataFrame) -> HtmlTable:
    """Fig. B.1 in numbers, of :func:`mdl_physpretrain.probes.force_alignment.alignment_summary`."""
    columns = [Column("Arm", numeric=False), Column("Atoms"), Column("Without direction"), Column("Mean", "°")]
    columns += [Column("Median", "°"), *(Column(f"Below {limit}°", "%") for limit in (30, 60, 90))]
    rows = []
    for row in table.reset_index().to_dict("records"):
        arm, atoms = row["arm"], row["n_atoms"]
        mean = spread(row["mean"], row["mean_error"], 1) if math.isfinite(row["mean_error"]) else number(row["mean"], 1)
        shares = [Cell(number(100 * row[f"below_{limit}"], 0)) for limit in (30, 60, 90)]
        counts = (
            [Cell(str(atoms)), Cell(str(row["left_out"]))] if atoms or row["left_out"] else [Cell(DASH), Cell(DASH)]
        )
        rows.append(
            [Cell(arm, arm=arm if atoms else None), *counts, Cell(mean), Cell(number(row["median"], 1)), *shares]
        )
    return HtmlTable(columns, rows, "alignment")


def per_seed(table: pd.DataFrame, who: str) -> HtmlTable:
    """Counts of each seed."""
    several = table["condition"].nunique() > 1
    columns = [Column("Condition", numeric=False)] if several else []
    columns += [
        Column("Seed"),
        Column(who, numeric=False),
        Column("Trajectories"),
        Column("Atom overlap"),
        Column("Lindemann"),
        Column("NaN, explosion"),
        Column("Physical"),
    ]
    rows = []
    for row in table.to_dict("records"):
        cells = [Cell(row["condition"])] if several else []
        cells += [Cell(str(row["seed"]), key=row["seed"]), Cell(row["arm"], arm=row["arm"])]
        cells += [Cell(str(row[k]), key=row[k]) for k in ("total", "overlap", "lindemann", "broken", "physical")]
        rows.append(cells)
    return HtmlTable(columns, rows, "physicality_per_seed", sortable=True)


def efs(table: pd.DataFrame, run: RunData) -> HtmlTable:
    """Table 2: mean ± standard deviation over seeds, the lowest total of each split marked."""
    columns = [
        Column("Potential" if run.is_check else "Arm", numeric=False),
        Column("Energy", "eV / structure"),
        Column("Energy", "meV / atom"),
        Column("Forces", "eV/Å"),
        Column("Stress", "eV/Å³"),
        Column("Stress", "GPa"),
        Column("Total"),
    ]
    form = (
        ("energy_mae", 1, 3),
        ("energy_per_atom_mae", 1000, 1),
        ("forces_mae", 1, 4),
        ("stress_mae", 1, 5),
        ("stress_mae_gpa", 1, 3),
        ("total", 1, 3),
    )
    several = table["split"].nunique() > 1
    rows = []
    for row in table.to_dict("records"):
        best = table.loc[table["split"] == row["split"], "total"].min()
        notes = [] if run.is_check else [f"{row['seeds']} seed" + ("s" if row["seeds"] != 1 else "")]
        note = " · ".join(notes + ([row["split"]] if several else []))
        cells = [Cell(row["arm"], note, arm=row["arm"])]
        for key, factor, digits in form:
            css = "best" if key == "total" and row["total"] == best else ""
            std = factor * row[f"{key}_std"]
            note = f"± {number(std, digits)}" if math.isfinite(std) else ""
            cells.append(Cell(number(factor * row[key], digits), note, css=css))
        rows.append(cells)
    row_css = [""] * len(rows)
    for row in efs_reference_rows(run):
        rows.append([Cell(row["name"], row["note"]), *(Cell(number(f * row[k], d)) for k, f, d in form)])
        row_css.append("reference")
    return HtmlTable(columns, rows, "efs", row_css=row_css)


def trajectories(table: pd.DataFrame, who: str) -> HtmlTable:
    """One row per trajectory, failing ones marked."""
    several = table["condition"].nunique() > 1
    columns = [Column("Structure", numeric=False), Column("Formula", numeric=False)]
    columns += [Column("Condition", numeric=False)] if several else []
    columns += [
        Column(who, numeric=False),
        Column("Seed"),
        Column("Outcome", numeric=False),
        Column("First at step"),
        Column("Min. distance", "Å"),
        Column("Threshold", "Å"),
        Column("Closest pair", numeric=False),
        Column("Lindemann, local"),
        Column("Lindemann, global"),
    ]
    rows, css = [], []
    for row in table.head(MAX_ROWS).to_dict("records"):
        outcome, reason = str(row["outcome"]), _words(row.get("reason"))
        step = row["first_unphysical_step"]
        cells = [Cell(_words(row["structure_id"])), Cell(_words(row.get("formula")) or DASH)]
        cells += [Cell(row["condition"])] if several else []
        cells += [
            Cell(row["arm"], arm=row["arm"]),
            Cell(str(row["seed"]), key=row["seed"]),
            Cell(
                OUTCOMES[outcome],
                reason if reason not in ("", outcome) else "",
                css="" if outcome == "physical" else "flag",
            ),
            Cell(DASH if pd.isna(step) else f"{int(step)}", key="" if pd.isna(step) else int(step)),
            _float(row.get("min_distance"), 2),
            _float(row.get("overlap_threshold"), 2),
            Cell(_words(row.get("closest_pair")) or DASH),
            _float(row.get("lindemann_local"), 3),
            _float(row.get("lindemann_global"), 3),
        ]
        rows.append(cells)
        css.append("" if outcome == "physical" else "failing")
    return HtmlTable(columns, rows, "trajectories", sortable=True, row_css=css, css="dense")


def _float(value: Any, digits: int) -> Cell:
    return Cell(number(value, digits), key="" if value is None or pd.isna(value) else value)


def _words(value: Any) -> str:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


def teacher_pairs(examination: dict[str, Any]) -> HtmlTable | None:
    """The examination's verdict on every pair."""
    pairs = [p for p in examination.get("pairs") or [] if isinstance(p, dict)]
    if not pairs:
        return None
    columns = [
        Column("Pair", numeric=False),
        Column("Verdict", numeric=False),
        Column("Core", numeric=False),
        Column("Wall", "eV"),
        Column("Smooth", numeric=False),
        Column("Well", "Å"),
        Column("Data", "Å"),
        Column("Bonds"),
        Column("Notes", numeric=False),
    ]

    def yes(value: Any) -> Cell:
        return Cell(DASH) if value is None else Cell("yes") if value else Cell("no", css="flag")

    rows = []
    for p in pairs:
        passed = bool(p.get("passed"))
        well = number(p.get("well_position"), 2)
        rows.append(
            [
                Cell(str(p.get("pair", "?"))),
                Cell("passed", css="good") if passed else Cell("failed", css="flag"),
                yes(p.get("core")),
                _float(p.get("wall_energy"), 1),
                yes(p.get("smooth")),
                Cell(well, css="flag" if p.get("well") is False else "", key=p.get("well_position") or ""),
                _float(p.get("data_distance"), 2),
                Cell(_words(p.get("n_bonds")) or DASH, key=p.get("n_bonds")),
                Cell(_words(p.get("notes")), css="wrap"),
            ]
        )
    return HtmlTable(columns, rows, "teacher_pairs", sortable=len(rows) > 6)


def filtered(result: dict[str, Any]) -> HtmlTable | None:
    """What the label filter removed, by reason."""
    counts = result.get("counts")
    if not isinstance(counts, dict) or not counts:
        return None
    before = result.get("n_before") or 0
    rows = [
        [
            Cell(str(reason).replace("_", " ")),
            Cell(str(n)),
            Cell(f"{100 * n / before:.1f}%" if before else DASH),
        ]
        for reason, n in counts.items()
    ]
    return HtmlTable([Column("Reason", numeric=False), Column("Removed"), Column("Share")], rows, "filter")


def timings(rows: list[dict[str, Any]]) -> HtmlTable:
    """Wall time per stage with a bar."""
    total = sum(r["seconds"] for r in rows if math.isfinite(r["seconds"]))
    longest = max([r["seconds"] for r in rows if math.isfinite(r["seconds"])] + [1e-9])
    body = []
    for row in rows:
        seconds = row["seconds"]
        known = math.isfinite(seconds)
        bar = Cell(f"{100 * seconds / longest:.1f}" if known else "0", css="bar")
        body.append(
            [
                Cell(row["stage"]),
                Cell(duration(seconds)),
                Cell(f"{100 * seconds / total:.0f}%" if total and known else DASH),
                bar,
                Cell(row["status"] or DASH),
            ]
        )
    body.append([Cell("all stages"), Cell(duration(total)), Cell(""), Cell("0", css="bar"), Cell("")])
    columns = [
        Column("Stage", numeric=False),
        Column("Time"),
        Column("Share"),
        Column("", numeric=False),
        Column("Status", numeric=False),
    ]
    return HtmlTable(columns, body, "timings", row_css=[""] * len(rows) + ["total"])


def duration(seconds: float) -> str:
    """``0.4 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if not math.isfinite(seconds):
        return DASH
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
