"""What MatDeepLearn would ignore without a word is refused before any work."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ase import Atoms
from mdl_jobs import CGCNN, TORCHMD, job, write_job
from typer.testing import CliRunner

from mdl_physpretrain.cli import app
from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.hosts.matdeeplearn.job_checks import TRAINER, check_job, check_training_state
from mdl_physpretrain.hosts.matdeeplearn.settings import read_settings
from mdl_physpretrain.structures import write_structures

SECTION = {"epochs": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainer": TRAINER, "physpretrian": SECTION}, "unknown section 'physpretrian'.* did you mean 'physpretrain'"),
        ({"physpretrian": SECTION}, "did you mean 'physpretrain'"),
        ({"trainer": TRAINER, "optimm": {}}, "did you mean 'optim'"),
        ({"trainer": TRAINER, "md": {}}, "the sections are trainer, task, model"),
        ({"physpretrain": SECTION}, f"property ignores the section 'physpretrain': write 'trainer: {TRAINER}'"),
        ({"dataset": {**job(CGCNN)["dataset"], "additional_attributes": ["forces"]}}, "ForceStressLoss needs stress"),
        (
            {"optim": {**job(CGCNN)["optim"], "rho": 0.005}},
            "optim.rho: trainer property ignores it: write 'trainer: sam'",
        ),
    ],
)
def test_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_job({**job(CGCNN), **changes})


@pytest.mark.parametrize(
    "trainer", [TRAINER, "physpretrain", "sam", f"{TRAINER.rpartition('.')[0]}.trainers.SAMTrainer"]
)
def test_accepted(trainer: str) -> None:
    check_job({**job(CGCNN), "trainer": trainer, "physpretrain": SECTION, "submit": False, None: None})


def test_radius_of_the_authors_files() -> None:
    theirs = job(CGCNN)
    theirs["optim"]["rho"] = 0.005
    settings = read_settings(theirs)
    assert (settings.sam, settings.sam_adaptive) == (0.005, True)
    assert read_settings({**theirs, "physpretrain": {"sam_adaptive": False}}).sam_adaptive is False
    with pytest.raises(ConfigError, match=r"physpretrain.sam \(0.05\) and optim.rho \(0.005\)"):
        read_settings({**theirs, "physpretrain": {"sam": 0.05}})
    theirs["optim"]["rho"] = -1
    with pytest.raises(ConfigError, match=r"optim\.rho"):
        read_settings(theirs)


@pytest.mark.hosts
def test_late_pooling_that_the_public_class_ignores() -> None:
    pytest.importorskip("matdeeplearn", reason="MatDeepLearn is not installed")
    late = {**TORCHMD, "pool_order": "late"}
    with pytest.raises(ConfigError, match="Write 'name: torchmd_et'"):
        check_job(job(late))
    check_job(job({**late, "name": "torchmd_et"}))


@pytest.mark.hosts
def test_an_optimizer_that_the_public_host_cannot_load(tmp_path: Path, demo_cells, monkeypatch) -> None:
    """All finetuning files of the paper's authors ask for it; by any trainer, before any work."""
    base_trainer = pytest.importorskip("matdeeplearn.trainers.base_trainer", reason="MatDeepLearn is not installed")
    from mdl_physpretrain.hosts.matdeeplearn.runner import run_host

    theirs = job(CGCNN, task__run_mode="finetune", task__checkpoint_path="net.pt", task__load_training_state=True)
    for trainer in ("property", TRAINER):
        file = write_job(tmp_path / trainer, {**theirs, "trainer": trainer}, demo_cells(6, 10))
        monkeypatch.chdir(tmp_path / trainer)
        with pytest.raises(ConfigError, match=r"undefined name 'checkpoint'.* write 'load_training_state: False'"):
            run_host(file)
        assert {p.suffix for p in Path().iterdir()} == {".json", ".yml"}
    check_training_state(theirs, "train")
    monkeypatch.setattr(base_trainer.BaseTrainer, "load_pre_trained_weights", lambda self, state: None)
    check_training_state(theirs, "finetune")  # a host that can


@pytest.mark.hosts
def test_bare_main_and_our_runner_say_the_same(tmp_path: Path, demo_cells, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matdeeplearn", reason="MatDeepLearn is not installed")
    from mdl_physpretrain.hosts.matdeeplearn.host import main_script

    cells: list[Atoms] = demo_cells(6, 10)
    for part in ("train", "val", "test"):
        write_structures(tmp_path / f"{part}.json", cells)
    (tmp_path / "data").mkdir()
    (tmp_path / "job.yml").write_text(yaml.safe_dump({**job(CGCNN), "trainer": TRAINER, "physpretrian": SECTION}))
    monkeypatch.chdir(tmp_path)
    expected = "error: unknown section 'physpretrian', which would be ignored: did you mean 'physpretrain'?"
    words = [sys.executable, str(main_script()), "--config_path=job.yml", "--run_mode=train"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == expected
    assert "Traceback" not in done.stderr
    ours = CliRunner().invoke(app, ["mdl", "job.yml"])
    assert ours.exit_code == 2
    assert expected in " ".join((ours.output + (ours.stderr or "")).split())


@pytest.mark.hosts
def test_dependencies_are_quiet() -> None:
    pytest.importorskip("matdeeplearn", reason="MatDeepLearn is not installed")
    from mdl_physpretrain.hosts import matdeeplearn

    matdeeplearn.register()
    assert logging.getLogger("numba.core.ssa").getEffectiveLevel() >= logging.WARNING
