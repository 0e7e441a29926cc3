"""Sections of the probes, tables of the teacher's parts and of survival."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from mdl_physpretrain.probes.page import DASH, Cell, Column, HtmlTable, PagePart, number
from mdl_physpretrain.probes.registry import make_probe, probe_classes
from mdl_physpretrain.report.downloads import Downloads
from mdl_physpretrain.report.formats import p_value
from mdl_physpretrain.report.read import RunData

__all__ = ["decomposition", "probe_notes", "probe_parts", "probe_sections", "save_parts", "survival"]

PARTS = {
    "morse": "pair part alone (Morse and core)",
    "embedding": "embedding alone",
    "full": "whole teacher",
    "trivial": "trivial predictor",
}


def probe_sections() -> dict[str, str]:
    """Titles of the probes' sections by name, in their order."""
    classes = sorted(probe_classes().values(), key=lambda cls: (cls.page_place, cls.name))
    return {cls.name: cls.title for cls in classes if cls.title}


def probe_parts(run: RunData) -> dict[str, PagePart]:
    """The sections of the probes that have something to show or a note on why not."""
    tables = run.tables | ({} if run.curves is None else {"curves": run.curves})
    parts = {}
    for name in probe_sections():
        cls = probe_classes()[name]
        part = None
        try:
            part = make_probe(name, run.probe_options).page(tables, run.arms, "Potential" if run.is_check else "Arm")
        # as for figures: odd values in a column must not cost the whole report
        except Exception as error:
            run.notes[name] = f"The section {cls.title} could not be made: {error or type(error).__name__}"
        if part is not None or not run.notes.keys().isdisjoint({name, *cls.files}):
            parts[name] = part or PagePart()
    return parts


def probe_notes(name: str) -> list[str]:
    """Names of the notes that belong into the section of a probe."""
    return list(dict.fromkeys([name, *probe_classes()[name].files, f"figure {name}"]))


def save_parts(parts: Mapping[str, PagePart], downloads: Downloads) -> None:
    """Write the tables behind the sections."""
    for part in parts.values():
        if part.table is not None and part.summary is not None:
            downloads.save(part.summary, part.table.file)
        for name, table in part.saved.items():
            downloads.save(table, name, decimals=4)  # curves: drawings need no more


def decomposition(table: pd.DataFrame) -> HtmlTable:
    """Fig. 2 of the paper as a table: what each part of the teacher explains."""
    columns = [Column("Part", numeric=False), Column("Energy", "eV / structure"), Column("Forces", "eV/Å")]
    columns += [Column("Stress", "eV/Å³"), Column("Total")]
    form = (("energy_mae", 3), ("forces_mae", 4), ("stress_mae", 5), ("total", 3))
    rows, css = [], []
    for row in table.to_dict("records"):
        part = str(row["part"])
        rows.append([Cell(PARTS.get(part, part)), *(Cell(number(row.get(key), digits)) for key, digits in form)])
        css.append("reference" if part == "trivial" else "")
    return HtmlTable(columns, rows, "decomposition", row_css=css)


def survival(ends: pd.DataFrame, heading: str) -> HtmlTable:
    """What the survival curves end with."""
    several = ends["condition"].nunique() > 1
    reference = next((r for r in ends["reference"] if r), "")
    columns = [
        Column(heading, numeric=False),
        Column("Trajectories"),
        Column("Failed"),
        Column("Physical at the end", "%"),
    ]
    columns.append(Column("Half are lost by", ends["unit"].iloc[0] if ends["unit"].nunique() == 1 else ""))
    columns += [Column("Log-rank p", f"against {reference}")] if reference else []
    rows = []
    for row in ends.to_dict("records"):
        low, high = row["low"], row["high"]
        note = f"{100 * low:.0f}–{100 * high:.0f}%" if np.isfinite(low) and np.isfinite(high) else ""
        unit = "" if ends["unit"].nunique() == 1 else f" {row['unit']}"
        half = f"{number(row['half'], 3 if row['unit'] == 'ps' else 0)}{unit}" if np.isfinite(row["half"]) else DASH
        cells = [
            Cell(row["arm"], row["condition"] if several else "", arm=row["arm"]),
            Cell(str(row["trajectories"])),
            Cell(str(row["failed"])),
            Cell(number(100 * row["survival"], 0), note),
            Cell(half),
        ]
        cells += [Cell(p_value(row["p"]) if np.isfinite(row["p"]) else DASH)] if reference else []
        rows.append(cells)
    return HtmlTable(columns, rows, "survival")
