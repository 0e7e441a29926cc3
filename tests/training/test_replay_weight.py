"""Replayed labels weigh less and less in finetuning, on resume, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ase import Atoms

import mdl_physpretrain as pp
from mdl_physpretrain.errors import CheckpointError, ConfigError
from mdl_physpretrain.graphs.batch import collate
from mdl_physpretrain.potentials.base import Prediction
from mdl_physpretrain.training.data import loader
from mdl_physpretrain.training.loss import EFSLoss
from mdl_physpretrain.training.module import TrainingModule, replay_weight

OPTIONS: dict[str, Any] = {
    "model_args": {"cutoff": 4.0, "dim1": 8, "dim2": 8, "gc_count": 1},
    "epochs": 5,
    "batch_size": 4,
    "replay_fraction": 0.4,
    "seed": 1,
}


@pytest.fixture
def halves(rocksalt: list[Atoms]) -> tuple[list[Atoms], list[Atoms]]:
    middle = len(rocksalt) // 2
    return rocksalt[:middle], rocksalt[middle:]


def test_it_falls_in_the_middle_of_the_training() -> None:
    assert [replay_weight(done, 0.1) for done in (0.0, 0.2, 0.9, 0.99)] == pytest.approx([1.0, 1.0, 0.1, 0.1])
    assert replay_weight(0.55, 0.1) == pytest.approx(0.55)
    assert replay_weight(0.55, 1.0) == 1.0


def test_only_replayed_structures_lose_weight(halves: tuple[list[Atoms], list[Atoms]]) -> None:
    data, replay = halves
    parts = list(loader([*data[:1], *replay[:1]], 4.0, batch_size=1, dtype=torch.float64, n_replay=1))
    assert [bool(part.replayed) for part in parts] == [False, True]
    batch = collate(parts)
    out = Prediction(batch.energy + 1, batch.forces + 0.5, batch.stress + 0.5)
    loss = EFSLoss(1.0, 1.0, 1.0, replay_weight=0.5)
    assert len(data[0]) == len(replay[0])
    assert float(loss(out, batch)) == pytest.approx(0.75 * float(EFSLoss(1.0, 1.0, 1.0)(out, batch)))
    with pytest.raises(ConfigError, match="weights"):
        EFSLoss(replay_weight=-0.5)


def test_a_training_uses_it_and_goes_on_as_if_uninterrupted(
    halves: tuple[list[Atoms], list[Atoms]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, replay = halves
    seen: list[float] = []
    step = TrainingModule.training_step

    def recorded(self: TrainingModule, batch: Any, number: int) -> Any:
        seen.append(self.loss.replay_weight)
        if self.current_epoch == stop:
            raise RuntimeError("the machine went down")
        return step(self, batch, number)

    monkeypatch.setattr(TrainingModule, "training_step", recorded)
    words = {"replay": replay, "replay_final_weight": 0.0, **OPTIONS}
    stop = -1
    whole = pp.train("cgcnn", data, directory=tmp_path / "whole", **words)
    assert seen[0] == 1.0
    assert seen[-1] == pytest.approx(1 - 0.6 / 0.7)
    stop = 3
    with pytest.raises(RuntimeError, match="went down"):
        pp.train("cgcnn", data, directory=tmp_path / "parts", **words)
    stop = -1
    parts = pp.train("cgcnn", data, directory=tmp_path / "parts", **words)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True))
    constant = pp.train("cgcnn", data, replay=replay, **OPTIONS)
    assert not all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), constant.state_dict().values(), strict=True)
    )


def test_its_length_is_part_of_it_where_there_is_replay(
    halves: tuple[list[Atoms], list[Atoms]], tmp_path: Path
) -> None:
    data, replay = halves
    pp.train("cgcnn", data, directory=tmp_path / "alone", replay_final_weight=0.1, **OPTIONS)
    pp.train("cgcnn", data, directory=tmp_path / "alone", replay_final_weight=0.2, **OPTIONS | {"epochs": 6})
    words = {"replay": replay, "replay_final_weight": 0.1}
    pp.train("cgcnn", data, directory=tmp_path / "falling", **words, **OPTIONS)
    with pytest.raises(CheckpointError, match="epochs=5, not 6"):
        pp.train("cgcnn", data, directory=tmp_path / "falling", **words, **OPTIONS | {"epochs": 6})
    with pytest.raises(ConfigError, match="replay_final_weight"):
        pp.train("cgcnn", data, replay=replay, replay_final_weight=1.5, **OPTIONS)
