"""Tables of the probes: diatomic and compression flags, energy drift, RDF errors, the teacher's parts, survival."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from mdl_physpretrain.report.figures_probes import ALL
from mdl_physpretrain.report.formats import DASH, number, p_value, spread
from mdl_physpretrain.report.html_tables import Cell, Column, HtmlTable
from mdl_physpretrain.report.read import RunData
from mdl_physpretrain.statistics.seeds import mean_std

__all__ = ["compression", "compression_summary", "decomposition", "diatomic_flags", "diatomic_summary", "nve",
           "nve_summary", "rdf_errors", "rdf_summary", "survival"]  # fmt: skip

DIATOMIC = {  # column -> heading; more than zero is bad
    "hole": "Hole",
    "spurious_minima": "Spurious minima",
    "discontinuity": "Discontinuity",
    "missing_repulsion": "Missing repulsion",
    "failed_points": "Not finite",
}
MAX_PAIR_COLUMNS = 10  # of the RDF table on the page
PARTS = {
    "morse": "pair part alone (Morse and core)",
    "embedding": "embedding alone",
    "full": "whole EAM",
    "trivial": "trivial predictor",
}


def _by_arm(table: pd.DataFrame, arms: Iterable[str]) -> list[tuple[str, pd.DataFrame]]:
    """Rows of each arm in the order of the page; those of unknown arms (the teacher) last."""
    present = list(dict.fromkeys(table["arm"]))
    order = [arm for arm in arms if arm in present]
    order += [arm for arm in present if arm not in order]
    return [(arm, table[table["arm"] == arm]) for arm in order]


def _hits(group: pd.DataFrame, column: str) -> int:
    if column not in group:
        return 0
    return int((pd.to_numeric(group[column], errors="coerce").fillna(0) > 0).sum())


def diatomic_summary(run: RunData) -> pd.DataFrame:
    """``arm, pair, curves`` (one per seed), the number of curves with each flag, and without any (``ok``)."""
    if run.diatomic_flags is None:
        return pd.DataFrame()
    rows = []
    for arm, table in _by_arm(run.diatomic_flags, run.arms):
        for pair, group in table.groupby("pair", sort=False):
            counts = {name: _hits(group, name) for name in DIATOMIC}
            rows.append({"arm": arm, "pair": pair, "curves": len(group), **counts, "ok": int(group["ok"].sum())})
    return pd.DataFrame(rows)


def diatomic_flags(summary: pd.DataFrame, who: str) -> HtmlTable:
    """Per arm and pair, how many curves carry each flag."""
    columns = [Column(who, numeric=False), Column("Pair", numeric=False)]
    columns += [Column(title, numeric=False) for title in DIATOMIC.values()]
    columns.append(Column("Verdict", numeric=False))
    rows = []
    for row in summary.to_dict("records"):
        n = row["curves"]
        good = row["ok"] == n
        flags = [_flag(row[name], n) for name in DIATOMIC]
        verdict = Cell("no flag" if good else "flagged", css="good" if good else "flag", key=int(good))
        rows.append([Cell(row["arm"], arm=row["arm"]), Cell(row["pair"]), *flags, verdict])
    return HtmlTable(columns, rows, "diatomic_flags", sortable=len(rows) > 6, css="dense" if len(rows) > 12 else "")


def _flag(hits: int, n: int) -> Cell:
    if not hits:
        return Cell("no", css="zero", key=0)
    return Cell("yes" if n == 1 else f"{hits} of {n}", css="flag", key=hits)


def compression_summary(run: RunData) -> pd.DataFrame:
    """``arm, curves``, how many have ``collapse, discontinuity, not_finite`` or nothing (``ok``), ``deepest_fall``."""
    if run.compression_flags is None:
        return pd.DataFrame()
    rows = []
    for arm, group in _by_arm(run.compression_flags, run.arms):
        counts = {name: _hits(group, name) for name in ("collapse", "discontinuity", "ok")}
        counts["not_finite"] = _hits(group, "failed_points")
        depth = pd.to_numeric(group["collapse_depth"], errors="coerce") if "collapse_depth" in group else None
        deepest = np.nan if depth is None else float(depth.max())
        rows.append({"arm": arm, "curves": len(group), **counts, "deepest_fall": deepest})
    return pd.DataFrame(rows)


def compression(summary: pd.DataFrame, who: str) -> HtmlTable:
    """Flags of the compression curves by arm."""
    kinds = {"collapse": "Collapse", "discontinuity": "Discontinuity", "not_finite": "Not finite"}
    columns = [Column(who, numeric=False), Column("Curves"), *(Column(title) for title in kinds.values())]
    columns += [Column("Deepest fall", "eV/atom"), Column("Without a flag")]
    rows = []
    for row in summary.to_dict("records"):
        counts = [Cell(str(row[k]), css="bad" if row[k] else "zero") for k in kinds]
        deepest = Cell(number(row["deepest_fall"], 2))
        rows.append(
            [Cell(row["arm"], arm=row["arm"]), Cell(str(row["curves"])), *counts, deepest, Cell(str(row["ok"]))]
        )
    return HtmlTable(columns, rows, "compression")


def nve_summary(run: RunData) -> pd.DataFrame:
    """``arm, trajectories, ended_early``, drift (median and largest magnitude) and median fluctuation, meV/atom."""
    if run.nve is None:
        return pd.DataFrame()
    table = run.nve.assign(drift=pd.to_numeric(run.nve["drift"], errors="coerce"))
    rows = []
    longest = float(table["steps_done"].max()) if "steps_done" in table else np.nan
    for arm, group in _by_arm(table, run.arms):
        sizes = group["drift"].abs()
        row: dict[str, Any] = {"arm": arm, "trajectories": len(group), "without_drift": int(sizes.isna().sum())}
        row["ended_early"] = int((group["steps_done"] < longest).sum()) if "steps_done" in group else 0
        row |= {"drift_median": sizes.median(), "drift_largest": sizes.max()}
        row["fluctuation"] = group["fluctuation"].median() if "fluctuation" in group else np.nan
        row["ps"] = group["ps"].median() if "ps" in group else np.nan
        rows.append(row)
    return pd.DataFrame(rows)


def nve(summary: pd.DataFrame, who: str) -> HtmlTable:
    """Energy drift by arm."""
    columns = [
        Column(who, numeric=False),
        Column("Trajectories"),
        Column("Ended early"),
        Column("Length", "ps, median"),
    ]
    columns += [Column("Drift, median", "meV/atom/ps"), Column("Drift, largest", "meV/atom/ps")]
    columns.append(Column("Fluctuation", "meV/atom, median"))
    rows = []
    for row in summary.to_dict("records"):
        early = row["ended_early"]
        note = f"{row['without_drift']} too short to tell" if row["without_drift"] else ""
        rows.append(
            [
                Cell(row["arm"], arm=row["arm"]),
                Cell(str(row["trajectories"]), note),
                Cell(str(early), css="bad" if early else "zero"),
                Cell(number(row["ps"], 2)),
                *(Cell(_significant(row[k])) for k in ("drift_median", "drift_largest", "fluctuation")),
            ]
        )
    return HtmlTable(columns, rows, "nve")


def _significant(value: float) -> str:
    """Three significant digits."""
    if not np.isfinite(value):
        return DASH
    return f"{value:.2e}".replace("e-0", "e−").replace("e+0", "e") if abs(value) >= 1e5 else f"{value:.3g}"


def rdf_summary(run: RunData) -> pd.DataFrame:
    """``arm, pair, seeds, structures, error, error_std`` (over seeds), and the smallest ``n_frames``."""
    table = run.rdf_errors
    if table is None:
        return pd.DataFrame()
    structures = table["structure_id"] if "structure_id" in table else pd.Series(ALL, index=table.index)
    n = structures[structures != ALL].groupby(table["arm"]).nunique()
    means = table[structures == ALL] if (structures == ALL).any() else table
    rows = []
    for arm, group in _by_arm(means, run.arms):
        for pair, part in group.groupby("pair", sort=False):
            values = pd.to_numeric(part["error"], errors="coerce").groupby(part["seed"]).mean()
            mean, std, seeds = mean_std(values)
            frames = pd.to_numeric(table.loc[table["arm"] == arm, "n_frames"]).min() if "n_frames" in table else np.nan
            row = {"arm": arm, "pair": pair, "seeds": seeds, "structures": int(n.get(arm, 0))}
            rows.append(row | {"error": mean, "error_std": std, "n_frames": frames})
    return pd.DataFrame(rows)


def rdf_errors(summary: pd.DataFrame, who: str) -> HtmlTable:
    """Errors of the RDF: arms down, pairs across."""
    pairs = sorted(dict.fromkeys(summary["pair"]), key=lambda pair: pair != ALL)[:MAX_PAIR_COLUMNS]
    columns = [Column(who, numeric=False), *(Column("All pairs" if p == ALL else p) for p in pairs)]
    columns.append(Column("Frames", "fewest"))
    rows = []
    for arm, group in summary.groupby("arm", sort=False):
        known = {r["pair"]: r for r in group.to_dict("records")}
        cells = []
        for pair in pairs:
            r = known.get(pair)
            best = r is not None and pair == ALL and r["error"] == summary.loc[summary["pair"] == ALL, "error"].min()
            cells.append(Cell(spread(r["error"], r["error_std"]) if r else DASH, css="best" if best else ""))
        n = int(group["structures"].iloc[0])
        note = f"{n} structure{'' if n == 1 else 's'}" if n else ""
        frames = group["n_frames"].min()
        rows.append([Cell(str(arm), note, arm=str(arm)), *cells, Cell(number(frames, 0))])
    return HtmlTable(columns, rows, "rdf_errors")


def decomposition(table: pd.DataFrame) -> HtmlTable:
    """Fig. 2 of the paper as a table: what each part of the EAM explains."""
    columns = [Column("Part", numeric=False), Column("Energy", "eV / structure"), Column("Forces", "eV/Å")]
    columns += [Column("Stress", "eV/Å³"), Column("Total")]
    form = (("energy_mae", 3), ("forces_mae", 4), ("stress_mae", 5), ("total", 3))
    rows, css = [], []
    for row in table.to_dict("records"):
        part = str(row["part"])
        rows.append([Cell(PARTS.get(part, part)), *(Cell(number(row.get(key), digits)) for key, digits in form)])
        css.append("reference" if part == "trivial" else "")
    return HtmlTable(columns, rows, "decomposition", row_css=css)


def survival(ends: pd.DataFrame, who: str) -> HtmlTable:
    """What the survival curves end with."""
    several = ends["condition"].nunique() > 1
    reference = next((r for r in ends["reference"] if r), "")
    columns = [Column(who, numeric=False), Column("Trajectories"), Column("Failed"), Column("Physical at the end", "%")]
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
