"""Which labels finetuning replayed, on the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from report_page import Page
from report_run_folder import make_run

from mdl_physpretrain.report import build, write_report
from mdl_physpretrain.training.replay_scope import SCOPE, ScopeChoice


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(build, "draw", lambda makers, folder, notes: {})
    folder = make_run(tmp_path / "run", seeds=3, structures=4, pairs=1)
    for seed in range(3):
        (folder / f"seed-{seed}" / "pretrained").mkdir(parents=True, exist_ok=True)
    return folder


def test_the_choice_of_every_seed_is_on_the_page(run: Path) -> None:
    ScopeChoice("beyond_data", 556, 0.127, 0.266).write(run / "seed-0" / "pretrained")
    ScopeChoice("all", 905, 0.36, 0.41).write(run / "seed-1" / "pretrained")
    (run / "seed-2" / "pretrained" / SCOPE).write_text(json.dumps({"scope": "all"}))
    text = write_report(run).read_text(encoding="utf-8")
    page = Page(text)
    assert "What finetuning replayed" in text
    for words in ("beyond_data", "556", "905", "12.7", "26.6", "36.0", "41.0"):
        assert words in page.text
    assert (run / "report" / "tables" / "replay.csv").read_text().count("pretrained") == 3


def test_a_damaged_choice_is_said_and_costs_nothing_else(run: Path) -> None:
    ScopeChoice("beyond_data", 556, 0.127, 0.266).write(run / "seed-0" / "pretrained")
    (run / "seed-1" / "pretrained" / SCOPE).write_text("[1, 2")
    text = write_report(run).read_text(encoding="utf-8")
    assert "seed-1/pretrained/replay.json could not be read" in text
    assert "12.7" in text


def test_without_replay_there_is_no_table(run: Path) -> None:
    assert "What finetuning replayed" not in write_report(run).read_text(encoding="utf-8")


def test_a_trial_of_training_structures_is_shown(run: Path) -> None:
    choice = ScopeChoice("beyond_data", 40, 0.05, 0.2, tolerance=3.0, lost=0, simulated=16)
    choice.write(run / "seed-0" / "pretrained")
    page = write_report(run).read_text(encoding="utf-8")
    assert "Trajectories lost in the trial" in page
    choice = ScopeChoice("beyond_data", 40, 0.05, 0.2, tolerance=1.0, lost=4, lost_closer=0, simulated=16)
    choice.write(run / "seed-1" / "pretrained")
    table = write_report(run).parent / "tables" / "replay.csv"
    assert "beyond_data,40,0.05,0.2,1.0,4,0.0,16" in table.read_text()
