"""The same method by `physpretrain run`, by its single steps, and by one Python call: the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from ase.build import bulk
from labelled_cells import random_labels
from typer.testing import CliRunner

import mdl_physpretrain as pp
from mdl_physpretrain.cli import app
from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.structures import get_labels, read_structures, write_structures

LOOP = {
    "rounds": 1,
    "n_structures": 1,
    "steps": 20,
    "temperature": 1e5,
    "epochs": 1,
    "curves": False,
    "frames_lost": 2,
    "tolerance": 9.0,
}
NETWORK = {"dim1": 8, "dim2": 8, "gc_count": 1, "cutoff": 4.0}
CONFIG = """\
data: {source: mgo.extxyz, fractions: [0.5, 0.3, 0.2], seed: 3}
seeds: [5]
device: cpu
teacher: {epochs: 2, cutoff: 4.5, weights: [0.02, 40.0, 40.0], force: true}
augment: {n_aug: 1, perturb: 0.5, coverage: 1, thermal_rounds: 2, thermal_time: 40, thermal_structures: 3,
          max_force: 60.0, max_stress: 5.0}
backbone: {name: cgcnn, args: {dim1: 8, dim2: 8, gc_count: 1, cutoff: 4.0}}
pretrain: {epochs: 2, batch_size: 4}
finetune: {epochs: 2, ema: null, weights: [0.02, 40.0, 40.0]}
arms: {pretrained: {replay: 0.3}}
loop: {rounds: 1, n_structures: 1, steps: 20, temperature: 1.0e+5, epochs: 1, curves: false, frames_lost: 2,
       tolerance: 9.0}
