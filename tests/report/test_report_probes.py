"""Sections that a folder has only with the files for them; the viewer's data; folders of a check."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_page import Page
from report_probe_files import PAIRS, add_change_errors, add_coverage, add_decomposition, add_frames, make_check
from report_run_folder import make_run

from mdl_physpretrain.report import build, write_report
from mdl_physpretrain.report.failing_frames import MAX_FRAMES, earliest_failures, element_colour
from mdl_physpretrain.report.figures import all_figures
from mdl_physpretrain.report.read import read_run
from mdl_physpretrain.statistics.proportions import wilson_interval
from mdl_physpretrain.statistics.survival import kaplan_meier, logrank


def embedded(html: str, name: str):
    return json.loads(re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', html, re.DOTALL)[1])


def without_figures(folder: Path) -> Path:
    """They take most of the time; all tests but one are about the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "draw", lambda makers, folder, notes: {})
        return write_report(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("run") / "a", seeds=3, structures=6, pairs=2, probes=True)
    add_decomposition(folder)
    add_coverage(folder)
    add_change_errors(folder, 14)
    without_figures(folder)
    return folder


@pytest.fixture(scope="module")
def html(run) -> str:
    return (run / "report" / "index.html").read_text()


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


@pytest.fixture(scope="module")
def checked(tmp_path_factory) -> tuple[Path, Page]:
    folder = make_check(tmp_path_factory.mktemp("check") / "c", structures=6)
    return folder, Page(without_figures(folder).read_text())


@pytest.fixture
def no_figures(monkeypatch):
    monkeypatch.setattr(build, "draw", lambda makers, folder, notes: {})


def test_new_sections_stand_where_their_files_are(run, page):
    absent = {  # this run has no loop, and asks the field's figures only on request
        "loop", "diatomic_metrics", "bond_smoothness", "invariance", "eos", "heating", "pressure_ramp", "ensemble",
        "stiffness",
    }  # fmt: skip
    assert [i for i in page.ids if i in build.SECTIONS] == [s for s in build.SECTIONS if s not in absent]
    assert read_run(run).notes == {}


