"""MatterTune, unmodified, with the plugin imported: backbones, checkpoints, evaluation."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from ase.io import read, write
from mattertune_jobs import (
    MODELS,
    PROPERTIES,
    folder_fixture,  # noqa: F401 - pytest finds them by name
    model_config,
    plugin_fixture,  # noqa: F401 - pytest finds them by name
    student,
)

from mdl_physpretrain.dynamics import simulate
from mdl_physpretrain.dynamics.assessment import assess
from mdl_physpretrain.errors import CheckpointError, ConfigError, StructureError
from mdl_physpretrain.graphs.batch import build_batch
from mdl_physpretrain.potentials import load_model, predict
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.training import new_network

pytestmark = pytest.mark.hosts


def assert_same(found: Any, model: EnergyModel, structures: list[Atoms]) -> None:
    """Energy, forces and stress of an ASE calculator are those of our model, and not nearly zero."""
    largest = 0.0
    for atoms in structures:
        bare = atoms.copy()
        bare.calc = found
        mine = predict(model, build_batch(Atoms(atoms), model.cutoff))
        assert bare.get_potential_energy() == pytest.approx(mine.energy.item(), rel=1e-6, abs=1e-5)
        np.testing.assert_allclose(bare.get_forces(), mine.forces.numpy(), atol=2e-5)
        np.testing.assert_allclose(bare.get_stress(voigt=False), mine.stress[0].numpy(), atol=1e-6)
        largest = max(largest, float(mine.forces.abs().max()))
    assert largest > 1e-3


@pytest.mark.parametrize("network", MODELS)
def test_same_weights_same_numbers_through_the_host(plugin, rocksalt: list[Atoms], tmp_path: Path, network) -> None:
    from mattertune.registry import backbone_registry

    model = student(network, rocksalt)
    model.save(tmp_path / "own.pt")
    config = backbone_registry.construct(model_config(network, checkpoint=str(tmp_path / "own.pt")))
    module = config.create_model()
    assert_same(module.eval().ase_calculator(), model, rocksalt[:3])

    batch = module.collate_fn([module.atoms_to_data(a, has_labels=True) for a in rocksalt[:4]])
    output = module(batch, mode="train")["predicted_properties"]
    loss = module._compute_loss(output, module.batch_to_labels(batch), log=False)
    mine = predict(model, batch, create_graph=True)
    by_hand = (
        0.01 * (mine.energy - batch.energy).abs().mean()
        + 50 * (mine.forces - batch.forces).abs().mean()
        + 50 * (mine.stress - batch.stress).abs().mean()
    )
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)
    loss.backward()
    by_hand.backward()
    theirs, ours = dict(module.backbone.named_parameters()), dict(model.named_parameters())
    assert theirs.keys() == ours.keys()
    for name, p in ours.items():
        if p.grad is not None:
            torch.testing.assert_close(theirs[name].grad, p.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", MODELS)
def test_checkpoints_go_both_ways(plugin, rocksalt: list[Atoms], tmp_path: Path, network) -> None:
    from mdl_physpretrain.hosts.convert import read_checkpoint_of
    from mdl_physpretrain.hosts.mattertune.backbone_native import MODULES
    from mdl_physpretrain.hosts.mattertune.checkpoint import write_mattertune
    from mdl_physpretrain.hosts.mattertune.loading import load_module

    model = student(network, rocksalt)
    write_mattertune(model, tmp_path / "host.ckpt")
    plain = MODULES[network].load_from_checkpoint(tmp_path / "host.ckpt", weights_only=True)  # Lightning's own way
    assert plain.hparams.initialise is False
    for module in (plain, load_module(tmp_path / "host.ckpt")):
        assert_same(module.eval().ase_calculator(), model, rocksalt[:2])
    back = read_checkpoint_of(tmp_path / "host.ckpt")
    assert back.registry_name == network
    assert back.hparams == model.hparams
    assert_same(plain.ase_calculator(), back, rocksalt[:2])
    back.save(tmp_path / "back.pt")
    assert_same(plain.ase_calculator(), load_model(tmp_path / "back.pt"), rocksalt[:2])


def test_m3gnet_is_the_hosts_own(plugin, rocksalt: list[Atoms], tmp_path: Path, monkeypatch) -> None:
    mattersim = pytest.importorskip("mattersim.forcefield.potential", reason="mattersim is not installed")
    from mattertune.backbones.mattersim.model import MatterSimM3GNetBackboneModule

    from mdl_physpretrain.hosts.mattertune.checkpoint import write_mattertune
    from mdl_physpretrain.hosts.mattertune.loading import ModuleCalculator, load_module, potential
    from mdl_physpretrain.hosts.mattertune.recipe_weights import load_pretrained

    model: Any = student("m3gnet", rocksalt)
    model.to_mattersim(tmp_path / "local.pth")
    # the host asks for CUDA in any case
    monkeypatch.setattr(mattersim, "batch_to_dict", partial(mattersim.batch_to_dict, device="cpu"))
    settings = {
        "name": "mattersim",
        "pretrained_model": str(tmp_path / "local.pth"),
        "graph_convertor": {"twobody_cutoff": 4.5, "threebody_cutoff": 4.0},
        "reset_output_heads": False,
        "properties": PROPERTIES,
        "optimizer": {"name": "AdamW", "lr": 1e-3},
    }
    stock = MatterSimM3GNetBackboneModule(settings).eval()
    config = plugin.MatterSimM3GNetConfig(
        checkpoint=str(tmp_path / "local.pth"), properties=PROPERTIES, optimizer={"name": "AdamW", "lr": 1e-3}
    )
    ours = config.create_model().eval()
    assert {k for k in stock.state_dict() if k.startswith("backbone.")} == set(ours.state_dict())
    assert_same(stock.ase_calculator(), model, rocksalt[:2])
    assert_same(ours.ase_calculator(), model, rocksalt[:2])

    native = potential(stock)  # for MD, without the host's data path
    assert isinstance(native, EnergyModel)
    assert_same(stock.ase_calculator(), native, rocksalt[:1])
    assert_same(ModuleCalculator(stock), model, rocksalt[:1])

    # weights of our runs go into the stock backbone, too, and those of another size do not
    write_mattertune(student("m3gnet", rocksalt, seed=8), tmp_path / "ours.ckpt")
    assert load_pretrained(stock, tmp_path / "ours.ckpt") == len(ours.state_dict())
    assert_same(stock.ase_calculator(), student("m3gnet", rocksalt, seed=8), rocksalt[:1])
    write_mattertune(new_network("cgcnn", rocksalt, model_args=MODELS["cgcnn"]), tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match=r"missing.*unknown to the backbone"):
        load_pretrained(stock, tmp_path / "other.ckpt")
    assert load_pretrained(stock, tmp_path / "ours.ckpt", skip=["backbone.model.final.*"]) < len(ours.state_dict())
    stock.load_state_dict(ours.state_dict(), strict=False)

    # a checkpoint of the stock backbone opens without a download, and runs on this device
    graph = {"twobody_cutoff": 4.5, "has_threebody": True, "threebody_cutoff": 4.0}
    hyper_parameters = {**dict(stock.hparams), "pretrained_model": "MatterSim-v1.0.0-1M", "graph_convertor": graph}
    torch.save({"state_dict": stock.state_dict(), "hyper_parameters": hyper_parameters}, tmp_path / "stock.ckpt")
    assert_same(load_module(tmp_path / "stock.ckpt").ase_calculator(), model, rocksalt[:1])


def test_slab_and_left_handed_cell(plugin, zoo: dict[str, Atoms], rocksalt: list[Atoms]) -> None:
    """What the host's MatterSim backbone gets wrong: pbc T T F, and the stress of a left-handed cell."""
    from mattertune.registry import backbone_registry

    module = backbone_registry.construct(model_config("cgcnn")).create_model().eval()
    left = rocksalt[0].copy()
    left.set_cell(left.cell.array[[1, 0, 2]])
    assert np.linalg.det(left.cell.array) < 0
    right = rocksalt[0].copy()
    for atoms in (left, right):
        atoms.calc = module.ase_calculator()
    np.testing.assert_allclose(left.get_stress(), right.get_stress(), atol=1e-6)
    shifted = zoo["slab"].copy()
    shifted.positions[:, 2] += 50.0
    for atoms in (zoo["slab"], shifted):
        atoms.calc = module.ase_calculator()
    assert shifted.get_potential_energy() == pytest.approx(zoo["slab"].get_potential_energy(), abs=1e-4)


