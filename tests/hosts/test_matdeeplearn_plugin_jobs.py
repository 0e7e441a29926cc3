"""Whole MatDeepLearn jobs with the plugin: pretraining, examination, errors, an untouched configuration."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from ase import Atoms
from mdl_jobs import CGCNN, TORCHMD, job, run_job, write_job

from mdl_physpretrain.errors import CheckpointError, ConfigError, TeacherRefused
from mdl_physpretrain.structures import read_structures, write_structures

pytestmark = pytest.mark.hosts

pytest.importorskip("matdeeplearn", reason="MatDeepLearn is not installed")

TRAINER = "mdl_physpretrain.hosts.matdeeplearn.PhysPretrainTrainer"
TEACHER = {"cutoff": 5.0, "n_basis": 3, "epochs": 20, "force": True}


@pytest.fixture(scope="module")
def cells(demo_cells) -> list[Atoms]:
    """Twelve small Li-Mn-O cells."""
    return demo_cells(12, 12)


def section(**changes: Any) -> dict[str, Any]:
    return {"epochs": 2, "teacher": TEACHER, "augment": {"n_aug": 2}, **changes}


@pytest.mark.parametrize("model", [CGCNN, TORCHMD], ids=["cgcnn", "torchmd"])
def test_pretrain_then_finetune_in_one_job(
    cells: list[Atoms], tmp_path: Path, monkeypatch, model: dict[str, Any]
) -> None:
    options = section(md={"steps": 10, "temperature": 300, "every": 1, "select": True})
    config = job(model, trainer=TRAINER, physpretrain=options, optim__lr=1e-12)
    config["optim"]["optimizer"]["optimizer_args"] = {"weight_decay": 0.0}
    config["physpretrain"]["lr"] = 0.002
    results = run_job(tmp_path, config, cells, monkeypatch)

    labelled = read_structures(results / "pretrain" / "labelled.json")
    parents = {a.info["structure_id"] for a in cells[:-4]}
    assert {a.info["parent_id"] for a in labelled} <= parents
    assert 0 < len(labelled) <= 16
    assert (results / "pretrain" / "teacher.pt").is_file()
    weights = [
        torch.load(folder / "checkpoint_0" / "best_checkpoint.pt", weights_only=True)["state_dict"]
        for folder in (results / "pretrain", results)
    ]
    for key, value in weights[0].items():  # finetuning with a vanishing learning rate starts from, and keeps, them
        assert torch.allclose(value, weights[1][key], rtol=0, atol=1e-8), key
    log = (results / "log.txt").read_text()
    steps = ["Pretraining on", "Finetuning on 8 structures and", "replayed", "Selected epoch", "Physicality at the end"]
    assert [log.index(s) for s in steps] == sorted(log.index(s) for s in steps)

    table = pd.read_csv(results / "train_results" / "physicality.csv")
    assert set(table["structure_id"]) == {a.info["structure_id"] for a in cells[-2:]}
    looks = pd.read_csv(results / "train_results" / "physicality_epochs.csv")
    assert list(looks["epoch"]) == ["1", "2", "end"]
    assert set(looks["potential"].str.split(",").str[0]) == {"native"}
    assert looks["unphysical"].iloc[-1] == (~table["physical"]).sum()
    assert len(pd.read_csv(results / "train_results" / "train_predictions.csv")) == 8  # no replayed ones


def test_a_paper_teacher_made_in_the_host_and_kept_settings(cells: list[Atoms], tmp_path: Path, monkeypatch) -> None:
    """Labels that exist are taken; SAM, no replay, no examination."""
    from mdl_physpretrain.augmentation import augment
    from mdl_physpretrain.potentials import EAM
    from mdl_physpretrain.teacher import label

    eam = EAM(["Li", "O", "Mn"], cutoff=4.0, n_basis=2)
    write_structures(tmp_path / "labelled.extxyz", label(augment(cells[:8], n_aug=1, pull=0.1, perturb=0.1), eam))
    options = {"epochs": 1, "labelled": str(tmp_path / "labelled.extxyz"), "replay_fraction": 0, "sam": 0.05}
    config = job(CGCNN, trainer=TRAINER, physpretrain=options)
    results = run_job(tmp_path / "job", config, cells, monkeypatch)
    assert not (results / "pretrain" / "teacher.pt").exists()
    assert not (results / "train_results" / "physicality.csv").exists()
    assert len(read_structures(results / "pretrain" / "labelled.json")) == 8


def test_started_from_a_checkpoint_nothing_is_pretrained(cells: list[Atoms], tmp_path: Path, monkeypatch) -> None:
    first = run_job(tmp_path / "first", job(CGCNN), cells, monkeypatch)
    config = job(CGCNN, trainer=TRAINER, physpretrain=section())
    config["task"]["run_mode"] = "finetune"
    config["task"]["checkpoint_path"] = str(first / "checkpoint_0" / "best_checkpoint.pt")
    results = run_job(tmp_path / "second", config, cells, monkeypatch)
    assert not (results / "pretrain").exists()
    assert "no pretraining" in (results / "log.txt").read_text()


def test_checkpoints_of_another_network(cells: list[Atoms], tmp_path: Path, monkeypatch) -> None:
    wide = run_job(tmp_path / "wide", job({**CGCNN, "dim1": 8}), cells, monkeypatch) / "checkpoint_0/best_checkpoint.pt"
    torchmd = {k: v for k, v in job(TORCHMD)["model"].items() if k != "name"}
    cases = [(CGCNN, str(wide), r"another network than this CGCNN .*\(8, 100\), not")]
    cases.append(({"name": "torchmd_etEarly", **torchmd}, str(wide), "another network than this TorchMD_ET_Early"))
    cases.append((CGCNN, f"{wide},{wide}", "2 checkpoints for 1 models"))
    for k, (model, checkpoint, message) in enumerate(cases):
        config = job(model, trainer=TRAINER, physpretrain={"epochs": 0})
        config["task"].update(run_mode="finetune", checkpoint_path=checkpoint)
        with pytest.raises((CheckpointError, ConfigError), match=message):
            run_job(tmp_path / str(k), config, cells, monkeypatch)


def test_one_file_split_by_the_host_then_predict(cells: list[Atoms], tmp_path: Path, monkeypatch) -> None:
    """MatDeepLearn's own predict task hands a list to ``predict``; with our trainer it works."""
    write_structures(tmp_path / "all.json", cells)
    config = job(CGCNN, trainer=TRAINER, physpretrain=section(epochs=1, md={"steps": 2, "source": ["test", "val"]}))
    config["dataset"].update(src=str(tmp_path / "all.json"), train_ratio=0.7, val_ratio=0.1, test_ratio=0.2)
    results = run_job(tmp_path / "train", config, cells, monkeypatch)
    assert len(pd.read_csv(results / "train_results" / "physicality.csv")) == 3
    parents = {a.info["parent_id"] for a in read_structures(results / "pretrain" / "labelled.json")}
    trained = pd.read_csv(results / "train_results" / "train_predictions.csv")["structure_id"].str.strip("[]'")
    assert len(trained) == 8
    assert parents <= set(trained)
    config["task"].update(run_mode="predict", checkpoint_path=str(results / "checkpoint_0" / "best_checkpoint.pt"))
    config["dataset"]["src"] = {"predict": "test.json"}
    predicted = run_job(tmp_path / "predict", config, cells, monkeypatch)
    assert len(pd.read_csv(predicted / "predictions" / "lmo" / "predict_predictions.csv")) == 2


