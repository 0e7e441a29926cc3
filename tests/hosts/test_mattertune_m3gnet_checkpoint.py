"""MatterTune's checkpoints of M3GNet: its numbers are ours, ours are its, the rest is refused."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms

from mdl_physpretrain.errors import CheckpointError
from mdl_physpretrain.graphs.batch import build_batch, collate
from mdl_physpretrain.hosts.mattertune.checkpoint import read_mattertune, write_mattertune
from mdl_physpretrain.potentials import EAM, M3GNet, predict

SMALL = {"units": 8, "num_blocks": 2, "max_l": 3, "max_n": 3}  # with the cutoffs of the released networks
PROPERTIES = [
    {"type": "energy", "loss": {"name": "mae"}},
    {"type": "forces", "loss": {"name": "mae"}, "conservative": True},
    {"type": "stresses", "loss": {"name": "mae"}, "conservative": True},
]


@pytest.fixture(autouse=True)
def _mattersim():
    pytest.importorskip("mattersim", reason="mattersim is not installed")


@pytest.fixture
def host():
    """MatterTune with ASE bridged; skipped where it is not installed."""
    pytest.importorskip("mattertune", reason="MatterTune is not installed")
    from mdl_physpretrain.hosts.mattertune.host import require_host

    require_host()


@pytest.fixture
def crystal(rocksalt: list[Atoms]) -> Atoms:
    atoms = rocksalt[2]
    atoms.calc = None
    return atoms


def responsive(atoms: Atoms) -> M3GNet:
    torch.manual_seed(2)
    model = M3GNet(**SMALL)
    batch = build_batch(atoms, model.cutoff)
    model.initialise(batch, torch.Generator().manual_seed(3))
    with torch.no_grad():
        model.network.normalizer.shift += torch.randn(95)
        model.reference_energies += torch.randn(119)
    return model.eval()


def same(model: M3GNet, module: Any, atoms: Atoms) -> None:
    """The module's own calculator gives the model's energy, forces and stress."""
    module.eval()
    labelled = atoms.copy()
    labelled.calc = module.ase_calculator()
    labelled.calc.calculate(labelled, ["energy", "forces", "stress"])
    found = labelled.calc.results
    out = predict(model, build_batch(atoms, model.cutoff))
    assert float(np.asarray(found["energy"]).item()) == pytest.approx(out.energy.item(), rel=1e-6, abs=1e-5)
    np.testing.assert_allclose(found["forces"], out.forces.numpy(), atol=1e-5)
    stress = np.asarray(found["stress"])
    if stress.shape == (6,):
        stress = stress[[0, 5, 4, 5, 1, 3, 4, 3, 2]]
    np.testing.assert_allclose(stress.reshape(3, 3), out.stress[0].numpy(), atol=1e-5)
    assert out.forces.abs().max() > 0.01
    assert out.stress.abs().max() > 1e-3


def stock_module(monkeypatch: pytest.MonkeyPatch, normalizers: dict) -> Any:
    """MatterTune's own backbone around a small network, without its download and on the CPU."""
    from mattersim.forcefield import potential
    from mattersim.forcefield.m3gnet.m3gnet import M3Gnet
    from mattertune.backbones.mattersim.model import MatterSimBackboneConfig

    made = potential.Potential(M3Gnet(**SMALL, device="cpu"), device="cpu", model_name="m3gnet")
    monkeypatch.setattr(potential.Potential, "from_checkpoint", lambda **_: made)
    monkeypatch.setattr(potential, "batch_to_dict", partial(potential.batch_to_dict, device="cpu"))
    config = MatterSimBackboneConfig.model_validate(
        {
            "pretrained_model": "MatterSim-v1.0.0-1M",
            "graph_convertor": {},
            "properties": PROPERTIES,
            "optimizer": {"name": "Adam", "lr": 1e-3},
            "normalizers": normalizers,
            "reset_output_heads": False,
        }
    )
    return config.create_model()


def saved_by_lightning(module: Any, path: Path) -> Path:
    from lightning.pytorch import Trainer

    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path)
    return path


# --- with MatterTune ----------------------------------------------------------------------------------------------