@pytest.mark.parametrize("network", ["cgcnn", "m3gnet"])
def test_weights_that_do_not_fit_are_refused(plugin, rocksalt: list[Atoms], tmp_path: Path, network) -> None:
    from mattertune.registry import backbone_registry

    from mdl_physpretrain.hosts.mattertune.recipe_weights import _check, load_pretrained

    student(network, rocksalt).save(tmp_path / "own.pt")
    other = {"cgcnn": "m3gnet", "m3gnet": "cgcnn"}[network]
    student(other, rocksalt).save(tmp_path / "other.pt")
    module = backbone_registry.construct(model_config(network)).create_model()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    with pytest.raises(CheckpointError, match=other):
        load_pretrained(module, tmp_path / "other.pt")
    sized = model_config(network)
    sized["model_args"] = {**MODELS[network], "cutoff": 6.0}  # no shape shows this one
    with pytest.raises(CheckpointError, match=r"cutoff: 4\.5"):
        load_pretrained(backbone_registry.construct(sized).create_model(), tmp_path / "own.pt")
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    with pytest.raises(CheckpointError, match=r"1 missing \(backbone\.b\); a has shape \(2,\) instead of \(3,\)"):
        _check({"a": torch.zeros(3), "backbone.b": torch.zeros(1)}, {"a": torch.zeros(2)}, "x.ckpt")
    assert load_pretrained(module, tmp_path / "own.pt") == len(before)
    assert any(not torch.equal(v, before[k]) for k, v in module.state_dict().items())


