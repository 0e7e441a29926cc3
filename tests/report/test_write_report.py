from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_page import Page
from report_run_folder import make_run

from mdl_physpretrain.errors import PhysPretrainError
from mdl_physpretrain.report import build, write_report
from mdl_physpretrain.report.read import read_run
from mdl_physpretrain.statistics.proportions import wilson_interval

SECTIONS = ("verdict", "physicality", "accuracy", "failures", "trajectories", "diatomics", "teacher", "augmentation",
            "learning", "alignment", "data", "timings", "configuration")  # fmt: skip
FIGURES = ("failure_steps", "seeds", "teacher_curves", "teacher_fit", "min_distances", "learning_curves", "diatomics",
           "alignment")  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("run") / "a", seeds=3, structures=8, pairs=2)
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(finished) -> Page:
    return Page((finished / "report" / "index.html").read_text())


@pytest.fixture
def no_figures(monkeypatch):
    """Figures take most of the time; these tests are about the rest."""
    monkeypatch.setattr(build, "draw", lambda makers, folder, notes: {})


def test_page_has_every_section_and_no_note(finished, page):
    assert [i for i in page.ids if i in SECTIONS] == list(SECTIONS)
    assert read_run(finished).notes == {}
    assert ("p", "class", "note") in page.attributes  # the one about the labels
    assert sum(a == ("p", "class", "note") for a in page.attributes) == 1
    assert page.tags.count("svg") == 2 + 2 + 2 + 1 + 2 + 5 + 2 + 4  # panels of FIGURES
    for words in ("DFT, functional not stated", "label filter kept 365 of 400", "Li-Mn-O, 40 structures", "torch"):
        assert words in page.text


def test_figures_are_written_as_png(finished):
    for name in FIGURES:
        png = finished / "report" / "figures" / f"{name}.png"
        assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert not (finished / "report" / "index.html.tmp").exists()


def test_page_is_self_contained_and_small(finished, page):
    html = (finished / "report" / "index.html").read_text()
    assert len(html) < 1_500_000
    assert not re.search(r"https?://(?!www\.w3\.org)", html)
    assert not re.search(r"@import|url\((?!#)", html)
    for tag, key, value in page.attributes:
        if key in ("src", "href", "xlink:href"):
            assert re.match(r"#|data:,|figures/|tables/", value or ""), (tag, value)
    for tag, key, value in page.attributes:
        if key == "href" and re.match(r"(figures|tables)/.", value):
            assert (finished / "report" / value).exists(), (tag, value)
    anchors = {v[1:] for t, k, v in page.attributes if t == "a" and k == "href" and v.startswith("#")}
    assert anchors <= set(page.ids)


def test_physicality_table_is_what_the_csv_says(finished, page):
    source = pd.read_csv(finished / "physicality.csv")
    saved = pd.read_csv(finished / "report" / "tables" / "physicality.csv").set_index("arm")
    assert list(saved.index) == ["baseline", "pretrained"]
    shown = {row[0]: row[1:] for row in page.tables["Physicality per arm"]}
    for arm, group in source.groupby("arm"):
        counts = {
            "overlap": group["overlap"].sum(),
            "lindemann": group["lindemann_violation"].sum(),
            "broken": (group["nan"] | group["exploded"]).sum(),
            "physical": group["physical"].sum(),
        }
        assert shown[arm] == [str(len(group)), *(str(n) for n in counts.values())]
        for name, n in counts.items():
            assert saved.loc[arm, name] == n
            low, high = wilson_interval(int(n), len(group))
            assert saved.loc[arm, [f"{name}_low", f"{name}_high"]].tolist() == pytest.approx([low, high])
        per_seed = group.groupby("seed")["overlap"].sum()
        assert saved.loc[arm, "overlap_seed_mean"] == pytest.approx(per_seed.mean())
        assert saved.loc[arm, "overlap_seed_std"] == pytest.approx(per_seed.std())
    seeds = pd.read_csv(finished / "report" / "tables" / "physicality_per_seed.csv")
    assert seeds["total"].sum() == len(source)
    assert seeds["physical"].sum() == source["physical"].sum()


