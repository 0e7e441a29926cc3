"""The learning rate follows the schedule that was asked for, on resume, too."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from ase import Atoms
from pydantic import ValidationError

from mdl_physpretrain.errors import CheckpointError
from mdl_physpretrain.recipe import Training
from mdl_physpretrain.training import train
from mdl_physpretrain.training.module import TrainingModule

SMALL = {"cutoff": 4.0, "dim1": 8, "dim2": 8, "gc_count": 1, "post_fc_count": 1, "edge_dim": 8}
OPTIONS: dict[str, Any] = {
    "epochs": 6,
    "batch_size": 3,
    "model_args": SMALL,
    "seed": 5,
    "scheduler": "cosine",
    "learning_rate": 2e-3,
}


def _rates(folder: Path) -> list[float]:
    with (folder / "history.csv").open() as file:
        return [float(row["lr"]) for row in csv.DictReader(file)]


def test_half_a_cosine_over_all_epochs(rocksalt: list[Atoms], tmp_path: Path) -> None:
    train("cgcnn", rocksalt, val=rocksalt[:2], directory=tmp_path, min_learning_rate=1e-5, **OPTIONS)
    expected = [1e-5 + (2e-3 - 1e-5) * (1 + math.cos(math.pi * epoch / 6)) / 2 for epoch in range(6)]
    assert _rates(tmp_path) == pytest.approx(expected, rel=1e-6)


def test_the_rate_never_grows(rocksalt: list[Atoms], tmp_path: Path) -> None:
    train("cgcnn", rocksalt, directory=tmp_path, min_learning_rate=1.0, **OPTIONS)
    assert _rates(tmp_path) == pytest.approx([2e-3] * 6)


def test_resumed_equals_uninterrupted(rocksalt: list[Atoms], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train("cgcnn", rocksalt, val=rocksalt[:2], directory=tmp_path / "whole", **OPTIONS)

    def interrupted(self: TrainingModule) -> None:
        if self.current_epoch == 3:
            raise RuntimeError("the machine went down")

    with monkeypatch.context() as change:
        change.setattr(TrainingModule, "on_train_epoch_start", interrupted)
        with pytest.raises(RuntimeError, match="went down"):
            train("cgcnn", rocksalt, val=rocksalt[:2], directory=tmp_path / "parts", **OPTIONS)
    parts = train("cgcnn", rocksalt, val=rocksalt[:2], directory=tmp_path / "parts", **OPTIONS)
    assert _rates(tmp_path / "parts") == _rates(tmp_path / "whole")
    for a, b in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_its_length_is_part_of_it(rocksalt: list[Atoms], tmp_path: Path) -> None:
    train("cgcnn", rocksalt, directory=tmp_path / "cosine", **OPTIONS)
    with pytest.raises(CheckpointError, match=r"epochs=6, not 8.*plateau"):
        train("cgcnn", rocksalt, directory=tmp_path / "cosine", **{**OPTIONS, "epochs": 8})
    with pytest.raises(CheckpointError, match="scheduler='cosine', not None"):
        train("cgcnn", rocksalt, directory=tmp_path / "cosine", **{**OPTIONS, "scheduler": "plateau"})


def test_only_known_schedules() -> None:
    with pytest.raises(ValidationError, match="scheduler"):
        Training(scheduler="linear")  # type: ignore[arg-type]


def test_a_training_that_stopped_early_stays_stopped(rocksalt: list[Atoms], tmp_path: Path) -> None:
    options = {"epochs": 40, "learning_rate": 0.5, "early_stopping": 2, "model_args": SMALL, "directory": tmp_path}
    first = train("cgcnn", rocksalt, **options)
    best = min(range(len(first.metadata["history"])), key=lambda k: first.metadata["history"][k]["val_loss"])
    assert len(first.metadata["history"]) == best + 3 < 40
    weights = (tmp_path / "best.pt").read_bytes()
    again = train("cgcnn", rocksalt, **options)
    assert again.metadata["history"] == first.metadata["history"]
    assert (tmp_path / "best.pt").read_bytes() == weights