def test_stock_configurations_still_validate(plugin) -> None:
    from mattertune.main import MatterTunerConfig

    loss = {"name": "huber", "delta": 0.01}
    stock = {
        "model": {
            "name": "mattersim",
            "pretrained_model": "MatterSim-v1.0.0-1M",
            "graph_convertor": {"twobody_cutoff": 5.0},
            "properties": [{"type": "energy", "loss": loss}, {"type": "forces", "loss": loss, "conservative": True}],
            "optimizer": {"name": "Adam", "lr": 1e-4},
            "lr_scheduler": {"type": "CosineAnnealingLR", "T_max": 10, "eta_min": 0.0},
            "normalizers": {"energy": [{"per_atom_references": {3: -1.9, 8: -4.9}}]},
        },
        "data": {"dataset": {"type": "xyz", "src": "x.xyz"}, "train_split": 0.9, "batch_size": 2},
        "trainer": {"max_epochs": 3, "early_stopping": {"patience": 3}, "loggers": "default"},
        "recipes": [{"name": "no-op"}, {"name": "ema", "decay": 0.99}, {"name": "lora", "lora": {"r": 4}}],
    }
    config = MatterTunerConfig.from_dict(stock)
    assert type(config.model).__module__.startswith("mattertune.")
    assert [type(r).__module__.split(".")[0] for r in config.recipes] == ["mattertune"] * 3
    mixed = {**stock, "recipes": [{"name": "no-op"}, {"name": "sam"}, {"name": "shuffle"}]}
    assert len(MatterTunerConfig.from_dict(mixed).recipes) == 3
    with pytest.raises(ValueError, match="physics_pretrain"):
        MatterTunerConfig.from_dict({**stock, "recipes": [{"name": "physics_pretrained"}]})