def test_efs_table_is_what_the_csv_says(finished, page):
    source = pd.read_csv(finished / "efs.csv").groupby("arm")
    records = {r["arm"]: r for r in json.loads((finished / "report" / "tables" / "efs.json").read_text())}
    shown = {row[0]: row[1:] for row in page.tables["Energy, force and stress errors"]}
    for arm, mean in source.mean(numeric_only=True).iterrows():
        assert records[arm]["total"] == pytest.approx(mean["total"])
        assert records[arm]["total_std"] == pytest.approx(source["total"].std()[arm])
        weighted = 0.01 * records[arm]["energy_mae"] + 50 * records[arm]["forces_mae"] + 50 * records[arm]["stress_mae"]
        assert records[arm]["total"] == pytest.approx(weighted)
        assert shown[arm][0] == f"{mean['energy_mae']:.3f}"
        assert shown[arm][1] == f"{1000 * mean['energy_per_atom_mae']:.1f}"
        assert shown[arm][4] == f"{mean['stress_mae_gpa']:.3f}"
        assert shown[arm][5] == f"{mean['total']:.3f}"
    assert shown["trivial predictor"][5] == "5.990"
    assert shown["trivial predictor"][4] == f"{0.0051 * 160.21766208:.3f}"
    assert shown["teacher"][5] == "5.100"


def test_verdict_tells_the_counts_and_what_they_support(finished, page):
    source = pd.read_csv(finished / "physicality.csv")
    for _arm, group in source.groupby("arm"):
        assert f"{int((~group['physical']).sum())} of {len(group)} (" in page.text
    comparison = pd.read_csv(finished / "report" / "tables" / "comparisons.csv").iloc[0]
    wide = source.set_index(["structure_id", "seed", "arm"])["physical"].unstack("arm")
    assert comparison["only_reference"] == (~wide["baseline"] & wide["pretrained"]).sum()
    assert comparison["only_arm"] == (wide["baseline"] & ~wide["pretrained"]).sum()
    assert comparison["verdict"] == "supported"
    assert "pretrained: fewer unphysical" in page.text
    assert "The difference is supported." in page.text


def test_trajectories_list_the_failing_ones_first(finished, page):
    rows = page.tables["Every trajectory"]
    source = pd.read_csv(finished / "physicality.csv")
    assert len(rows) == len(source)
    failing = int((~source["physical"]).sum())
    assert all(row[3] != "physical" for row in rows[:failing])
    assert all(row[3] == "physical" for row in rows[failing:])
    steps = [int(row[4]) for row in rows[:failing]]
    assert steps == sorted(steps)
    assert sum(a == ("tr", "class", "failing") for a in page.attributes) == failing


def test_empty_run_folder_still_gives_a_page(tmp_path):
    html = write_report(tmp_path).read_text()
    page = Page(html)
    assert [i for i in page.ids if i in SECTIONS] == list(SECTIONS)
    assert "physicality.csv is not in the run folder" in page.text
    assert "There are no results to judge yet." in page.text
    assert "svg" not in page.tags


PARTS = ["config.yaml", "environment.json", "timings.json", "data/summary.json", "teacher/examination.json",
         "teacher/errors.json", "teacher/history.csv", "teacher/curves.csv", "augment/filter.json",
         "augment/min_distances.csv", "diatomics.csv", "alignment.csv", "efs.csv", "physicality.csv"]  # fmt: skip


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("small") / "a", seeds=2, structures=3, pairs=1)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("damage", ["missing", "empty", "garbage"])
def test_a_missing_or_damaged_file_costs_only_its_part(small, tmp_path, part, damage, no_figures):
    folder = tmp_path / "run"
    shutil.copytree(small, folder)
    if damage == "missing":
        (folder / part).unlink()
    else:
        (folder / part).write_bytes(b"" if damage == "empty" else b"\xff\xfe[{,;\x00 not: [what it was")
    page = Page(write_report(folder).read_text())
    assert [i for i in page.ids if i in SECTIONS] == list(SECTIONS)
    if part != "teacher/errors.json":  # only a yardstick of the accuracy table
        expected = "is not in the run folder" if damage == "missing" else "could not be read"
        assert f"{part} {expected}" in page.text


def test_seeds_that_are_done_are_reported_before_the_run_is(small, tmp_path, no_figures):
    folder = tmp_path / "run"
    shutil.copytree(small, folder)
    (folder / "physicality.csv").unlink()
    page = Page(write_report(folder).read_text())
    assert len(page.tables["Every trajectory"]) == 2 * 2 * 3
    assert "found in the seeds' folders" in page.text


