"""A whole run whose trainings are on two processes, beside the same with one: batches of 2 + 2 are batches of 4."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from labelled_cells import random_labels
from torch import Tensor
from typer.testing import CliRunner

from mdl_physpretrain.cli import app
from mdl_physpretrain.potentials import load_model
from mdl_physpretrain.structures import write_structures

CONFIG = """\
name: Two processes
preset: algorithm1
data: {{train: train.extxyz, val: val.extxyz, test: test.extxyz}}
seeds: [0]
device: cpu
accelerator: cpu
devices: {devices}
strategy: {strategy}
teacher: {{epochs: 2, cutoff: 4.5, force: true}}
augment: {{n_aug: 2, pull: 0.3, perturb: 0.3, max_force: null}}
backbone: {{args: {{dim1: 8, dim2: 8, gc_count: 1, cutoff: 4.0}}}}
pretrain: {{epochs: 2, batch_size: {batch_size}}}
finetune: {{epochs: 2, batch_size: {batch_size}}}
arms: {{pretrained: {{replay: 0.3333}}}}
md: {{n_structures: 1, steps: 10}}
probe: {{n_compressed: 1}}
"""
STAGES = ("seed-0/pretrain", "seed-0/pretrained")


def rocksalt_cells(n: int, seed: int) -> list[Atoms]:
    """Of equal numbers of atoms, so that the mean of two batches is that of both together."""
    rng, cells = np.random.default_rng(seed), []
    for k in range(n):
        atoms = bulk("MgO", "rocksalt", a=4.2, cubic=True)
        atoms.positions += rng.normal(scale=0.05, size=(8, 3))
        cells.append(random_labels(atoms, rng, f"mgo-{seed}-{k}"))
    return cells


def weights(path: Path) -> Tensor:
    return torch.cat([p.detach().flatten().double() for p in load_model(path).parameters()])


@pytest.mark.long
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="more processes than cores are refused")
def test_a_run_on_two_processes_is_that_on_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=os.pathsep)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name, n, seed in (("train", 8, 1), ("val", 4, 2), ("test", 2, 3)):
        write_structures(tmp_path / f"{name}.extxyz", rocksalt_cells(n, seed))
    runs = {"one": (1, "auto", 4), "two": (2, "ddp", 2)}
    for name, (devices, strategy, batch_size) in runs.items():
        config = tmp_path / f"{name}.yaml"
        config.write_text(CONFIG.format(devices=devices, strategy=strategy, batch_size=batch_size))
        result = CliRunner().invoke(app, ["run", str(config), "-o", str(tmp_path / name), "--jobs", "1"])
        assert result.exit_code == 0, result.output
    for stage in STAGES:
        one, two = (weights(tmp_path / name / stage / "best.pt") for name in runs)
        torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-6, msg=lambda m, stage=stage: f"{stage}: {m}")
        histories = [pd.read_csv(tmp_path / name / stage / "history.csv") for name in ("one", "two")]
        assert len(histories[0]) == 2
        for column in ("val_loss", "val_forces_mae", "lr"):
            np.testing.assert_allclose(histories[1][column], histories[0][column], rtol=1e-4)
    errors = [pd.read_csv(tmp_path / name / "efs.csv") for name in ("one", "two")]
    np.testing.assert_allclose(errors[1]["forces_mae"], errors[0]["forces_mae"], rtol=1e-4)
    assert (tmp_path / "two" / "report" / "index.html").is_file()
