"""Checkpoints: round trips, and files that must be refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from ase import Atoms

from mdl_physpretrain.errors import CheckpointError
from mdl_physpretrain.graphs.batch import build_batch
from mdl_physpretrain.hosts.convert import detect
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


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("smooth_cutoff", torch.ones(0), "'smooth_cutoff' in its hparams is no number"),
        ("cutoff", torch.tensor(4.0), "'cutoff' in its hparams is no number"),
        ("n_neighbours", "x", "the argument 'n_neighbours' should be a valid number, not 'x'"),
        ("cutoff", float("nan"), "the argument 'cutoff' should be a finite number"),
        ("gc_count", 1.5, "the argument 'gc_count' should be a valid integer"),
        ("pool_order", 3, "the argument 'pool_order' should be a valid string"),
        ("batch_norm", [], "the argument 'batch_norm' should be a valid boolean"),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_arguments_of_another_kind(tmp_path: Path, name: str, value: Any, message: str, nested: bool) -> None:
    path = tmp_path / "m.pt"
    (Sum([network()]) if nested else network()).save(path)
    content = torch.load(path, weights_only=True)
    (content["hparams"]["parts"][0] if nested else content)["hparams"][name] = value
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="'parts' in its hparams" if nested and "hparams" in message else message):
        load_model(path)


def test_a_format_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    network().save(path)
    torch.save(torch.load(path, weights_only=True) | {"format": torch.ones(3)}, path)
    assert detect(path) != "native"
    with pytest.raises(CheckpointError, match=r"m\.pt is not a checkpoint of this package"):
        load_model(path)


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
