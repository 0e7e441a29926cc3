"""Several run folders in one table."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from report_run_folder import make_run
from typer.testing import CliRunner

from mdl_physpretrain.cli import app
from mdl_physpretrain.errors import PhysPretrainError
from mdl_physpretrain.report.compare import compare_runs, markdown


def test_rows_are_the_counts_and_errors_of_the_runs(tmp_path: Path) -> None:
    first = make_run(tmp_path / "first", seeds=3, structures=6)
    second = make_run(tmp_path / "second", seeds=2, structures=4)
    table = compare_runs([first, second])
    assert list(table["trajectories"]) == [18, 18, 8, 8]
    assert list(table["arm"]) == ["baseline", "pretrained"] * 2
    raw = pd.read_csv(first / "physicality.csv")
    mine = raw[raw["arm"] == "baseline"]
    row = table.iloc[0]
    assert row["unphysical"] == (~mine["physical"]).sum() > 0
    assert row["overlap"] == mine["overlap"].sum()
    assert [int(n) for n in row["per_seed"].split()] == list((~mine["physical"]).groupby(mine["seed"]).sum())
    efs = pd.read_csv(first / "efs.csv")
    totals = efs[(efs["arm"] == "baseline") & (efs["split"] == "test")]["total"]
    assert row["total"] == pytest.approx(totals.mean())
    assert row["total_std"] == pytest.approx(totals.std())
    text = markdown(table).splitlines()
    assert len(text) == 2 + 4
    assert len({line.count("|") for line in text}) == 1


def test_on_the_command_line(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", seeds=2, structures=4)
    result = CliRunner().invoke(app, ["compare", str(run), "--csv", str(tmp_path / "all.csv")])
    assert result.exit_code == 0, result.output
    assert "pretrained" in result.output
    assert len(pd.read_csv(tmp_path / "all.csv")) == 2


def test_folders_without_results_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(PhysPretrainError, match=r"no results in .*empty"):
        compare_runs([tmp_path / "empty"])
    with pytest.raises(PhysPretrainError, match="does not exist"):
        compare_runs([tmp_path / "nowhere"])


def test_what_is_no_run_is_refused_and_what_has_no_results_is_told(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", seeds=2, structures=4)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(PhysPretrainError, match=r"mine is not the folder of a run"):
        compare_runs([run, tmp_path / "mine"])
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").write_text("name: begun\n")
    with pytest.warns(UserWarning, match=r"no results in .*begun"):
        assert set(compare_runs([run, tmp_path / "begun"])["arm"]) == {"baseline", "pretrained"}


def test_a_table_that_is_there_is_kept(tmp_path: Path) -> None:
    run, table = make_run(tmp_path / "run", seeds=2, structures=4), tmp_path / "all.csv"
    table.write_text("mine")
    result = CliRunner().invoke(app, ["compare", str(run), "--csv", str(table)])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "all.csv.replaced").read_text() == "mine"
    assert table.read_text().startswith("run,")


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, seeds=2, structures=4) for name in ("a", "b")]
    names = compare_runs(runs)["run"].unique()
    assert len(names) == 2
    assert all(name.endswith(f"({run})") for name, run in zip(names, runs, strict=True))
    assert "(" not in compare_runs(runs[:1])["run"].iloc[0]