def test_sam_trainer_and_an_ensemble(cells: list[Atoms], tmp_path: Path, monkeypatch) -> None:
    config = job(CGCNN, trainer="mdl_physpretrain.hosts.matdeeplearn.SAMTrainer")
    config["physpretrain"] = {"md": {"steps": 3}}
    config["model"]["model_ensemble"] = 2
    results = run_job(tmp_path, config, cells, monkeypatch)
    looks = pd.read_csv(results / "train_results" / "physicality_epochs.csv")
    assert looks["potential"].tolist() == ["MatDeepLearn's calculator (an ensemble)"]


def test_selection_by_physicality() -> None:
    """The fewest unphysical trajectories count first, then the validation error."""
    from mdl_physpretrain.hosts.matdeeplearn.md_examiner import MDExaminer

    examiner = object.__new__(MDExaminer)
    model = torch.nn.Linear(1, 1)
    examiner.trainer = SimpleNamespace(model=[model], best_model_state=[None])
    examiner.rows, examiner.best = [], None
    for epoch, (unphysical, error) in enumerate([(3, 1.0), (1, 9.0), (1, 8.0), (2, 0.5)], start=1):
        torch.nn.init.constant_(model.weight, epoch)
        examiner.rows.append({"epoch": epoch, "unphysical": unphysical, "val_metric": error})
        examiner.keep_weights_if_better()
    examiner.restore_best_weights()
    assert examiner.trainer.best_model_state[0]["weight"].item() == 3


