"""What a reader does next: the network to use, and what its numbers are worth."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from report_page import Page
from report_run_folder import make_run
from typer.testing import CliRunner

from mdl_physpretrain.cli import app
from mdl_physpretrain.files import file_hash
from mdl_physpretrain.ownership import LEFT
from mdl_physpretrain.report import build, write_report
from mdl_physpretrain.report.read import read_run
from mdl_physpretrain.report.recommendation import recommended_network
from mdl_physpretrain.report.yardsticks import cut_trainings, pair_sentences, trivial_findings
from mdl_physpretrain.stability.limits import Limits
from mdl_physpretrain.workflow.summary import closing_lines

TOTALS = {("pretrained", 0): 3.0, ("pretrained", 1): 1.5, ("pretrained", 2): 2.0, ("baseline", 0): 0.5,
          ("baseline", 1): 0.4, ("baseline", 2): 0.3}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with networks and validation errors; the baseline is more accurate and less stable."""
    monkeypatch.setattr(build, "draw", lambda makers, folder, notes: {})
    folder = make_run(tmp_path / "run", seeds=3, structures=4, pairs=1)
    test = pd.read_csv(folder / "efs.csv")
    val = pd.DataFrame([{"arm": arm, "seed": seed, "split": "val", "total": t} for (arm, seed), t in TOTALS.items()])
    pd.concat([test.assign(split="test"), val]).to_csv(folder / "efs.csv", index=False)
    for arm, seed in TOTALS:
        (folder / f"seed-{seed}" / arm).mkdir(parents=True, exist_ok=True)
        (folder / f"seed-{seed}" / arm / "best.pt").touch()
    return folder


def set_lost(folder: Path, share: dict[str, int]) -> None:
    """So many of every arm's trajectories are unphysical."""
    table = pd.read_csv(folder / "physicality.csv")
    table["physical"] = table.groupby("arm").cumcount() >= table["arm"].map(share)
    table.to_csv(folder / "physicality.csv", index=False)


def test_the_most_stable_arm_and_its_best_validated_seed(run: Path) -> None:
    set_lost(run, {"baseline": 5, "pretrained": 0})
    best = recommended_network(read_run(run))
    assert best is not None
    assert best.file == "seed-1/pretrained/best.pt"
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert 'atoms.calc = pp.ASECalculator(pp.load_model("seed-1/pretrained/best.pt"))' in page.text
    assert page.ids.index("use") < page.ids.index("verdict")
    assert "Li Mn O" in best.tested
    assert "1000 K" in best.tested
    lines = closing_lines(run)
    assert any((run / best.file).as_posix() in line and "validation" in line for line in lines)
    set_lost(run, {"baseline": 0, "pretrained": 0})  # equally stable: the validation total decides
    best = recommended_network(read_run(run))
    assert best is not None
    assert best.file == "seed-2/baseline/best.pt"


def test_the_network_after_the_loop_and_only_files_that_exist(run: Path) -> None:
    set_lost(run, {"baseline": 5, "pretrained": 0})
    config = run / "config.yaml"
    config.write_text(config.read_text() + "loop:\n  rounds: 1\n")
    (run / "seed-1" / "pretrained" / "loop").mkdir()
    (run / "seed-1" / "pretrained" / "loop" / "best.pt").touch()
    best = recommended_network(read_run(run))
    assert best is not None
    assert best.file == "seed-1/pretrained/loop/best.pt"
    for file in run.glob("seed-*/**/best.pt"):
        file.unlink()
    assert recommended_network(read_run(run)) is None
    assert not any("Use it" in line for line in closing_lines(run))


@pytest.mark.parametrize(
    ("left", "file"),
    [
        (["report"], "seed-1/pretrained/best.pt"),
        (["md seed 1 pretrained", "evaluate seed 2 pretrained"], "seed-0/pretrained/best.pt"),
        (["finetune seed 1 pretrained", "evaluate seed 1 pretrained"], "seed-2/pretrained/best.pt"),
        (["loop seed 1 pretrained 2"], "seed-2/pretrained/best.pt"),
        (["md seed 1 pretrained 900 K"], "seed-2/pretrained/best.pt"),
        ([f"finetune seed {seed} pretrained" for seed in range(3)], "seed-2/baseline/best.pt"),
        (["evaluate"], None),
        (["md"], None),
    ],
)
def test_a_network_that_is_not_as_configured_is_not_recommended(run: Path, left: list[str], file: str | None) -> None:
    """Interrupted in a second training, the file is half trained, and the tables are those of the first."""
    set_lost(run, {"baseline": 5, "pretrained": 0})
    (run / ".stages").mkdir(exist_ok=True)
    (run / LEFT).write_text(json.dumps(left))
    best = recommended_network(read_run(run))
    assert (best and best.file) == file
    named = left != ["report"]
    assert any("Not done, or not as this configuration" in line for line in closing_lines(run)) == named
    text = Page(write_report(run).read_text(encoding="utf-8")).text
    assert ("not complete" in text) == named
    assert not named or left[0] in text
    told = CliRunner().invoke(app, ["report", str(run)]).output
    assert ("Not done, or not as this configuration" in " ".join(told.split())) == named