def test_host_interfaces_of_our_modules(plugin, rocksalt: list[Atoms]) -> None:
    from mattertune.registry import backbone_registry

    module = backbone_registry.construct(model_config("cgcnn", freeze_backbone=True)).create_model()
    module.adopt(student("cgcnn", rocksalt))
    names = [name for name, _ in module.trainable_parameters()]
    assert names
    assert all(name.startswith(("post_lin_list", "lin_out")) for name in names)
    quiet = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    found = module.property_predictor(quiet).predict(rocksalt[:3], batch_size=2)
    for atoms, one in zip(rocksalt, found, strict=False):
        mine = predict(module.backbone, build_batch(atoms, module.backbone.cutoff))
        torch.testing.assert_close(one["energy"].reshape(()).double(), mine.energy[0].detach(), atol=1e-4, rtol=1e-6)
        torch.testing.assert_close(one["forces"], mine.forces.detach(), atol=1e-5, rtol=1e-4)
    calculator = module.ase_calculator()
    calculator.set_use_double_precision()
    atoms = rocksalt[0].copy()
    atoms.calc = calculator
    double = atoms.get_potential_energy()
    assert module.backbone.dtype == torch.float64
    assert double == pytest.approx(found[0]["energy"].item(), rel=1e-6)
    with pytest.raises(ConfigError, match="pruning"):
        backbone_registry.construct(model_config("cgcnn", pruning_message_passing=1)).create_model()


def test_missing_labels_are_named(plugin, rocksalt: list[Atoms]) -> None:
    from mattertune.registry import backbone_registry

    module = backbone_registry.construct(model_config("cgcnn")).create_model()
    atoms = rocksalt[0].copy()
    atoms.calc = rocksalt[0].calc
    atoms.calc.results.pop("stress")
    with pytest.raises(StructureError, match=r"stress.*model\.properties"):
        module.atoms_to_data(atoms, has_labels=True)
    unwanted = model_config("cgcnn", properties=[*PROPERTIES[:1], {**PROPERTIES[1], "conservative": False}])
    with pytest.raises(ConfigError, match="conservative"):
        backbone_registry.construct(unwanted).create_model()


def test_evaluator_takes_any_module_in_one_line(plugin, rocksalt: list[Atoms], tmp_path: Path) -> None:
    from mattertune.registry import backbone_registry

    from mdl_physpretrain.hosts.mattertune.checkpoint import write_mattertune
    from mdl_physpretrain.hosts.mattertune.loading import ModuleCalculator, load_module, potential

    model = student("cgcnn", rocksalt)
    write_mattertune(model, tmp_path / "a.ckpt")
    options: dict[str, Any] = {"temperature": 300, "steps": 10, "seed": 1}
    table = assess(simulate(potential(tmp_path / "a.ckpt"), rocksalt[:2], **options))
    host = assess(simulate(load_module(tmp_path / "a.ckpt").ase_calculator(), rocksalt[:2], **options))
    np.testing.assert_allclose(table["min_distance"], host["min_distance"], atol=1e-4)

    # with normalisers the prediction is not the network's alone: the module still predicts what it took over
    references = {"energy": [{"per_atom_references": {8: -3.0, 12: 2.0}}]}
    module = backbone_registry.construct(model_config("cgcnn", normalizers=references)).create_model()
    module.adopt(model)
    n_mg, n_o = (int((rocksalt[0].numbers == z).sum()) for z in (12, 8))
    batch = build_batch(rocksalt[0], model.cutoff)
    whole = predict(model, batch).energy.item()
    assert predict(module.backbone, batch).energy.item() == pytest.approx(whole - 2.0 * n_mg + 3.0 * n_o, abs=1e-3)
    assert ModuleCalculator(module).get_potential_energy(rocksalt[0]) == pytest.approx(whole, abs=1e-3)
    assert predict(potential(module), batch).energy.item() == pytest.approx(whole, abs=1e-3)
    assert module.training  # as it was


