"""The results of a run on the console."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from mdl_physpretrain.report.conditions import NOT_JUDGED, main_conditions, too_short
from mdl_physpretrain.report.read import RunData, read_run
from mdl_physpretrain.report.recommendation import recommended_network
from mdl_physpretrain.report.reference import compared_with_reference, of_kept
from mdl_physpretrain.report.sentences import left_sentence
from mdl_physpretrain.report.tables import still_physical_table
from mdl_physpretrain.report.yardsticks import cut_trainings, pair_sentences, trivial_findings

__all__ = ["closing_lines", "summary_table"]

WIDTH = 80  # of a terminal


def closing_lines(folder: Path) -> list[str]:
    """What a run ends with below its table: errors that say nothing, and the network to use."""
    run = read_run(folder)
    lines = [f"Warning: {words}" for _, _, words in trivial_findings(run)]
    if left := left_sentence(run.left):
        lines.append(f"Warning: {left.text.striptags()}")
    lines += [str(s.text.striptags()) for s in pair_sentences(run) if s.mood != "good"]
    if best := recommended_network(run):
        file = (folder / best.file).as_posix()
        tested = f"; tested: {best.tested}" if best.tested else ""
        lines.append(f"Use it: {file} ({best.chosen}{tested})")
        lines.append(f'In ASE: import mdl_physpretrain as pp; atoms.calc = pp.ASECalculator(pp.load_model("{file}"))')
    return lines


def summary_table(folder: Path) -> Table | None:
    """Unphysical trajectories and test errors per arm of a run folder; ``None`` where there are no results."""
    run = read_run(folder)
    table = _table(run, " ")
    if table is not None and Console(width=1000).measure(table).maximum > WIDTH:
        return _table(run, "\n")
    return table


def _table(run: RunData, between: str) -> Table | None:
    """The table; ``between`` stands between the count of an arm and those of its seeds."""
    runs, errors = run.physicality, run.efs
    if runs is None or errors is None:
        return None
    split = next((s for s in ("test", "val", "train") if (errors["split"] == s).any()), None)
    errors = errors[errors["split"] == split]
    caption = f"errors on {split}, mean ± spread over seeds\nforces in eV/Å, total = 0.01 E + 50 F + 50 S"
    table = Table(title="Unphysical trajectories and errors", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("arm", no_wrap=True)
    condition = main_conditions(runs)[0]
    shares = _still_physical(run)
    times = [f"% physical at\n{'/'.join(f'{time:g}' for time in shares.columns)} ps"] if len(shares.columns) else []
    beside = {row.arm: of_kept(row) for row in compared_with_reference(run) if row.condition == condition}
    kept = ["of kept"] if beside else []
    for name in ("unphysical\n(each seed)", "overlap,\nLindemann", *kept, *times, "forces", "total"):
        table.add_column(name, justify="right")
    for arm, group in runs.groupby("arm", sort=False):
        unphysical = ~group["physical"].astype(bool)
        per_seed = " ".join(map(str, unphysical.groupby(group["seed"]).sum()))
        counts = f"{int(group['overlap'].sum())}, {int(group['lindemann_violation'].sum())}"
        at_times = ["/".join(f"{100 * share:.0f}" for share in shares.loc[arm].to_numpy(dtype=float))] if times else []
        errors_of_arm = errors[errors["arm"] == arm]
        error = [_mean(errors_of_arm["forces_mae"]), _spread(errors_of_arm["total"])]
        lost = [beside.get(str(arm), "-")] if beside else []
        words = str(arm).replace(" ", "\n")  # of the reference potential: narrow
        share = f"{int(unphysical.sum())} of {len(group)}{between}({per_seed})"
        table.add_row(words, share, counts, *lost, *at_times, *error)
    notes = [caption]
    if cut := cut_trainings(run.plan):
        notes.append(f"errors of {cut}")
    if NOT_JUDGED in condition:
        notes.append("melting is no failure here")
    if beside:
        notes.append("of kept: lost of what the reference potential keeps (+ overlaps where it melts)")
    if short := too_short(runs):
        notes.append(short)
    table.caption = "\n".join(notes)
    return table


def _still_physical(run: RunData) -> pd.DataFrame:
    """Share still physical in the main simulation, arms down and times (ps) across."""
    table = still_physical_table(run)
    if run.physicality is None or not len(table):
        return pd.DataFrame()
    table = table[table["condition"].isin(main_conditions(run.physicality)[:1]) & (table["total"] > 0)]
    return table.pivot(index="arm", columns="time", values="share").reindex(run.arms)


def _mean(values: pd.Series) -> str:
    return f"{values.mean():.3g}" if values.notna().any() else "-"


def _spread(values: pd.Series) -> str:
    if not len(values) or values.isna().all():
        return "-"
    mean = f"{values.mean():.3g}"
    return f"{mean} ± {values.std():.2g}" if len(values) > 1 else mean