"""


def call(*words: Any) -> Any:
    return CliRunner().invoke(app, [str(w) for w in words])


def fine(*words: Any) -> None:
    result = call(*words)
    assert result.exit_code == 0, result.output


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "c.yaml").write_text(CONFIG)
    rng = np.random.default_rng(7)
    structures = [bulk("MgO", "rocksalt", a=4.2, cubic=True) for _ in range(20)]
    for k, atoms in enumerate(structures):
        atoms.rattle(0.05, seed=k)
        random_labels(atoms, rng, f"mgo-{k}")
    write_structures(folder / "mgo.extxyz", structures)
    for stage in ("prepare", "teacher", "augment", "pretrain", "finetune", "loop"):
        fine("run", folder / "c.yaml", "-o", folder / "run", "--jobs", 1, "--only", stage)
    return folder / "run"


def same_weights(model: Any, other: Any) -> bool:
    first, second = (m.state_dict() for m in (model, other))
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def check(run: Path, teacher: Any, labelled: Path, pretrained: Any, finetuned: Any) -> None:
    assert same_weights(teacher, pp.load_model(run / "teacher" / "teacher.pt"))
    assert labelled.read_bytes() == (run / "augment" / "labelled.extxyz").read_bytes()
    assert same_weights(pretrained, pp.load_model(run / "seed-5" / "pretrain" / "best.pt"))
    assert same_weights(finetuned, pp.load_model(run / "seed-5" / "pretrained" / "best.pt"))


def test_single_steps_make_what_a_run_makes(run: Path, tmp_path: Path) -> None:
    train, val = run / "data" / "train.extxyz", run / "data" / "val.extxyz"
    teacher, augmented, labelled = (tmp_path / n for n in ("teacher.pt", "augmented.extxyz", "labelled.extxyz"))
    weights = ("--weights", "0.02,40,40")
    network = ["--model", "cgcnn", *(w for k, v in NETWORK.items() for w in ("--arg", f"{k}={v}"))]
    fitted = call("fit-eam", train, "--val", val, "-o", teacher, "--epochs", 2, "--cutoff", 4.5, *weights)
    assert fitted.exit_code in (0, 1), fitted.output
    frames = ("--thermal-rounds", 2, "--thermal-time", 40, "--thermal-structures", 3)
    fine(
        "augment",
        train,
        "-o",
        augmented,
        "--teacher",
        teacher,
        "--n-aug",
        1,
        "--perturb",
        0.5,
        "--coverage",
        1,
        *frames,
    )
    limits = ("--max-force", 60, "--max-stress", 5)
    fine("label", augmented, "-o", labelled, "--teacher", teacher, "--parents", train, "--force", *limits)
    fine(
        "pretrain", labelled, "-o", tmp_path / "pre", "--parents", train, "--epochs", 2, "--batch-size", 4,
        "--seed", 5, "--split-seed", 3, *network,
    )  # fmt: skip
    fine(
        "finetune", train, "-o", tmp_path / "fine", "--model", tmp_path / "pre" / "best.pt", "--val", val, "--replay",
        labelled, "--replay-fraction", 0.3, "--epochs", 2, "--ema", "none", "--seed", 5, *weights,
    )  # fmt: skip
    models = [pp.load_model(tmp_path / n) for n in ("teacher.pt", "pre/best.pt", "fine/best.pt")]
    check(run, models[0], labelled, models[1], models[2])


@pytest.mark.parametrize("on_disk", [False, True])
def test_one_call_makes_what_a_run_makes(run: Path, tmp_path: Path, on_disk: bool) -> None:
    data = pp.split_structures(
        pp.read_structures(str(run / "data" / "*.extxyz"), duplicates="rename"), fractions=(0.8, 0.1, 0.1)
    )
    data = data._replace(**{k: pp.read_structures(run / "data" / f"{k}.extxyz") for k in ("train", "val", "test")})
    result = pp.pretrain_and_finetune(
        data,
        model="cgcnn",
        model_args=NETWORK,
        teacher={"epochs": 2, "cutoff": 4.5, "weights": (0.02, 40.0, 40.0), "force": True},
        augment={
            "n_aug": 1,
            "perturb": 0.5,
            "coverage": 1,
            "thermal_rounds": 2,
            "thermal_time": 40.0,
            "thermal_structures": 3,
            "max_force": 60.0,
            "max_stress": 5.0,
        },
        pretrain={"epochs": 2, "batch_size": 4},
        finetune={"epochs": 2, "ema": None, "replay_fraction": 0.3, "weights": (0.02, 40.0, 40.0)},
        loop=LOOP,
        seed=5,
        split_seed=3,
        directory=tmp_path / "out" if on_disk else None,
        device="cpu",
        accelerator="cpu",
    )
    write_structures(tmp_path / "labelled.extxyz", result.labelled)
    assert same_weights(result.potential, pp.load_model(run / "seed-5" / "pretrained" / "loop" / "best.pt"))
    assert result.rounds is not None
    rounds = pd.read_csv(run / "seed-5" / "pretrained" / "loop" / "rounds.csv")
    assert list(result.rounds["n_new"]) == list(rounds["n_new"])
    assert rounds["n_new"][1] > 0
    assert len(rounds) == 2
    assert list(result.rounds["val_total"]) == list(rounds["val_total"])
    assert result.recipe.augment.pairs == "every-kind"
    if on_disk:
        labelled = read_structures(tmp_path / "out" / "labelled.extxyz")
        check(
            run,
            pp.load_model(tmp_path / "out" / "teacher.pt"),
            tmp_path / "out" / "labelled.extxyz",
            pp.load_model(tmp_path / "out" / "pretrain" / "best.pt"),
            pp.load_model(tmp_path / "out" / "finetune" / "best.pt"),
        )
        assert len(labelled) == len(result.labelled)


def test_any_calculator_may_teach_and_wrong_options_are_named(run: Path) -> None:
    from ase.calculators.lj import LennardJones

    train = pp.read_structures(run / "data" / "train.extxyz")[:3]
    options: dict[str, Any] = {"model": "cgcnn", "model_args": NETWORK, "augment": {"n_aug": 1, "max_force": None}}
    tiny = {"epochs": 1}
    result = pp.pretrain_and_finetune(
        train, teacher=LennardJones(sigma=1.0, rc=4.0), pretrain=tiny, finetune=tiny, preset="paper", **options
    )
    assert result.teacher.__class__ is LennardJones
    assert result.labelled[0].info["label_source"] == "lennardjones"  # the paper does not anchor
    assert not result.recipe.augment.anchor
    assert get_labels(result.labelled[0]).forces is not None
    with pytest.raises(ConfigError, match=r"unknown key 'augment\.n_augs'; did you mean 'augment\.n_aug'"):
        pp.pretrain_and_finetune(train, augment={"n_augs": 1})
    with pytest.raises(ConfigError, match="unknown key 'epoch'; did you mean 'epochs'"):
        pp.finetune("cgcnn", train, epoch=3)
    with pytest.raises(ConfigError, match=r"loop\.rounds puts new labels into replay"):
        pp.pretrain_and_finetune(train, loop={"rounds": 1}, finetune={"replay_fraction": 0.0})
