"""The results of a run on the console."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
from report_run_folder import make_run
from rich.console import Console

from mdl_physpretrain.workflow.summary import summary_table


def lines(folder: Path) -> dict[str, list[str]]:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(summary_table(folder))
    rows = [line.split() for line in console.export_text().splitlines()]
    return {row[0]: row[1:] for row in rows if row and row[0] in ("arm", "baseline", "pretrained")}


def test_counts_are_those_of_the_files(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", seeds=2, structures=4, pairs=1)
    assert "ps" not in lines(folder)["arm"]
    table = pd.read_csv(folder / "physicality.csv").assign(timestep=1.25)  # 800 steps are 1 ps
    table["steps_done"] = table["steps_done"].where(~table["physical"], table["steps"])
    table.to_csv(folder / "physicality.csv", index=False)
    shown = lines(folder)
    assert shown["arm"] == ["(each", "seed)", "Lindemann", "1", "ps", "forces", "total"]
    for arm, group in table.groupby("arm"):
        failed = int((~group["physical"]).sum())
        per_seed = [str(n) for n in (~group["physical"]).groupby(group["seed"]).sum()]
        overlap, lindemann = (int(group[name].sum()) for name in ("overlap", "lindemann_violation"))
        assert shown[str(arm)][:5] == [str(failed), "of", str(len(group)), f"({per_seed[0]}", f"{per_seed[1]})"]
        assert shown[str(arm)][5:7] == [f"{overlap},", str(lindemann)]
        assert shown[str(arm)][7] == f"{100 * (1 - failed / len(group)):.0f}"


def test_the_table_fits_a_terminal(tmp_path: Path) -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(summary_table(make_run(tmp_path / "run", seeds=3, structures=4, pairs=1)))
    assert "…" not in console.export_text()


def test_no_results_no_table(tmp_path: Path) -> None:
    assert summary_table(tmp_path) is None