def test_an_untouched_configuration_runs_unchanged(cells: list[Atoms], tmp_path: Path) -> None:
    """MatDeepLearn's own main without us, and our runner: the same files, byte for byte."""
    from mdl_physpretrain.hosts.matdeeplearn.host import main_script

    outputs = []
    for name, command in {
        "without": [str(main_script()), "--config_path=config.yml", "--run_mode=train"],
        "with": ["-m", "mdl_physpretrain", "mdl", "config.yml"],
    }.items():
        folder = tmp_path / name
        write_job(folder, job(CGCNN), cells)
        (folder / "data").mkdir()
        host = str(Path(main_script()).parents[1])
        path = os.pathsep.join([host, os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
        done = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        (results,) = (folder / "results").iterdir()
        outputs.append({p.name: p.read_bytes() for p in sorted((results / "train_results").iterdir())})
        assert done.stdout.count("Starting regular training") == 1
    assert len(outputs[0]) == 9
    assert outputs[0] == outputs[1]


def test_short_names_after_one_dotted_import() -> None:
    from matdeeplearn.common.registry import registry

    assert registry.get_trainer_class(TRAINER).__name__ == "PhysPretrainTrainer"
    names = {"trainer": ("physpretrain", "sam"), "model": ("EAM_Interaction", "CGCNN_EAM", "TorchMD_EAM")}
    for kind, each in names.items():
        assert all(getattr(registry, f"get_{kind}_class")(name) is not None for name in each)
    assert registry.get_loss_class("EFSLoss") is not None
    assert "AugmentAndLabel" in registry.mapping["transforms"]


def test_host_that_is_missing_or_too_old(monkeypatch) -> None:
    from mdl_physpretrain.hosts.matdeeplearn import host

    monkeypatch.setattr(host, "NEEDED", (*host.NEEDED, ("models.cgcnn", "CGCNN", ("forward_all",))))
    with pytest.raises(ConfigError, match=r"no matdeeplearn\.models\.cgcnn\.CGCNN\.forward_all"):
        host.require_host()
    monkeypatch.setattr(host, "NEEDED", (("models.cgcnn", "CGCNN2", ()),))
    with pytest.raises(ConfigError, match=r"too old or incompatible: it has no matdeeplearn\.models\.cgcnn\.CGCNN2"):
        host.require_host()
    monkeypatch.setitem(sys.modules, "matdeeplearn", None)
    with pytest.raises(ConfigError, match="MatDeepLearn is not installed"):
        host.require_host()


def test_main_script_that_is_not_there(tmp_path: Path) -> None:
    from mdl_physpretrain.hosts.matdeeplearn.host import main_script

    with pytest.raises(ConfigError, match="--matdeeplearn"):
        main_script(tmp_path)


@pytest.mark.parametrize("mode", ["predict", "finetune"])
def test_a_checkpoint_that_is_not_named(mode: str, cells: list[Atoms], tmp_path: Path, monkeypatch) -> None:
    from mdl_physpretrain.hosts.matdeeplearn.runner import run_host

    file = write_job(tmp_path, job(CGCNN), cells)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"{mode} needs task.checkpoint_path"):
        run_host(file, run_mode=mode)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"epoch": 3}, r"unknown key 'physpretrain.epoch'; did you mean 'physpretrain.epochs'"),
        (
            {"augment": {"naug": 3}},
            r"unknown key 'physpretrain.augment.naug'; did you mean 'physpretrain.augment.n_aug'",
        ),
        ({"md": {"temprature": 3}}, r"did you mean 'physpretrain.md.temperature'"),
        ({"epochs": -1}, r"physpretrain.epochs: .*not -1"),
        ([1], "expected keys and values"),
    ],
)
def test_settings_that_cannot_be(section: Any, message: str) -> None:
    from mdl_physpretrain.hosts.matdeeplearn.settings import read_settings

    with pytest.raises(ConfigError, match=message):
        read_settings({"physpretrain": section})


def test_data_that_cannot_be(cells: list[Atoms], tmp_path: Path, monkeypatch) -> None:
    from mdl_physpretrain.hosts.matdeeplearn.runner import check_config

    monkeypatch.chdir(tmp_path)
    path = write_job(tmp_path, job(CGCNN), cells)
    entries = json.loads((tmp_path / "val.json").read_text())
    name = entries[0]["structure_id"]
    del entries[0]["stress"]
    (tmp_path / "val.json").write_text(json.dumps(entries))
    with pytest.raises(ConfigError, match=rf"val.json, structure {name}: stress is missing \(dataset.additional_attr"):
        check_config(path)
    path = write_job(tmp_path, job({"name": "EAM_Interaction", "atom_types": ["Li", "O"]}), cells)
    with pytest.raises(ConfigError, match=r"Mn is not in model\.atom_types"):
        check_config(path)
    for file, text, message in (
        ("none.yml", None, "does not exist"),
        ("bad.yml", "a: [", "not valid YAML"),
        ("other.yml", "a: 1", "no section task, model, optim, dataset"),
        ("src.yml", yaml.safe_dump(job(CGCNN, dataset__src="no.json")), "no.json does not exist"),
    ):
        if text is not None:
            (tmp_path / file).write_text(text)
        with pytest.raises(ConfigError, match=message):
            check_config(tmp_path / file)


