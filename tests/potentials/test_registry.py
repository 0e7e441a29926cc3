"""Potentials by name: entry points of other packages, and what may be wrong with them."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_potentials import EXAMPLE, small

from mdl_physpretrain.errors import CheckpointError, ConfigError
from mdl_physpretrain.potentials import (
    EnergyModel,
    entry_points,
    load_model,
    register_model,
    registered_models,
    registry,
)
from mdl_physpretrain.potentials.registry import model_class
from mdl_physpretrain.workflow.config_files import load_config

OWN = ["cgcnn", "eam", "m3gnet", "sum", "torchmd_et", "zbl"]


def install(monkeypatch: pytest.MonkeyPatch, **values: str | list[str]) -> None:
    """Pretend that packages called ``from-<name>-<k>`` declare these entry points."""
    found = {
        name: [
            EntryPoint(name, value, entry_points.GROUP)._for(SimpleNamespace(name=f"from-{name}-{k}"))  # type: ignore[arg-type]
            for k, value in enumerate([targets] if isinstance(targets, str) else targets)
        ]
        for name, targets in values.items()
    }
    monkeypatch.setattr(entry_points, "model_entries", lambda: found)
    for name in values:
        monkeypatch.delitem(registry._REGISTRY, name, raising=False)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of another package with a few things to name."""
    (tmp_path / "foreign_potentials.py").write_text(
        "import mdl_physpretrain.potentials as p\n"
        "class Springs(p.EnergyModel):\n"
        "    def __init__(self, *, cutoff=3.0):\n        super().__init__(cutoff, {'cutoff': cutoff})\n"
        "    def energies(self, batch, vectors):\n"
        "        energy = vectors.square().sum(1)\n"
        "        return energy.new_zeros(len(batch)).index_add(0, batch.edge_structure, energy)\n"
        "class Nothing: pass\n"
        "@p.register_model('another')\nclass Misnamed(p.EnergyModel): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "foreign_potentials"
    sys.modules.pop("foreign_potentials", None)
    registry._REGISTRY.pop("another", None)


def test_all_of_ours_are_there_before_anything_is_imported() -> None:
    code = "import mdl_physpretrain.potentials.registry as r; print(*r.registered_models())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert set(OWN) <= set(out)
    assert set(OWN) <= set(registered_models())
    assert all(model_class(name).registry_name == name for name in OWN)


def test_a_model_of_another_package(package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, springs=f"{package}:Springs")
    assert "springs" in registered_models()
    model = model_class("springs")(cutoff=2.5)
    assert model.registry_name == "springs"
    model.double().save(tmp_path / "m.pt")
    assert torch.load(tmp_path / "m.pt", weights_only=True)["package"] == "from-springs-0"
    loaded = load_model(tmp_path / "m.pt")
    assert (type(loaded), loaded.cutoff, loaded.dtype) == (type(model), 2.5, model.dtype)
    install(monkeypatch)
    monkeypatch.delitem(registry._REGISTRY, "springs")
    with pytest.raises(
        CheckpointError, match=r"m\.pt holds a 'springs' model of the package 'from-springs-0': unknown"
    ):
        load_model(tmp_path / "m.pt")


def test_an_unknown_name_gets_the_nearest_one_and_advice() -> None:
    with pytest.raises(ConfigError, match=r"unknown model 'cgcn', did you mean 'cgcnn'\?; known: .*installed \(again"):
        model_class("cgcn")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("no_such_module:Net", r"of from-odd-0 \(no_such_module:Net\) cannot be imported: ModuleNotFoundError"),
        ("foreign_potentials:Net", "cannot be imported: AttributeError"),
        ("foreign_potentials:Nothing", "not a class that inherits from mdl_physpretrain's EnergyModel"),
        ("foreign_potentials:Misnamed", "registers itself as 'another'"),
        (
            ["foreign_potentials:Springs", "foreign_potentials:Nothing"],
            "two packages add a model 'odd': .* of from-odd-1",
        ),
    ],
)
@pytest.mark.usefixtures("package")
def test_entry_points_that_are_wrong(target: str | list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, odd=target)
    with pytest.raises(ConfigError, match=message):
        model_class("odd")
    assert "odd" not in registry._REGISTRY


def test_two_classes_of_one_session_do_not_share_a_name() -> None:
    with pytest.raises(ConfigError, match="two potentials are called 'cgcnn'"):

        @register_model("cgcnn")
        class Other(EnergyModel):
            pass


def test_a_package_does_not_replace_a_model_of_ours(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = "mdl_physpretrain.potentials.cgcnn:CGCNN"
    install(monkeypatch, cgcnn=[ours, f"{package}:Springs"])
    with pytest.raises(ConfigError, match="two packages add a model 'cgcnn'"):
        model_class("cgcnn")


def test_the_example_needs_one_file() -> None:
    assert [path.name for path in EXAMPLE.glob("*.py")] == ["physpretrain_schnet.py"]
    assert small("schnet").registry_name == "schnet"
    config = load_config(EXAMPLE / "run.yaml")
    assert config.backbone.name == "schnet"
    model_class("schnet")(**config.backbone.args)
