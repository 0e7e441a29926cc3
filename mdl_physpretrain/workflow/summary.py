"""The results of a run on the console."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from rich import box
from rich.table import Table

__all__ = ["summary_table"]


def summary_table(folder: Path) -> Table | None:
    """Unphysical trajectories and test errors per arm; ``None`` where there are no results.

    Parameters
    ----------
    folder
        A run folder.
    """
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
    for name in ("runs", "overlap", "Lindemann", "unphysical", "forces", "total"):
        table.add_column(name, justify="right")
    for arm in dict.fromkeys(runs["arm"]):
        mine, known = runs[runs["arm"] == arm], errors[errors["arm"] == arm]
        bad = ~mine["physical"].astype(bool)
        counts = bad.groupby(mine["seed"]).sum()
        table.add_row(
            arm,
            str(len(mine)),
            str(int(mine["overlap"].sum())),
            str(int(mine["lindemann_violation"].sum())),
            f"{int(bad.sum())} ({' '.join(map(str, counts))})",
            _spread(known["forces_mae"]),
            _spread(known["total"]),
        )
    return table


def _spread(values: pd.Series) -> str:
    if not len(values) or values.isna().all():
        return "-"
    mean = f"{values.mean():.3g}"
    return f"{mean} ± {values.std():.2g}" if len(values) > 1 else mean
