"""Checkpoints: round trips, and files that must be refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from ase import Atoms

from mdl_physpretrain.errors import CheckpointError
from mdl_physpretrain.graphs.batch import build_batch
from mdl_physpretrain.potentials import CGCNN, EAM, ZBL, Sum, load_model, predict


def network() -> CGCNN:
    torch.manual_seed(0)
    return CGCNN(cutoff=4.0, dim1=8, dim2=8, gc_count=2)


def test_a_sum_of_sums_comes_back(tmp_path: Path, rocksalt: list[Atoms]) -> None:
    model = Sum([Sum([network(), EAM(["Mg", "O"])]), ZBL()]).eval()
    model.save(tmp_path / "m.pt")
    back = load_model(tmp_path / "m.pt")
    batch = build_batch(rocksalt[0], model.cutoff, model.dtype)
    before, after = predict(model, batch), predict(back, batch)
    assert torch.equal(before.energy, after.energy)
    assert torch.equal(before.forces, after.forces)


def test_refusals(tmp_path: Path) -> None:
    model = network()
    path = tmp_path / "m.pt"
    model.save(path)
    with pytest.raises(CheckpointError, match=r"holds a 'cgcnn' model, not 'eam'"):
        load_model(path, expect="eam")
    with pytest.raises(CheckpointError, match="does not exist"):
        load_model(tmp_path / "none.pt")
    (tmp_path / "cut.pt").write_bytes(path.read_bytes()[:500])
    with pytest.raises(CheckpointError, match=r"cut\.pt is damaged"):
        load_model(tmp_path / "cut.pt")
    torch.save({"something": 1}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of this package"):
        load_model(tmp_path / "other.pt")
    content = torch.load(path, weights_only=True)
    content["hparams"]["dim1"] = 9
    torch.save(content, tmp_path / "misfit.pt")
    with pytest.raises(CheckpointError, match="weights do not fit"):
        load_model(tmp_path / "misfit.pt")


def test_a_hostile_pickle_is_not_executed(tmp_path: Path) -> None:
    marker = tmp_path / "executed"

    class Bomb:
        def __reduce__(self):
            return (Path.touch, (marker,))

    with (tmp_path / "bomb.pt").open("wb") as file:
        pickle.dump(Bomb(), file)
    with pytest.raises(CheckpointError):
        load_model(tmp_path / "bomb.pt")
    assert not marker.exists()