def test_a_further_seed_leaves_the_verdict_on_the_others(run: Path) -> None:
    """The tables of all seeds are to be made anew, and hold these two seeds as they are."""
    set_lost(run, {"baseline": 5, "pretrained": 0})
    (run / ".stages").mkdir(exist_ok=True)
    (run / LEFT).write_text(json.dumps(["finetune seed 3 pretrained", "evaluate", "md"]))
    for task, suffix in (("evaluate", ".efs.csv"), ("md", ".csv")):
        inputs = {}
        for arm, seed in TOTALS:
            file = run / f"seed-{seed}" / task / f"{arm}{suffix}"
            file.parent.mkdir(exist_ok=True)
            file.write_text(f"{arm} {seed}")
            inputs[str(file.relative_to(run))] = file_hash(file)
        (run / ".stages" / f"{task}.json").write_text(json.dumps({"parts": {"inputs": inputs}}))
    best = recommended_network(read_run(run))
    assert best is not None
    assert best.file == "seed-1/pretrained/best.pt"
    (run / "seed-1" / "evaluate" / "pretrained.efs.csv").write_text("redone")
    best = recommended_network(read_run(run))
    assert best is not None
    assert best.file == "seed-2/pretrained/best.pt"


def test_no_trajectory_of_the_main_simulation_is_no_error(run: Path) -> None:
    table = pd.read_csv(run / "physicality.csv")
    table["label"] = "nve-300K"  # a further condition, all that an interrupted run has
    table.to_csv(run / "physicality.csv", index=False)
    best = recommended_network(read_run(run))
    assert best is not None
    assert best.file == "seed-2/baseline/best.pt"


def test_errors_no_better_than_the_trivial_predictor_are_said(run: Path) -> None:
    assert trivial_findings(read_run(run)) == []
    efs = pd.read_csv(run / "efs.csv")
    efs.loc[(efs["arm"] == "pretrained") & (efs["split"] == "test"), "energy_per_atom_mae"] = 0.5
    efs.to_csv(run / "efs.csv", index=False)
    expected = "energies of pretrained (500 meV/atom) are no better than one energy per element (350)"
    assert [words for _, _, words in trivial_findings(read_run(run))] == [expected]
    assert f"Warning: {expected}" in closing_lines(run)
    assert "pretrained: energies no better than trivial" in Page(write_report(run).read_text(encoding="utf-8")).text


def test_cut_trainings_lower_the_verdict_on_accuracy(run: Path) -> None:
    efs = pd.read_csv(run / "efs.csv")
    efs.loc[efs["split"] == "test", "total"] = efs["seed"] * 0.01 + efs["arm"].map({"baseline": 5.0, "pretrained": 2.0})
    efs.to_csv(run / "efs.csv", index=False)
    whole = write_report(run).read_text(encoding="utf-8")
    assert '<span class="badge good">pretrained: more accurate' in whole
    changes = {"pretrain.epochs": [50, 8], "finetune.epochs": [200, 30], "md.n_structures": [100, 4]}
    (run / "plan.json").write_text(json.dumps({"limits": "a budget of 1h", "changes": changes}))
    page = write_report(run).read_text(encoding="utf-8")
    assert '<span class="badge good">pretrained: more accurate' not in page
    assert "of trainings cut to 30 of 200 epochs (pretraining to 8 of 50)" in page
    assert cut_trainings({"changes": {"md.n_structures": [100, 4]}}) == ""


def test_two_atoms_are_among_the_verdicts(run: Path) -> None:
    rows = [{"seed": s, "arm": a, "pair": p, "hole": a == "pretrained" and s == 1, "ok": a != "pretrained" or s != 1}
            for s in range(3) for a in ("baseline", "pretrained") for p in ("Li-O", "O-O")]  # fmt: skip
    pd.DataFrame(rows).to_csv(run / "diatomic_flags.csv", index=False)
    sentences = {s.label: s for s in pair_sentences(read_run(run))}
    assert sentences["baseline: two atoms repel: yes"].mood == "good"
    bad = sentences["pretrained: two atoms repel: no"]
    assert bad.mood == "caution"
    assert "2 of 2 pairs of elements have a flag in at least one of 3 seeds (hole 2)" in bad.text


def test_the_threshold_on_the_page_is_that_of_the_pair(run: Path) -> None:
    table = pd.read_csv(run / "physicality.csv")
    table = table.assign(overlap_threshold=1.3813, closest_pair="Nb-W", min_distance=1.6295)
    table.to_csv(run / "physicality.csv", index=False)
    write_report(run)
    saved = pd.read_csv(run / "report" / "tables" / "trajectories.csv")
    assert (saved["overlap_threshold"] - 1.63).abs().max() < 1e-6  # half of 1.64 + 1.62, of a file that has 1.38
    config = run / "config.yaml"
    config.write_text(config.read_text() + "  lindemann_variant: paper\n")
    write_report(run)
    saved = pd.read_csv(run / "report" / "tables" / "trajectories.csv")
    assert (saved["overlap_threshold"] - 1.3813).abs().max() < 1e-6
    assert Limits().overlap_distance("", 0.9) == 0.9
