"""Every backbone in the one trainer: it learns real data, resumes exactly, and loads as it was saved."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from small_potentials import small_arguments

from mdl_physpretrain.dynamics import simulate
from mdl_physpretrain.dynamics.assessment import assess
from mdl_physpretrain.graphs.batch import build_batch
from mdl_physpretrain.potentials import load_model, predict, registered_models
from mdl_physpretrain.potentials.error_metrics import evaluate
from mdl_physpretrain.potentials.registry import model_class
from mdl_physpretrain.structures import read_structures
from mdl_physpretrain.training import new_network, train

SMALL: dict[str, dict[str, Any]] = {
    "cgcnn": {"cutoff": 4.0, "dim1": 16, "dim2": 16, "gc_count": 2, "post_fc_count": 1, "edge_dim": 16, "width": 0.08},
    "torchmd_et": {
        "cutoff": 4.0, "hidden_channels": 16, "num_layers": 2, "num_rbf": 12, "num_heads": 4,
        "post_hidden_channels": 16,
    },
    "m3gnet": {"cutoff": 4.0, "threebody_cutoff": 3.0, "units": 16, "num_blocks": 2, "max_l": 2, "max_n": 2},
}  # fmt: skip
SETTINGS: dict[str, Any] = {"batch_size": 4, "learning_rate": 3e-3}


NETWORKS = [name for name in registered_models() if name != "sum" and model_class(name).role == "network"]


@pytest.fixture(params=NETWORKS)
def backbone(request: pytest.FixtureRequest) -> str:
    """A backbone's name; skipped where the package it needs is missing."""
    SMALL.setdefault(request.param, small_arguments(request.param))
    small_arguments(request.param)
    return request.param


def test_loss_goes_down_on_dft_data(backbone: str, shared_data: Path, tmp_path: Path) -> None:
    cells = read_structures(shared_data / "lmo_train.extxyz")
    cells = [a for a in cells if len(a) <= 14 and np.abs(a.get_forces()).mean() > 0.1][:6]
    start = evaluate(new_network(backbone, cells, model_args=SMALL[backbone]), cells)
    settings = {"batch_size": 2, "learning_rate": 1e-2, "epochs": 40, "ema": None, "directory": tmp_path}
    end = evaluate(train(backbone, cells, val=cells, model_args=SMALL[backbone], **settings), cells)
    zero = np.abs(np.concatenate([a.get_forces() for a in cells])).mean()
    assert end["total"] < 0.75 * start["total"]
    assert end["forces_mae"] < 0.75 * zero
    with (tmp_path / "history.csv").open() as file:
        losses = [float(row["train_loss"]) for row in csv.DictReader(file)]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:2])


def test_resumed_is_uninterrupted_and_saved_is_loaded(backbone: str, rocksalt: list[Atoms], tmp_path: Path) -> None:
    def run(folder: str, *epochs: int) -> Any:
        for n in epochs:
            model = train(
                backbone, rocksalt, epochs=n, model_args=SMALL[backbone], directory=tmp_path / folder, **SETTINGS
            )
        return model

    whole, resumed = run("whole", 4), run("parts", 2, 4)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    loaded = load_model(tmp_path / "parts" / "best.pt")
    batch = build_batch(rocksalt[0], loaded.cutoff)
    mine, theirs = predict(whole, batch), predict(loaded, batch)
    for name in ("energy", "forces", "stress"):
        assert torch.equal(getattr(mine, name), getattr(theirs, name))


def test_md_of_a_core_around_it_is_judged(backbone: str, rocksalt: list[Atoms]) -> None:
    model = new_network(backbone, rocksalt, model_args=SMALL[backbone], core="zbl")
    runs = simulate(model, rocksalt[:3], ensemble="nve", temperature=300, steps=20, seed=1, engine="batched")
    again = simulate(model, rocksalt[:3], ensemble="nve", temperature=300, steps=20, seed=1, engine="ase")
    assert list(assess(runs)["physical"]) == list(assess(again)["physical"])
    for a, b in zip(runs, again, strict=True):
        np.testing.assert_allclose(a.positions, b.positions, atol=2e-4)