@pytest.mark.hosts
@pytest.mark.usefixtures("host")
def test_the_stock_backbones_checkpoint_gives_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crystal: Atoms
) -> None:
    references = [{"per_atom_references": {8: -1.25, 12: 2.5}}, {"only_for_target": False}]
    module = stock_module(monkeypatch, {"energy": references})
    module.backbone.model.load_state_dict(responsive(crystal).network_state())
    model = read_mattertune(saved_by_lightning(module, tmp_path / "m.ckpt"))
    assert {k: model.hparams[k] for k in SMALL} == SMALL
    assert model.reference_energies[[7, 8, 12]].tolist() == [0.0, -1.25, 2.5]
    same(model, module, crystal)


@pytest.mark.hosts
@pytest.mark.usefixtures("host")
def test_the_stock_backbone_takes_our_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crystal: Atoms) -> None:
    model = responsive(crystal)
    path = write_mattertune(model, tmp_path / "m.ckpt")
    module = stock_module(monkeypatch, {})
    module.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    same(model, module, crystal)


@pytest.mark.hosts
@pytest.mark.usefixtures("host")
def test_lightning_loads_what_we_write_with_the_plugins_backbone(tmp_path: Path, crystal: Atoms) -> None:
    from mdl_physpretrain.hosts.mattertune.backbone_native import MatterSimM3GNetBackbone

    model = responsive(crystal)
    path = write_mattertune(model, tmp_path / "new" / "m.ckpt")
    module = MatterSimM3GNetBackbone.load_from_checkpoint(path, weights_only=True)
    assert dict(module.hparams.model_args) == model.hparams
    same(model, module, crystal)
    again = read_mattertune(saved_by_lightning(module, tmp_path / "again.ckpt"))
    batch = build_batch(crystal, model.cutoff)
    torch.testing.assert_close(again(batch), model(batch))


# --- without it ---------------------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path: Path, crystal: Atoms) -> Path:
    return write_mattertune(responsive(crystal), tmp_path / "m.ckpt")


def changed(path: Path, change: Any) -> Path:
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    return path


def normalized(name: str, *normalizers: dict[str, Any]) -> Any:
    return lambda c: c["hyper_parameters"]["normalizers"].update({name: list(normalizers)})


def test_read_what_was_written(written: Path, crystal: Atoms) -> None:
    model, again = responsive(crystal), read_mattertune(written)
    batch = build_batch(crystal, model.cutoff)
    torch.testing.assert_close(again(batch), model(batch))
    assert again.hparams == model.hparams
    assert not again.training


def test_arguments_left_out_are_the_plugins_defaults(written: Path, crystal: Atoms) -> None:
    args = {"units": 8, "max_l": 3, "max_n": 3}
    with pytest.raises(CheckpointError, match=r"lacks graph_conv\.2"):  # three blocks by default, two in the file
        read_mattertune(changed(written, lambda c: c["hyper_parameters"].update(model_args=args)))
    again = read_mattertune(
        changed(written, lambda c: c["hyper_parameters"].update(model_args={**args, "num_blocks": 2}))
    )
    assert again.hparams == responsive(crystal).hparams


def test_references_that_only_the_loss_uses_are_left_out(written: Path) -> None:
    plain = read_mattertune(written).reference_energies.clone()
    unused = normalized("energy", {"only_for_target": False, "per_atom_references": {8: 1.0}})
    assert torch.equal(read_mattertune(changed(written, unused)).reference_energies, plain)


