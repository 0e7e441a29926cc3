"""A text names any potential: checkpoints of every kind, and factories of ASE calculators."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from mdl_physpretrain.errors import CheckpointError, ConfigError
from mdl_physpretrain.hosts.convert import convert, differences
from mdl_physpretrain.hosts.loading import load_potential, named_potentials, potential_name
from mdl_physpretrain.potentials import CGCNN, EnergyModel
from mdl_physpretrain.potentials.factories import calculator_factory
from mdl_physpretrain.potentials.identity import potential_fingerprint


@pytest.fixture
def net() -> CGCNN:
    torch.manual_seed(3)
    model = CGCNN(cutoff=5.0, dim1=4, dim2=4, smooth_cutoff=False, width=0.2).eval()
    model.metadata = {"elements": ["O", "Mg"]}
    return model


def test_native_checkpoint(tmp_path: Path, net: CGCNN, rocksalt: list[Atoms]) -> None:
    net.train().save(tmp_path / "net.pt")
    found = load_potential(str(tmp_path / "net.pt"), "cpu")
    assert isinstance(found, EnergyModel)
    assert not found.training
    assert found.metadata["elements"] == ["O", "Mg"]
    assert differences(net.eval(), found, rocksalt[:1])["energy"] == 0


def test_checkpoint_of_mattertune(tmp_path: Path, net: CGCNN, rocksalt: list[Atoms]) -> None:
    net.save(tmp_path / "net.pt")
    convert(tmp_path / "net.pt", tmp_path / "host.ckpt")
    found = load_potential(str(tmp_path / "host.ckpt"), "cpu")
    assert differences(net, found, rocksalt[:1])["energy"] == 0


def test_checkpoint_of_matdeeplearn(tmp_path: Path, net: CGCNN, rocksalt: list[Atoms]) -> None:
    net.save(tmp_path / "net.pt")
    convert(tmp_path / "net.pt", tmp_path / "there" / "host.pt")
    beside = load_potential(str(tmp_path / "there" / "host.pt"), "cpu")
    (tmp_path / "there" / "host.yml").rename(tmp_path / "other.yml")
    with pytest.raises(ConfigError, match=r"no YAML file beside it: name that of its run as '.*host.pt:config.yml'"):
        load_potential(str(tmp_path / "there" / "host.pt"), "cpu")
    named = load_potential(f"{tmp_path / 'there' / 'host.pt'}:{tmp_path / 'other.yml'}", "cpu")
    for found in (beside, named):
        assert differences(net, found, rocksalt[:1])["energy"] == pytest.approx(0, abs=1e-5)
    with pytest.raises(ConfigError, match=r"gone\.yml does not exist"):
        load_potential(f"{tmp_path / 'there' / 'host.pt'}:{tmp_path / 'gone.yml'}", "cpu")
    with pytest.raises(ConfigError, match=r"only a MatDeepLearn checkpoint needs a configuration, .* is native"):
        load_potential(f"{tmp_path / 'net.pt'}:{tmp_path / 'other.yml'}", "cpu")


def test_checkpoint_of_mattersim(tmp_path: Path, rocksalt: list[Atoms]) -> None:
    pytest.importorskip("mattersim", reason="mattersim is not installed (extra m3gnet)")
    from mdl_physpretrain.potentials import M3GNet

    model = M3GNet(cutoff=5.0, threebody_cutoff=3.5, units=8, num_blocks=1, max_l=2, max_n=2).eval()
    model.to_mattersim(tmp_path / "net.pth")
    found = load_potential(str(tmp_path / "net.pth"), "cpu")
    assert differences(model, found, rocksalt[:1])["energy"] == pytest.approx(0, abs=1e-5)


def test_factory_makes_a_new_calculator_each_time() -> None:
    factory = load_potential("ase.calculators.emt:EMT")
    assert not isinstance(factory, EnergyModel)
    first, second = factory(), factory()
    assert isinstance(first, EMT)
    assert first is not second


def test_factories_are_told_apart() -> None:
    """Interrupted MD must not go on with another calculator."""
    texts = ["ase.calculators.emt:EMT", "ase.calculators.lj:LennardJones"]
    marks = {potential_fingerprint(load_potential(text)) for text in texts}
    marks |= {potential_fingerprint(calculator_factory(texts[1], {"epsilon": e})) for e in (1.0, 2.0)}
    assert len(marks) == 4


def test_arguments_reach_the_factory() -> None:
    pair = Atoms("Ar2", [[0, 0, 0], [1.5, 0, 0]])
    energies = []
    for epsilon in (1.0, 2.0):
        pair.calc = calculator_factory("ase.calculators.lj:LennardJones", {"epsilon": epsilon, "rc": 10.0})()
        energies.append(pair.get_potential_energy())
    assert energies[1] == pytest.approx(2 * energies[0])


def test_module_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    (tmp_path / "my_own_potential.py").write_text(
        "from ase.calculators.emt import EMT\n"
        "def make():\n    print('banner')\n    return EMT()\n"
        "def needs(path):\n    return EMT()\n"
        "def wrong():\n    return 3\n"
        "def fails():\n    raise OSError('no weights')\n"
        "constant = 1\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    atoms = bulk("Cu")
    atoms.calc = load_potential("my_own_potential:make")()
    assert np.isfinite(atoms.get_potential_energy())
    assert capsys.readouterr().out == ""
    with pytest.raises(ConfigError, match=r"cannot be called without arguments: .*'path'"):
        load_potential("my_own_potential:needs")
    with pytest.raises(ConfigError, match="is a int, not a function"):
        load_potential("my_own_potential:constant")
    with pytest.raises(ConfigError, match="made a int, not an ASE calculator"):
        load_potential("my_own_potential:wrong")()
    with pytest.raises(ConfigError, match="fails failed: OSError: no weights"):
        load_potential("my_own_potential:fails")()


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("gone.pt", CheckpointError, "gone.pt does not exist; a potential is a checkpoint"),
        ("EMT", CheckpointError, "EMT does not exist"),
        ("tests", CheckpointError, "is a folder"),
        ("no_such_module:make", ConfigError, "cannot import 'no_such_module:make'"),
        ("ase.calculators.emt:Nothing", ConfigError, "the module has no 'Nothing'"),
    ],
)
def test_what_cannot_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, error: type[Exception], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tests").mkdir()
    with pytest.raises(error, match=message):
        load_potential(text, "cpu")


def test_a_file_of_something_else_and_a_missing_device(tmp_path: Path, net: CGCNN, monkeypatch) -> None:
    torch.save({"a": 1}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="none of a model"):
        load_potential(str(tmp_path / "other.pt"), "cpu")
    net.save(tmp_path / "net.pt")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="not available"):
        load_potential(str(tmp_path / "net.pt"), "cuda")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("chgnet.model.dynamics:CHGNetCalculator", "CHGNetCalculator"),
        ("runs/a b/seed 1.best.pt", "seed_1.best"),
        ("results/best_checkpoint.pt:config.yml", "best_checkpoint"),
    ],
)
def test_default_names(text: str, name: str) -> None:
    assert potential_name(text) == name


def test_names_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=0.1.pt").touch()
    texts = ["A=runs/lr=0.1/best.pt", "runs/lr=0.1/best.pt", "lr=0.1.pt", "ase.calculators.emt:EMT"]
    assert named_potentials(texts) == {
        "A": "runs/lr=0.1/best.pt",
        "best": "runs/lr=0.1/best.pt",
        "lr_0.1": "lr=0.1.pt",
        "EMT": "ase.calculators.emt:EMT",
    }
    with pytest.raises(ConfigError, match=r"two potentials are called 'best' \(a/best.pt and b/best.pt\)"):
        named_potentials(["a/best.pt", "b/best.pt"])
