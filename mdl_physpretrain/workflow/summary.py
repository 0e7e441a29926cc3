"""The results of a run on the console."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from rich import box
from rich.table import Table

from mdl_physpretrain.report.conditions import main_conditions
from mdl_physpretrain.report.read import read_run
from mdl_physpretrain.report.tables import still_physical_table

__all__ = ["summary_table"]


def summary_table(folder: Path) -> Table | None:
    """Unphysical trajectories and test errors per arm of a run folder; ``None`` where there are no results."""
    files = [folder / "physicality.csv", folder / "efs.csv"]
    if not all(f.is_file() for f in files):
        return None
    runs, errors = (pd.read_csv(f, dtype={"structure_id": str, "arm": str}) for f in files)
    split = next((s for s in ("test", "val", "train") if (errors["split"] == s).any()), None)
    errors = errors[errors["split"] == split]
    title = "Unphysical trajectories (in every seed) and errors"
    caption = f"errors on {split}, mean ± spread over seeds\nforces in eV/Å, total = 0.01 E + 50 F + 50 S"
    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("arm", no_wrap=True)
    shares = _still_physical(folder)
    times = [f"at {time:g} ps" for time in shares.columns]
    for name in ("runs", "overlap", "Lindemann", "unphysical", *times, "forces", "total"):
        table.add_column(name, justify="right")
    for arm, group in runs.groupby("arm", sort=False):
        unphysical = ~group["physical"].astype(bool)
        per_seed = " ".join(map(str, unphysical.groupby(group["seed"]).sum()))
        counts = (len(group), int(group["overlap"].sum()), int(group["lindemann_violation"].sum()))
        at_times = [f"{share:.0%}" for share in shares.loc[arm]] if len(times) else []
        error = [_spread(errors.loc[errors["arm"] == arm, key]) for key in ("forces_mae", "total")]
        table.add_row(str(arm), *map(str, counts), f"{int(unphysical.sum())} ({per_seed})", *at_times, *error)
    return table


def _still_physical(folder: Path) -> pd.DataFrame:
    """Share still physical in the main simulation, arms down and times (ps) across."""
    run = read_run(folder)
    table = still_physical_table(run)
    if run.physicality is None or not len(table):
        return pd.DataFrame()
    table = table[table["condition"] == main_conditions(run.physicality)[0]]
    return table.pivot(index="arm", columns="time", values="share").reindex(run.arms)


def _spread(values: pd.Series) -> str:
    if not len(values) or values.isna().all():
        return "-"
    mean = f"{values.mean():.3g}"
    return f"{mean} ± {values.std():.2g}" if len(values) > 1 else mean