def test_normalizers_that_change_nothing_are_accepted(written: Path) -> None:
    identity = normalized("forces", {"only_for_target": True, "mean": 0.0, "std": 1.0}, {"rms": 1.0})
    read_mattertune(changed(written, identity))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("state_dict"), "not a Lightning checkpoint"),
        (lambda c: c.pop("hyper_parameters"), "not a checkpoint of MatterTune"),
        (lambda c: c["hyper_parameters"].update(name="mace"), "backbone 'mace'"),
        (lambda c: c.update(state_dict={"net.weight": torch.zeros(1)}), r"starts with 'backbone\.model\.'"),
        (lambda c: c["state_dict"].pop("backbone.model.normalizer.scale"), r"lacks normalizer\.scale"),
        (lambda c: c["state_dict"].update({"backbone.model.head": torch.zeros(1)}), "unknown head"),
        (lambda c: c["hyper_parameters"]["model_args"].update(units=16), "other shapes"),
        (lambda c: c["hyper_parameters"].update(graph_convertor={"twobody_cutoff": 4.0}), "twobody_cutoff is 4"),
        (lambda c: c["hyper_parameters"].update(graph_convertor={"has_threebody": False}), "has_threebody"),
        (normalized("energy", {"mean": -3.0, "std": 1.0}), "'energy' are normalized .mean -3"),
        (normalized("energy", {"rms": 2.0}), "rms 2"),
        (normalized("energy", {"only_for_target": True}), "per atom"),
        (normalized("forces", {"mean": 0.0, "std": 2.0}), "'forces' are normalized"),
        (normalized("energy", {"per_atom_references": {8: 1.0}}), r"lacks normalizers\.energy"),
    ],
)
def test_what_cannot_be_taken_over_is_refused(written: Path, change: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_mattertune(changed(written, change))


def test_a_stock_checkpoint_without_weights_of_the_network_is_refused(written: Path) -> None:
    def strip(content: dict[str, Any]) -> None:
        content["hyper_parameters"]["name"] = "mattersim"
        del content["state_dict"]["backbone.model.rbf.r_max"]

    with pytest.raises(CheckpointError, match=r"lacks backbone\.model\.rbf\.r_max"):
        read_mattertune(changed(written, strip))


def test_a_checkpoint_that_wants_to_run_code_is_refused(written: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    with pytest.raises(CheckpointError, match=r"posix\.mkdir"):
        read_mattertune(changed(written, lambda c: c.update(callbacks=Trap())))
    assert not (tmp_path / "executed").exists()


def test_another_model_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="'eam'"):
        write_mattertune(EAM(["O"]), tmp_path / "m.ckpt")


@pytest.mark.hosts
@pytest.mark.usefixtures("host")
def test_any_backbone_gets_energies_per_element_and_moves_many_structures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crystal: Atoms
) -> None:
    """On the host's own module: its normalizer holds them, its checkpoint, too, and one pass takes all structures."""
    from mdl_physpretrain.hosts.mattertune.batched import ModulePotential
    from mdl_physpretrain.hosts.mattertune.loading import ModuleCalculator
    from mdl_physpretrain.hosts.mattertune.properties import add_references

    module = stock_module(monkeypatch, {})
    module.backbone.model.load_state_dict(responsive(crystal).network_state())
    bare = ModuleCalculator(module).get_potential_energy(crystal)
    count = {z: int((crystal.numbers == z).sum()) for z in set(crystal.numbers.tolist())}
    shifts = {z: 1.0 + 0.25 * z for z in count}
    for _ in range(2):  # the second adds to the first
        add_references(module, shifts)
    total = bare + 2 * sum(shifts[z] * n for z, n in count.items())
    assert ModuleCalculator(module).get_potential_energy(crystal) == pytest.approx(total, abs=1e-3)
    again = read_mattertune(saved_by_lightning(module, tmp_path / "m.ckpt"))
    batch = build_batch(crystal, again.cutoff)
    assert predict(again, batch).energy.item() == pytest.approx(total, abs=1e-3)

    other = crystal.copy()
    other.rattle(0.05, seed=3)
    calculator, many = ModuleCalculator(module), ModulePotential(module)
    together = predict(many, collate([build_batch(a, many.cutoff) for a in (crystal, other)]))
    first = 0
    for k, atoms in enumerate((crystal, other)):
        calculator.calculate(atoms)
        forces = together.forces[first : first + len(atoms)]
        assert float(together.energy[k]) == pytest.approx(calculator.results["energy"], abs=1e-3)
        np.testing.assert_allclose(forces, calculator.results["forces"], atol=1e-4)
        np.testing.assert_allclose(
            together.stress[k][[0, 1, 2], [0, 1, 2]], calculator.results["stress"][:3], atol=1e-4
        )
        first += len(atoms)