def test_columns_that_are_missing_or_odd(small, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(small, folder)
    pd.read_csv(folder / "physicality.csv").drop(columns="overlap").to_csv(folder / "physicality.csv", index=False)
    pd.read_csv(folder / "efs.csv").assign(stress_mae=np.nan, stress_mae_gpa="").to_csv(folder / "efs.csv", index=False)
    pd.read_csv(folder / "diatomics.csv").assign(energy="high").to_csv(folder / "diatomics.csv", index=False)
    page = Page(write_report(folder).read_text())
    assert "physicality.csv could not be read: column overlap missing" in page.text
    assert page.tables["Energy, force and stress errors"][0][4] == "–"
    assert "The figure diatomics could not be drawn" in page.text


def test_hostile_names_stay_text(tmp_path):
    evil = [
        "<script>alert(1)</script>",
        "a\"'><img src=x onerror=alert(2)>",
        "</table></style>$x_{$",
        "NA",
        "007",
        "&amp;",
    ]
    folder = make_run(
        tmp_path / "run", seeds=1, names=evil, pairs=1, arms=("baseline", "$\\frac$ <b onclick='x'>--><!--")
    )
    config = (folder / "config.yaml").read_text().replace("Li-Mn-O, 40 structures", "'</title><script>evil()</script>'")
    (folder / "config.yaml").write_text(config)
    page = Page(write_report(folder).read_text())
    assert [a[2] for a in page.attributes if a[:2] == ("script", "type")] == ["application/json"]
    assert page.tags.count("script") == 2
    assert "img" not in page.tags
    assert not [a for a in page.attributes if a[1].startswith("on")]
    ids = {row[0] for row in page.tables["Every trajectory"]}
    assert ids == set(evil)
    assert set(
        pd.read_csv(folder / "report/tables/trajectories.csv", dtype=str, keep_default_na=False)["structure_id"]
    ) == set(evil)


def test_outcome_is_what_happened_first(tmp_path):
    rows = [("a", True, True, "lindemann, overlap"), ("b", True, False, "overlap"), ("c", False, False, "nan"),
            ("d", True, True, "")]  # fmt: skip
    table = pd.DataFrame(rows, columns=["structure_id", "overlap", "lindemann_violation", "reason"])
    table = table.assign(nan=table["reason"] == "nan", physical=False, arm="baseline", seed=0)
    table.to_csv(tmp_path / "physicality.csv", index=False)
    outcomes = read_run(tmp_path).physicality["outcome"]
    assert list(outcomes) == ["lindemann", "overlap", "broken", "overlap"]


def test_several_conditions_are_kept_apart(small, tmp_path, no_figures):
    folder = tmp_path / "run"
    shutil.copytree(small, folder)
    table = pd.read_csv(folder / "physicality.csv")
    pd.concat([table, table.assign(ensemble="npt", temperature=750)]).to_csv(folder / "physicality.csv", index=False)
    page = Page(write_report(folder).read_text())
    saved = pd.read_csv(folder / "report" / "tables" / "physicality.csv")
    assert list(saved["condition"].unique()) == ["NVT, 1000 K, 1 fs, 800 steps", "NPT, 750 K, 1 fs, 800 steps"]
    assert (saved["total"] == 6).all()
    assert "NPT, 750 K, 1 fs, 800 steps. Unphysical trajectories" in page.text


def test_failed_teacher_is_said_on_top(tmp_path, no_figures):
    page = Page(write_report(make_run(tmp_path / "run", seeds=1, structures=2, pairs=2, passed=False)).read_text())
    assert "failed its examination and was used all the same: Li-Mn: attractive" in page.text


def test_a_second_report_leaves_nothing_of_the_first(small, tmp_path, no_figures):
    folder = tmp_path / "run"
    shutil.copytree(small, folder)
    write_report(folder)
    assert (folder / "report/tables/efs.csv").exists()
    (folder / "efs.csv").unlink()
    write_report(folder)
    assert not (folder / "report/tables/efs.csv").exists()


def test_folders_that_cannot_be_used_are_named(tmp_path):
    with pytest.raises(PhysPretrainError, match="nowhere does not exist"):
        write_report(tmp_path / "nowhere")
    (tmp_path / "report").write_text("in the way")
    with pytest.raises(PhysPretrainError, match=f"cannot write to the output folder {re.escape(os.fspath(tmp_path))}"):
        write_report(tmp_path)
