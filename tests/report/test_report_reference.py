"""The report, the console and the comparison of runs beside a reference potential."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_page import Page
from report_run_folder import make_run
from rich.console import Console

from mdl_physpretrain.report import write_report
from mdl_physpretrain.report.compare import compare_runs, markdown
from mdl_physpretrain.report.read import read_run
from mdl_physpretrain.report.reference import compared_with_reference, of_kept
from mdl_physpretrain.statistics.reference import REFERENCE_POTENTIAL, beside_reference
from mdl_physpretrain.workflow.summary import summary_table

NAME = "package.module:Potential (package 1.2)"
SPLIT = {"split_by": "composition", "n_groups": {"train": 31, "val": 3, "test": 4}, "test_composition_in_train": 0.0}


def with_reference(folder: Path, structures: int | None = None) -> Path:
    """Add the trajectories of a reference potential that melts two structures and keeps the others."""
    table = pd.read_csv(folder / "physicality.csv")
    first = table[(table["arm"] == "baseline") & (table["seed"] == 0)].head(structures).reset_index(drop=True)
    melts = np.arange(len(first)) < 2
    reference = first.assign(
        overlap=False, exploded=False, nan=False, lindemann_violation=melts, physical=~melts, steps_done=800,
        first_unphysical_step=pd.Series(np.where(melts, 500, 0)).where(melts), reason=np.where(melts, "lindemann", ""),
        arm=REFERENCE_POTENTIAL,
    )  # fmt: skip
    parts = [beside_reference(group, reference) for _, group in table.groupby(["seed", "arm"], sort=False)]
    pd.concat([p.astype(object) for p in (*parts, reference)]).to_csv(folder / "physicality.csv", index=False)
    (folder / "reference").mkdir()
    (folder / "reference" / "potential.json").write_text(json.dumps({"potential": NAME}))
    summary = json.loads((folder / "data" / "summary.json").read_text())
    (folder / "data" / "summary.json").write_text(json.dumps(summary | SPLIT))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = with_reference(make_run(tmp_path_factory.mktemp("beside") / "run", seeds=3, structures=8, pairs=1))
    write_report(made)
    return made


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page((folder / "report" / "index.html").read_text())


def test_the_table_is_what_the_trajectories_say(folder: Path, page: Page) -> None:
    source = pd.read_csv(folder / "physicality.csv")
    shown = {row[0]: row[1:] for row in page.tables["Beside the reference potential"]}
    assert list(shown) == ["baseline", "pretrained"]
    for arm, group in source[source["arm"] != REFERENCE_POTENTIAL].groupby("arm"):
        kept = group[group["reference_verdict"] == "kept"]
        melted = group[group["reference_verdict"] == "lindemann"]
        falls = melted[["overlap", "nan", "exploded"]].any(axis=1)
        lost, fell = int((~kept["physical"]).sum()), int(falls.sum())
        excused = int((~melted["physical"]).sum()) - fell
        assert (len(kept), len(melted)) == (18, 6)
        assert shown[arm][:5] == ["18 of 24", str(lost), str(fell), str(lost + fell), str(excused)]
    saved = pd.read_csv(folder / "report" / "tables" / "beside_reference.csv").set_index("arm")
    assert saved.loc["baseline", "held"] == int(shown["baseline"][3])
    assert json.loads((folder / "report" / "tables" / "beside_reference.json").read_text())


def test_absolute_numbers_stay_beside(page: Page, folder: Path) -> None:
    rows = page.tables["Physicality per arm"]
    assert [row[0] for row in rows] == ["baseline", "pretrained", REFERENCE_POTENTIAL]
    assert rows[-1][1:] == ["8", "0", "2", "0", "6"]
    tests = pd.read_csv(folder / "report" / "tables" / "comparisons.csv")
    assert set(tests["arm"]) == {"pretrained"}
    assert set(tests["criterion"]) == {"unphysical", "overlap", "lindemann_violation", "held_against"}
    assert any(row[1] == "lost, not by the reference" for row in page.tables["Paired tests"])


def test_the_verdict_says_what_it_is_about(page: Page) -> None:
    assert f"The reference potential ( {NAME} ) keeps 6 of 8 trajectories" in page.text.replace(
        f"({NAME})", f"( {NAME} )"
    )
    assert "not held against a potential" in page.text
    assert "800 steps (0.8 ps) are too short for a claim" in page.text
    assert "by composition, groups kept whole: 31 train · 3 val · 4 test; 0% of the test structures" in page.text
    assert "starts only" not in page.text


def test_a_reference_of_some_starts_only(tmp_path: Path) -> None:
    made = with_reference(make_run(tmp_path / "run", seeds=2, structures=6, pairs=1), structures=3)
    write_report(made)
    page = Page((made / "report" / "index.html").read_text())
    assert "from the first 3 starts only: what is said beside it is about these alone" in page.text
    for row in page.tables["Beside the reference potential"]:
        assert row[1] == "2 of 6"
    (baseline, _) = compared_with_reference(read_run(made))
    assert (baseline.total, baseline.without) == (6, 6)


def test_console_and_comparison_of_runs(folder: Path, tmp_path: Path) -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(summary_table(folder))
    text = console.export_text()
    lines = {line.split()[0]: line for line in text.splitlines() if line.split()}
    rows = {row.arm: row for row in compared_with_reference(read_run(folder))}
    for arm, row in rows.items():
        assert of_kept(row) in lines[arm]
    assert "too short for a claim" in text
    assert "reference" in lines, "a row of its own"
    plain = make_run(tmp_path / "plain", seeds=1, structures=4, pairs=1)
    table = compare_runs([folder, plain])
    assert table["lost_of_kept"].notna().tolist() == [True, True, False, False, False]
    shown = markdown(table)
    assert f"| {of_kept(rows['pretrained'])} |" in shown
    assert "reference keeps" not in markdown(compare_runs([plain]))