def test_normalizers_that_forces_would_not_follow_are_refused(plugin, tmp_path: Path) -> None:
    from mattertune.registry import backbone_registry

    for name, normalizer in (("energy", {"mean": 1.0, "std": 2.0}), ("forces", {"rms": 3.0})):
        with pytest.raises(ConfigError, match=f"normalizers.{name}: .* use per_atom_references"):
            backbone_registry.construct(model_config("cgcnn", normalizers={name: [normalizer]})).create_model()
    harmless = {"energy": [{"rms": 3.0, "only_for_target": False}], "forces": [{"rms": 1.0}]}
    assert backbone_registry.construct(model_config("cgcnn", normalizers=harmless)).create_model()
    (tmp_path / "references.json").write_text('{"8": -3.0}')
    named = {"energy": [{"per_atom_references": str(tmp_path / "references.json")}]}
    module = backbone_registry.construct(model_config("cgcnn", normalizers=named)).create_model()
    assert module.hparams.normalizers["energy"][0].per_atom_references == {8: -3.0}  # plain values in checkpoints


def test_shipped_configurations_are_valid(plugin) -> None:
    from mattertune.main import MatterTunerConfig

    from mdl_physpretrain.hosts.mattertune.job import load_stages

    folder = Path(__file__).parents[2] / "configs" / "mattertune"
    files = sorted(folder.glob("*.yaml"))
    assert {"pretrain", "finetune", "evaluate"} <= {f.stem for f in files}
    for file in files:
        assert load_stages(file)
    for name in ("pretrain", "finetune", "evaluate"):  # plain: the host reads them itself
        assert MatterTunerConfig.from_yaml(folder / f"{name}.yaml").model.name == "mattersim_m3gnet"
    assert [stage.waits for stage in load_stages(folder / "job.yaml")] == [False, True, True]


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        (PROPERTIES, "the backbone orb of this MatterTune cannot predict stress"),
        (PROPERTIES[:2], "stage: The orb_models module is not installed"),
    ],
)
def test_what_a_foreign_backbone_cannot_is_said_before_training(
    plugin, folder: Path, monkeypatch, properties: list, message: str
) -> None:
    from mdl_physpretrain.hosts.mattertune.job import load_stages

    monkeypatch.setitem(sys.modules, "orb_models", None)  # as where it is not installed
    model = {
        "name": "orb",
        "pretrained_model": "orb-v2",
        "properties": properties,
        "optimizer": {"name": "Adam", "lr": 1},
    }
    data = {"train": {"type": "xyz", "src": "a.extxyz"}, "batch_size": 1, "num_workers": 0}
    (folder / "stage.yaml").write_text(yaml.safe_dump({"model": model, "data": data, "trainer": {"max_epochs": 1}}))
    with pytest.raises(ConfigError, match=message):
        load_stages(folder / "stage.yaml")


def test_restart_of_a_checkpoint_keeps_its_weights(plugin, rocksalt: list[Atoms], tmp_path: Path) -> None:
    """Lightning's own restart must not initialise the network anew."""
    from lightning.pytorch import Trainer
    from mattertune.data import MatterTuneDataModule

    from mdl_physpretrain.hosts.mattertune.backbone_native import CGCNNBackbone
    from mdl_physpretrain.hosts.mattertune.checkpoint import write_mattertune

    write(tmp_path / "d.xyz", rocksalt, format="extxyz")
    assert len(read(tmp_path / "d.xyz", ":")) == 8
    model = student("cgcnn", rocksalt)
    write_mattertune(model, tmp_path / "a.ckpt")
    module = CGCNNBackbone.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    data = MatterTuneDataModule(
        {"train": {"type": "xyz", "src": str(tmp_path / "d.xyz")}, "batch_size": 8, "num_workers": 0}
    )
    trainer = Trainer(
        max_epochs=0, accelerator="cpu", logger=False, enable_checkpointing=False, inference_mode=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, data)
    assert_same(module.eval().ase_calculator(), model, rocksalt[:1])