def test_several_processes(cells: list[Atoms], tmp_path: Path, monkeypatch) -> None:
    """Started with torchrun; only the words are looked at, there is no second GPU here."""
    from mdl_physpretrain.hosts.matdeeplearn import runner

    monkeypatch.chdir(tmp_path)
    config = job(CGCNN)
    path = write_job(tmp_path, config, cells)
    with pytest.raises(ConfigError, match=r"2 GPUs need 'task\.parallel: True'"):
        runner.run_host(path, gpus=2)
    config["task"]["parallel"] = True
    path = write_job(tmp_path, config, cells)
    words: list[str] = []

    def run(given: list[str], check: bool) -> Any:
        words.extend(given)
        return SimpleNamespace(returncode=1)

    monkeypatch.setattr(runner.subprocess, "run", run)
    with pytest.raises(ConfigError, match="exit code 1"):
        runner.run_host(path, gpus=2, seed=3)
    assert words[1:7] == ["-m", "torch.distributed.run", "--nproc_per_node=2", "-m", "mdl_physpretrain", "mdl"]
    assert words[7:] == [str(path), "--run-mode", "train", "--seed", "3"]


def test_jobs_that_cannot_be(cells: list[Atoms], tmp_path: Path, monkeypatch) -> None:
    loss = {"loss_type": "TorchLossWrapper", "loss_args": {"loss_fn": "l1_loss"}}
    bad: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"physpretrain": section(), "optim__loss": loss}, ConfigError, "force_scale does not know"),
        ({"physpretrain": section(md={"source": ["predict.extxyz"]}, epochs=0)}, Exception, "predict.extxyz"),
        ({"physpretrain": section(md={"select": True, "steps": 1}, epochs=0)}, ConfigError, "md.every"),
        (
            {"physpretrain": section(teacher={**TEACHER, "checkpoint": "no.pt"})},
            CheckpointError,
            "no.pt does not exist",
        ),
        (
            {"physpretrain": section(teacher={"preset": "paper", "epochs": 1, "cutoff": 4.0, "n_basis": 1})},
            TeacherRefused,
            "failed its examination",
        ),
    ]
    for k, (changes, error, message) in enumerate(bad):
        with pytest.raises(error, match=message):
            run_job(tmp_path / str(k), job(CGCNN, trainer=TRAINER, **changes), cells, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("model", [CGCNN, TORCHMD], ids=["cgcnn", "torchmd"])
def test_same_verdicts_as_the_hosts_calculator(
    cells: list[Atoms], tmp_path: Path, monkeypatch, model: dict[str, Any]
) -> None:
    """A network pretrained in the host, read from its checkpoint: our MD and the host's calculator agree."""
    from matdeeplearn.common.ase_utils import MDLCalculator

    from mdl_physpretrain.dynamics import simulate
    from mdl_physpretrain.dynamics.assessment import assess
    from mdl_physpretrain.hosts.matdeeplearn.checkpoint import read_matdeeplearn
    from mdl_physpretrain.hosts.matdeeplearn.potential import HostCalculator

    options = section(epochs=10, lr=0.01, augment={"n_aug": 4})
    config = job(model, trainer=TRAINER, physpretrain=options, optim__max_epochs=5)
    results = run_job(tmp_path, config, cells, monkeypatch)
    checkpoint = results / "checkpoint_0" / "best_checkpoint.pt"
    ours = read_matdeeplearn(checkpoint, tmp_path / "config.yml").double()
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    config["task"]["checkpoint_path"] = str(checkpoint)
    theirs = HostCalculator(MDLCalculator._load_model(config, "cpu"), config, "cpu")
    settings = {"temperature": 1500.0, "timestep": 2.0, "steps": 150, "seed": 0}
    tables = [assess(simulate(potential, cells[:5], **settings)) for potential in (ours, theirs)]
    assert tables[0]["physical"].tolist() == tables[1]["physical"].tolist()
    # a trajectory that is lost is chaos: of what comes after its first event only that it came is compared
    first, second = ([str(reason).split(",")[0] for reason in table["reason"]] for table in tables)
    assert first == second
    assert (tables[0]["first_unphysical_step"] - tables[1]["first_unphysical_step"]).abs().fillna(0).max() <= 2
