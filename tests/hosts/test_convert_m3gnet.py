"""M3GNet between this package, MatterSim and MatterTune, through the one entry."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ase import Atoms

from mdl_physpretrain.errors import CheckpointError
from mdl_physpretrain.hosts.convert import convert, detect, differences
from mdl_physpretrain.potentials import CGCNN, load_model
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.registry import model_class


@pytest.fixture
def m3gnet() -> EnergyModel:
    pytest.importorskip("mattersim", reason="mattersim is not installed (extra m3gnet)")
    torch.manual_seed(0)
    model = model_class("m3gnet")(cutoff=5.0, threebody_cutoff=3.5, units=8, num_blocks=1, max_l=2, max_n=2)  # type: ignore[call-arg]
    model.reference_energies[8] = -4.5  # type: ignore[index, operator]
    return model.eval()


@pytest.mark.parametrize(("name", "kind"), [("net.pth", "mattersim"), ("net.ckpt", "mattertune")])
def test_there_and_back(tmp_path: Path, rocksalt: list[Atoms], m3gnet: EnergyModel, name: str, kind: str) -> None:
    m3gnet.save(tmp_path / "native.pt")
    there = convert(tmp_path / "native.pt", tmp_path / name)
    assert there.target_kind == detect(tmp_path / name) == kind
    back = convert(tmp_path / name, tmp_path / "back.pt")
    assert (back.source_kind, back.target_kind) == (kind, "native")
    again = load_model(tmp_path / "back.pt", expect="m3gnet")
    worst = differences(m3gnet, again, rocksalt[:2])
    assert worst["energy"] < 1e-4
    assert worst["forces"] < 1e-5
    assert worst["stress"] < 1e-6


def test_a_cgcnn_as_mattertune_checkpoint(tmp_path: Path, rocksalt: list[Atoms]) -> None:
    model = CGCNN(cutoff=5.0, dim1=4, dim2=4).eval()
    model.reference_energies[8] = -4.5
    model.save(tmp_path / "net.pt")
    assert convert(tmp_path / "net.pt", tmp_path / "net.ckpt").target_kind == "mattertune"
    assert detect(tmp_path / "net.ckpt") == "mattertune"
    convert(tmp_path / "net.ckpt", tmp_path / "back.pt")
    assert differences(model, load_model(tmp_path / "back.pt", expect="cgcnn"), rocksalt[:1])["energy"] == 0


def test_other_programs_hold_no_other_networks(tmp_path: Path) -> None:
    CGCNN(cutoff=5.0, dim1=4, dim2=4).save(tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match="MatterSim cannot hold a 'cgcnn' model"):
        convert(tmp_path / "net.pt", tmp_path / "x.pth", target_kind="mattersim")


def test_a_mattersim_network_is_none_of_matdeeplearn(tmp_path: Path, m3gnet: EnergyModel) -> None:
    m3gnet.save(tmp_path / "native.pt")
    with pytest.raises(CheckpointError, match="no counterpart of a 'm3gnet' model"):
        convert(tmp_path / "native.pt", tmp_path / "x.pt", target_kind="matdeeplearn")