def test_figures_of_the_probes(run, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    makers = all_figures(read_run(run))
    own = {"failure_steps": makers["failure_steps"]}
    monkeypatch.setattr(build, "all_figures", lambda run: own)
    page = Page(write_report(folder).read_text())
    for name in (*own, "rdf", "diffusion", "compression", "failing_frames"):
        assert (folder / "report" / "figures" / f"{name}.png").stat().st_size > 5000
    shown = [v for t, k, v in page.attributes if (t, k) == ("svg", "aria-label")]
    assert [v for v in shown if v.startswith("Radial")] == [f"Radial distribution function: {pair}" for pair in PAIRS]
    assert len([v for v in shown if v.startswith("Energy of a compressed cell")]) == 4
    assert shown[0] == "When trajectories fail: Still physical"
    assert len([v for v in shown if v.startswith("Failing frame")]) == 3
    assert "lmo-003 3 flagged" in page.text


PROBES = {"rdf.csv": "rdf", "msd.csv": "diffusion", "diffusion.csv": "diffusion",
          "rdf_errors.csv": "rdf", "compression.csv": "compression",
          "compression_flags.csv": "compression", "nve.csv": "nve", "diatomic_flags.csv": "diatomics",
          "teacher/decomposition.csv": "teacher"}  # fmt: skip


def test_without_their_files_nothing_is_said(run, tmp_path, no_figures):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    for file in PROBES:
        (folder / file).unlink()
    for file in folder.glob("seed-*/md/*.npz"):
        file.unlink()
    page = Page(write_report(folder).read_text())
    assert not {"rdf", "diffusion", "compression", "nve", "worst"} & set(page.ids)
    assert "diatomics" in page.ids
    assert read_run(folder).notes == {}


def test_damaged_probes_cost_only_their_parts(run, tmp_path, no_figures):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    for file in PROBES:
        (folder / file).write_bytes(b"\xff\xfe[{,;\x00 not")
    page = Page(write_report(folder).read_text())
    for file, section in PROBES.items():
        assert f"{file} could not be read" in page.text
        assert section in page.ids
    assert "Time to failure" in page.tables


def test_numbers_that_are_none(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    pd.read_csv(folder / "nve.csv").assign(drift="fast").to_csv(folder / "nve.csv", index=False)
    pd.read_csv(folder / "rdf_errors.csv").assign(error="inf").to_csv(folder / "rdf_errors.csv", index=False)
    pd.read_csv(folder / "compression_flags.csv").assign(ok="?").to_csv(folder / "compression_flags.csv", index=False)
    page = Page(without_figures(folder).read_text())
    assert page.tables["Energy drift"][0][4:6] == ["–", "–"]
    assert page.tables["Errors of the radial distribution"][0][1] == "–"
    assert page.tables["Flags of the compression curves"][1][-1] == "0"


def test_survival_is_that_of_the_trajectories(run, page):
    source = pd.read_csv(run / "physicality.csv")
    time = source["first_unphysical_step"].fillna(source["steps_done"]) / 1000  # ps, of 1 fs steps
    shown = {row[0]: row[1:] for row in page.tables["Time to failure"]}
    saved = pd.read_csv(run / "report" / "tables" / "survival.csv").set_index("arm")
    _, p = logrank(time, ~source["physical"], source["arm"])
    assert saved.loc["pretrained", "p"] == pytest.approx(p)
    for arm, group in source.groupby("arm"):
        last = kaplan_meier(time[group.index], ~group["physical"]).iloc[-1]
        assert saved.loc[arm, ["survival", "low", "high"]].tolist() == pytest.approx(list(last[-3:]))
        assert shown[arm][:3] == [str(len(group)), str((~group["physical"]).sum()), f"{100 * last['survival']:.0f}"]
    assert saved.loc["baseline", "unit"] == "ps"
    curves = pd.read_csv(run / "report" / "tables" / "survival_curves.csv")
    assert curves["time"].max() == pytest.approx(0.8)
    assert (curves[curves["time"] == 0]["low"] < 1).all()  # no failure so far is not certainty


def test_share_still_physical_stands_at_the_times_that_the_runs_reach(run, tmp_path, no_figures):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    table = pd.read_csv(folder / "physicality.csv").assign(timestep=7.5)  # 800 steps are 6 ps
    table.to_csv(folder / "physicality.csv", index=False)
    page = Page(write_report(folder).read_text())
    saved = pd.read_csv(folder / "report" / "tables" / "still_physical.csv").set_index("arm")
    shown = {row[0]: row[1:] for row in page.tables["Physicality per arm"]}
    end = table["first_unphysical_step"].fillna(table["steps_done"]) * 0.0075
    for arm, group in table.groupby("arm"):
        lost = [int((~group["physical"] & (end[group.index] <= time)).sum()) for time in (1, 2, 5)]
        left = [len(group) - n for n in lost]
        assert saved.loc[arm, "time"].tolist() == [1.0, 2.0, 5.0, 10.0]
        assert saved.loc[arm, "physical"].tolist() == [*left, 0]
        assert saved.loc[arm, ["low", "high"]].to_numpy()[1] == pytest.approx(wilson_interval(left[1], len(group)))
        assert shown[arm][-3:] == [f"{100 * n / len(group):.0f}%" for n in left]
        assert len(shown[arm]) == 8  # and no column of 10 ps, which nothing reached
    assert 0 < saved.loc["baseline", "physical"].iloc[0] < 18


def test_trajectories_that_were_to_be_short_do_not_count_at_later_times(run, tmp_path, no_figures):
    """One that fails early and one that ends early, both planned for 1 ps, say nothing about 2 ps."""
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    table = pd.read_csv(folder / "physicality.csv").assign(timestep=2.5)
    short = table["structure_id"].isin(["lmo-000", "lmo-001"])
    table["steps"] = table["steps"].mask(short, 400)
    table["steps_done"] = table["steps_done"].where(~short, table["steps_done"].clip(upper=400))
    table.to_csv(folder / "physicality.csv", index=False)
    write_report(folder)
    saved = pd.read_csv(folder / "report" / "tables" / "still_physical.csv").set_index(["arm", "time"])
    assert saved.loc[("baseline", 1.0), "total"] == 18
    assert saved.loc[("baseline", 2.0), "total"] == 12


def test_flag_tables_count_the_rows_of_the_files(page):
    diatomic = {(row[0], row[1]): row[2:] for row in page.tables["Flags of the diatomic curves"]}
    assert diatomic["baseline", "Li-O"] == ["3 of 3", "1 of 3", "no", "3 of 3", "no", "flagged"]
    assert diatomic["baseline", "Mn-O"][-1] == "no flag"
    assert all(diatomic["pretrained", pair][-1] == "no flag" for pair in PAIRS)
    compression = {row[0]: row[1:] for row in page.tables["Flags of the compression curves"]}
    assert compression["baseline"] == ["12", "3", "0", "0", "2.50", "9"]
    assert compression["pretrained"] == ["12", "0", "0", "0", "0.00", "12"]
    assert "Flagged structures: lmo-003." in page.text


def test_drift_is_that_of_the_file(run, page):
    source = pd.read_csv(run / "nve.csv")
    shown = {row[0]: row[1:] for row in page.tables["Energy drift"]}
    for arm, group in source.groupby("arm"):
        assert float(shown[arm][4]) == pytest.approx(group["drift"].abs().max(), rel=6e-3)
        assert float(shown[arm][3]) == pytest.approx(group["drift"].abs().median(), rel=6e-3)
        assert shown[arm][1] == str((group["steps_done"] < 800).sum())
    assert "3 too short to tell" in page.text


def test_rdf_errors_are_means_over_seeds(run, page):
    shown = {row[0]: row[1:] for row in page.tables["Errors of the radial distribution"]}
    assert shown["baseline"][0] == "0.410 ± 0.010"
    assert shown["pretrained"][:2] == ["0.110 ± 0.010"] * 2
    assert shown["pretrained"][-1] == "12"


def test_diffusion_is_the_mean_over_seeds(page):
    shown = {(row[0], row[1]): row[2:] for row in page.tables["Diffusion coefficients"]}
    assert shown["baseline", "Li"] == ["0.11", "1.10e-05", "0.90"]
    assert shown["pretrained", "O"][0] == "0"
    assert "± 0.01 over 3 seeds" in page.text


def test_decomposition_stands_beside_the_teacher(page):
    rows = {row[0]: row[1:] for row in page.tables["Parts of the teacher"]}
    assert rows["whole teacher"] == ["9.100", "0.0980", "0.00510", "5.100"]
    assert "trivial predictor" in rows


def test_expected_errors_of_labels_stand_with_the_compositions_of_most_frames(run, html, page):
    rows = page.tables["Expected errors of the labels"]
    assert rows[0] == ["In1P1", "39", "0.020", "0.500", "5"]
    assert len(rows) == 12
    assert "12 of 14 compositions" in html
    assert len(pd.read_csv(run / "report" / "tables" / "change_errors.csv")) == 14


def test_one_composition_needs_no_table_of_expected_errors(tmp_path, no_figures):
    folder = make_run(tmp_path / "one", seeds=1, structures=2, pairs=1)
    add_change_errors(folder, 1)
    assert "Expected errors of the labels" not in without_figures(folder).read_text()


def test_distances_that_nothing_covers_are_named(page):
    rows = {row[0]: row[1:] for row in page.tables["Coverage of distances"]}
    assert rows["Li-O"] == ["1.20–1.40", "50", "100", "–"]
    assert rows["P-P"] == ["1.20–1.40", "0", "50", "1.20-1.30 Å"]


def test_downloads_in_the_page_are_the_saved_tables(run, html, page):
    tables = embedded(html, "downloads")
    names = {v for t, k, v in page.attributes if (t, k) == ("a", "data-table")}
    assert (
        {"physicality", "efs", "survival", "compression_flags_each", "nve_each", "trajectories"} <= names <= set(tables)
    )
    for name in names:
        saved = pd.read_csv(run / "report" / "tables" / f"{name}.csv", keep_default_na=False)
        assert tables[name]["columns"] == list(saved.columns)
        assert len(tables[name]["data"]) == len(saved)
    row = tables["physicality"]["data"][0]
    assert row[tables["physicality"]["columns"].index("total")] == 18


def test_earliest_failures_are_the_earliest_failures_of_the_arms_in_turn(tmp_path):
    folder = make_run(tmp_path / "run", seeds=3, structures=6, pairs=1, arms=("baseline", "zbl"), probes=True)
    frames = earliest_failures(read_run(folder))
    source = pd.read_csv(folder / "physicality.csv")
    failed = source[~source["physical"]].sort_values("first_unphysical_step")
    assert len(frames) == MAX_FRAMES < len(failed)
    assert [f.arm for f in frames[:4]] == ["baseline", "zbl"] * 2
    for arm, group in failed.groupby("arm"):
        own = [f for f in frames if f.arm == arm]
        first = group.iloc[0]
        assert (own[0].structure, own[0].step) == (first["structure_id"], first["first_unphysical_step"])
        different = min(len(own), group["structure_id"].nunique())
        assert len({f.structure for f in own[:different]}) == different  # others before one is met again


def test_a_frame_is_wrapped_and_its_pair_is_the_nearest_image(run):
    frames = earliest_failures(read_run(run))
    frame = next(f for f in frames if f.pair)
    inside = np.array(frame.positions) @ np.linalg.inv(frame.cell)
    assert (inside > -1e-3).all()
    assert (inside < 1 + 1e-3).all()
    pair = frame.pair
    assert {pair["i"], pair["j"]} == {0, 1}
    assert np.linalg.norm(pair["vector"]) == pytest.approx(pair["distance"], abs=2e-3)
    assert pair["distance"] == pytest.approx(np.hypot(0.7, 0.1), abs=1e-3)
    between = np.array(frame.positions[pair["j"]]) - frame.positions[pair["i"]] - pair["vector"]
    assert np.allclose(np.rint(between @ np.linalg.inv(frame.cell)), between @ np.linalg.inv(frame.cell), atol=1e-3)
    assert frame.text.startswith(("Atoms overlap", "NaN or explosion"))
    wandering = [f for f in frames if f.outcome == "lindemann"]
    assert wandering
    for f in wandering:
        assert (f.mark, f.pair) == (5, None)
        assert "O 5" in f.text
        assert "0.31, limit 0.25" in f.text


def test_scene_in_the_page_holds_the_frames(run, html, page):
    scene = embedded(html, "scene")
    assert scene["frames"] == [json.loads(json.dumps(f.plain())) for f in earliest_failures(read_run(run))]
    assert set(scene["colours"]) == {"Mg", "O"}
    assert "canvas" in page.tags
    labels = {v for t, k, v in page.attributes if (t, k) == ("button", "aria-label")}
    assert {"turn left", "zoom in", "reset the view"} <= labels


def test_a_damaged_npz_is_named_and_costs_only_its_frames(run, tmp_path, no_figures):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    (folder / "seed-0" / "md" / "baseline.runs.npz").write_bytes(b"PK not a zip")
    text = write_report(folder).read_text()
    frames = embedded(text, "scene")["frames"]
    assert frames
    assert not [f for f in frames if (f["seed"], f["arm"]) == (0, "baseline")]
    assert "baseline.runs.npz" in Page(text).text
    for file in folder.glob("seed-*/md/*.npz"):
        file.write_bytes(b"")
    page = Page(write_report(folder).read_text())
    assert "worst" in page.ids
    assert "canvas" not in page.tags


def test_hostile_names_in_the_data_of_the_page(tmp_path, no_figures):
    evil = ["</script><script>alert(1)</script>", "<!--<script>", "a\u2028b", 'x,"y"\n=\'1']
    folder = make_run(tmp_path / "run", seeds=1, names=evil, pairs=1, arms=("baseline", "zbl"), probes=True)
    text = write_report(folder).read_text()
    page = Page(text)
    assert page.tags.count("script") == 3
    inside = re.findall(r"<script[^>]*json[^>]*>(.*?)</script>", text, re.DOTALL)
    assert len(inside) == 2
    assert not any("<" in part or "\u2028" in part for part in inside)
    assert {f["structure"] for f in embedded(text, "scene")["frames"]} <= set(evil)
    table = embedded(text, "downloads")["trajectories"]
    assert {row[table["columns"].index("structure_id")] for row in table["data"]} == set(evil)


@pytest.fixture
def conditions(tmp_path) -> Path:
    """NVT as it is; NPT, in which everything fails early, under the label npt-750K."""
    folder = make_run(tmp_path / "run", seeds=2, structures=4, pairs=1)
    table = pd.read_csv(folder / "physicality.csv").assign(label="")
    other = table.assign(
        ensemble="npt", temperature=750.0, timestep=2.0, label="npt-750K", physical=False, overlap=True
    )
    other = other.assign(first_unphysical_step=7, steps_done=7, reason="overlap")
    pd.concat([table, other]).to_csv(folder / "physicality.csv", index=False)
    add_frames(folder)
    for (seed, arm), group in other.groupby(["seed", "arm"]):
        columns = ["seed", "arm", "ensemble", "temperature", "timestep", "label"]
        group.drop(columns=columns).to_csv(folder / f"seed-{seed}/md/{arm}@npt-750K.csv", index=False)
    return folder


@pytest.mark.parametrize("collected", [True, False])
def test_conditions_are_never_mixed(conditions, no_figures, collected):
    """Also when the conditions are known from the seeds' folders alone."""
    nvt, npt = "NVT, 1000 K, 1 fs, 800 steps", "NPT, 750 K, 2 fs, 800 steps"
    if not collected:
        (conditions / "physicality.csv").unlink()
    run = read_run(conditions)
    assert run.arms == ["baseline", "pretrained"]
    assert sorted(run.physicality["condition"].unique()) == [npt, nvt]
    text = write_report(conditions).read_text()
    tables = conditions / "report" / "tables"
    counts = pd.read_csv(tables / "physicality.csv").set_index(["condition", "arm"])
    assert (counts["total"] == 8).all()
    assert counts.loc[npt, "physical"].tolist() == [0, 0]
    curves = pd.read_csv(tables / "survival_curves.csv")
    at_risk = curves.groupby(["condition", "arm"])["at_risk"].max()
    assert (at_risk == 8).all()
    assert curves.loc[curves["condition"] == npt, "time"].max() == pytest.approx(0.014)
    frames = embedded(text, "scene")["frames"]
    assert {f["condition"] for f in frames} <= {nvt, npt}
    for f in frames:
        assert f["text"].startswith(f["condition"])
        assert (f["step"] == 7) == (f["condition"] == npt)


def test_two_lengths_of_one_structure_are_two_conditions(tmp_path):
    folder = make_run(tmp_path / "run", seeds=1, structures=3, pairs=1)
    table = pd.read_csv(folder / "physicality.csv")
    pd.concat([table, table.assign(steps=5000)]).to_csv(folder / "physicality.csv", index=False)
    words = read_run(folder).physicality["condition"].unique()
    assert list(words) == ["NVT, 1000 K, 1 fs, 800 steps", "NVT, 1000 K, 1 fs, 5000 steps"]


def test_a_check_is_a_page_on_potentials(checked):
    folder, page = checked
    assert "Check of 2 potentials" in page.text
    assert "not in the run folder" not in page.text
    found = [i for i in page.ids if i in build.SECTIONS]
    assert found == ["verdict", "physicality", "failures", "worst", "trajectories", "rdf", "diffusion", "diatomics",
                     "compression", "nve", "data"]  # fmt: skip
    assert read_run(folder).notes == {}
    for words in ("potential A of the test", "A: 6 of 6 fail", "B: no failure seen"):
        assert words in page.text
    low, high = wilson_interval(6, 6)
    assert (
        f"Unphysical trajectories: 6 of 6 (100%, 95% interval {100 * low:.0f}–{100 * high:.0f}%): 6 atom overlap."
        in page.text
    )
    answers = {row[0]: row[1:] for row in page.tables["Verdicts"]}  # made from the tables: there is no verdicts.csv
    assert answers["compression costs energy"] == answers["two atoms repel"] == ["no", "yes"]
    assert "3 of 4 structures without a flag; cell-3 (collapse)" in page.text
    assert "1 of 3 pairs without a flag; Li-O (hole" in page.text


def test_a_check_claims_nothing_about_training(checked):
    _, page = checked
    assert "B: fewer unphysical than A" in page.text
    assert "it says nothing about two ways of training" in page.text
    assert not re.search(r"\b(arm|arms|pretrain\w*)\b", page.text.lower().replace("physpretrain", ""))
    assert "per seed" not in page.text
    row = page.tables["Paired tests"][0]
    assert row == ["B vs A", "6", "6", "0", "0.031", "fewer, supported"]


def test_further_simulations_of_a_check_stand_behind_the_main_one(tmp_path, no_figures):
    folder = make_check(tmp_path / "c", structures=4, probes=False)
    main = pd.read_csv(folder / "physicality.csv").assign(label="")
    nve = main[main["structure_id"] < "cell-2"].assign(ensemble="nve", label="nve-300K", physical=True, overlap=False)
    pd.concat([nve, main]).to_csv(folder / "physicality.csv", index=False)
    page = Page(write_report(folder).read_text())
    assert "A: 4 of 4 fail" in page.text
    assert [row[0] for row in page.tables["Physicality per potential"]] == ["A", "B"] * 2
    assert [row[1] for row in page.tables["Physicality per potential"]] == ["4", "4", "2", "2"]
    assert [row[1] for row in page.tables["Paired tests"]] == ["4"]
    assert len(re.findall(r"trajectories stay physical", page.text)) == 2


def test_a_check_with_answers_shows_them_by_question(tmp_path, no_figures):
    folder = make_check(tmp_path / "c", structures=3, probes=False)
    rows = [("A", "MD stays physical", "no", "3 of 3 unphysical"), ("B", "MD stays physical", "yes", "0 of 3")]
    rows += [("B", "two atoms repel", "no", "hole in <O-O>"), ("A", "two atoms repel", "unanswered", "crashed")]
    pd.DataFrame(rows, columns=["arm", "question", "verdict", "finding"]).to_csv(folder / "verdicts.csv", index=False)
    page = Page(write_report(folder).read_text())
    assert page.tables["Verdicts"] == [["MD stays physical", "no", "yes"], ["two atoms repel", "unanswered", "no"]]
    assert "hole in <O-O>" in page.text
    assert "B: 1 answer no" in page.text


@pytest.mark.parametrize("left", [(), ("physicality.csv",), ("diatomics_flags.csv", "nve.csv")])
def test_a_check_with_little_in_it(tmp_path, no_figures, left):
    folder = make_check(tmp_path / "c", potentials=("only",), structures=3, probes=bool(left) and "nve.csv" in left)
    if "physicality.csv" not in left:
        (folder / "physicality.csv").unlink()
    page = Page(write_report(folder).read_text())
    assert "Check of 1 potential " in page.text
    assert "not in the run folder" not in page.text
    if not left:
        assert "There are no results to judge yet." in page.text
    if "physicality.csv" in left:
        assert "only: 3 of 3 fail" in page.text
    (folder / "check.json").write_text("[")
    assert "check.json could not be read" in Page(write_report(folder).read_text()).text


def test_elements_have_different_colours_and_none_is_red():
    from ase.data import chemical_symbols

    colours = {s: element_colour(s) for s in chemical_symbols[1:95]}
    assert len(set(colours.values())) == len(colours)
    for colour in colours.values():
        r, g, b = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
        assert r < 2 * max(g, b)
