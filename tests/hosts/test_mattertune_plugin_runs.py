"""MatterTune, unmodified, trains with the plugin: labels, pretraining, finetuning, MD, recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import read, write
from test_mattertune_plugin import MODELS, model_config, plugin, student  # noqa: F401 - the fixture

from mdl_physpretrain.batch import build_batch, collate
from mdl_physpretrain.dynamics import simulate
from mdl_physpretrain.errors import CheckpointError, ConfigError, StructureError
from mdl_physpretrain.models import ASECalculator, load_model, predict
from mdl_physpretrain.physicality import assess
from mdl_physpretrain.structures import get_labels

pytestmark = [pytest.mark.hosts, pytest.mark.usefixtures("plugin")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def lmo(folder: Path, shared_data: Path) -> list[Atoms]:
    """Eight small Li-Mn-O cells from DFT, also as ``small.extxyz``."""
    small = [a for a in read(shared_data / "lmo_train.extxyz", ":") if len(a) <= 14][:8]
    write(folder / "small.extxyz", small)
    return small


def labels(**more: Any) -> dict[str, Any]:
    return {
        "type": "eam_labelled",
        "dataset": {"type": "xyz", "src": "small.extxyz"},
        "teacher": {"cutoff": 5.0, "epochs": 30},
        "augment": {"n_aug": 2, "pull": 1.0, "perturb": 0.5},
        **more,
    }


def run_config(model: dict[str, Any], train: dict[str, Any], validation: dict[str, Any], **more: Any) -> dict[str, Any]:
    trainer: dict[str, Any] = {
        "accelerator": "cpu",
        "log_every_n_steps": 1,
        "loggers": [{"type": "csv", "save_dir": "logs", "version": 0}],
        "additional_trainer_kwargs": {"enable_progress_bar": False, "enable_model_summary": False},
    }
    checkpoint = {"filename": "best", "monitor": "val/total_loss", "enable_version_counter": False}
    trainer["checkpoint"] = {**checkpoint, **more.pop("checkpoint")}
    data = {"train": train, "validation": validation, "batch_size": 4, "num_workers": 0, "pin_memory": False}
    return {"model": model, "data": data, "trainer": {**trainer, **more.pop("trainer", {})}, **more}


def tune(config: dict[str, Any], name: str) -> Any:
    """Through a file and the host's own reader, as a user would."""
    from mattertune.main import MatterTuner, MatterTunerConfig

    Path(f"{name}.yaml").write_text(yaml.safe_dump(config))
    return MatterTuner(MatterTunerConfig.from_yaml(f"{name}.yaml")).tune()


def logged(column: str) -> list[float]:
    table = pd.read_csv("logs/lightning_logs/version_0/metrics.csv")
    return table[column].dropna().tolist()


XYZ = {"type": "xyz", "src": "small.extxyz"}


def test_m3gnet_pretrains_on_eam_labels_and_finetunes_on_dft(lmo: list[Atoms]) -> None:
    pytest.importorskip("mattersim", reason="mattersim is not installed")
    from mdl_physpretrain.hosts.mattertune.convert import read_native
    from mdl_physpretrain.hosts.mattertune.loading import potential

    pretrain = run_config(
        model_config("m3gnet", optimizer={"name": "AdamW", "lr": 3e-3}),
        labels(part="train", validation_share=0.2),
        labels(part="validation", validation_share=0.2),
        checkpoint={"dirpath": "pre"},
        trainer={"max_epochs": 8},
        recipes=[{"name": "shuffle"}],
    )
    tune(pretrain, "pretrain")
    losses = logged("val/total_loss")
    assert losses[-1] < losses[0]
    start = read_native("pre/best.ckpt")

    finetune = run_config(
        # steps of no size: what the weights are afterwards, they were at the beginning
        model_config("m3gnet", optimizer={"name": "SGD", "lr": 1e-12}, seed=5),
        XYZ,
        XYZ,
        checkpoint={"dirpath": "kept"},
        trainer={"max_epochs": 1},
        recipes=[{"name": "physics_pretrain", "checkpoint": "pre/best.ckpt"}],
    )
    kept = tune(finetune, "kept").model.backbone
    for name, value in start.named_parameters():
        torch.testing.assert_close(dict(kept.named_parameters())[name], value, rtol=0, atol=1e-8)
    finetune["recipes"] = []
    fresh = tune(finetune | {"trainer": {**finetune["trainer"], "checkpoint": {"dirpath": "fresh"}}}, "fresh")
    assert any(
        (dict(fresh.model.backbone.named_parameters())[n] - p).abs().max() > 1e-3 for n, p in start.named_parameters()
    )

    finetune["model"] = model_config("m3gnet", optimizer={"name": "AdamW", "lr": 3e-3})
    finetune["recipes"] = [
        {"name": "physics_pretrain", "checkpoint": "pre/best.ckpt"},
        {"name": "replay", "dataset": labels(), "fraction": 0.5},
    ]
    finetune["trainer"] |= {"max_epochs": 8, "checkpoint": {**finetune["trainer"]["checkpoint"], "dirpath": "fine"}}
    tune(finetune, "finetune")
    losses = logged("val/total_loss")
    assert losses[-1] < losses[0]
    for kind in ("energy", "forces", "stresses"):
        assert np.isfinite(logged(f"val/{kind}_mae")).all()
    # the checkpoint is that of the best epoch, and opens without the host's trainer
    model: Any = potential("fine/best.ckpt")
    force_mae = np.mean(
        np.concatenate([np.abs(_forces(model, a) - get_labels(a).forces).ravel() for a in lmo])  # type: ignore[operator]
    )
    best = int(np.argmin(losses))
    assert logged("val/forces_mae")[best] == pytest.approx(force_mae, rel=0.01)


def _forces(model: Any, atoms: Atoms) -> np.ndarray:
    return ASECalculator(model).get_forces(atoms.copy())


def test_md_counts_reach_the_logger_and_can_be_monitored(lmo: list[Atoms]) -> None:
    from mdl_physpretrain.hosts.mattertune.loading import potential

    md = {"temperature": 30000.0, "steps": 60, "n_structures": 3, "timestep": 2.0}  # nothing survives this
    recipe = {"name": "md_physicality", "md": md, "every_n_epochs": 2, "directory": "md", "arm": "hot", "seed": 4}
    config = run_config(
        model_config("cgcnn"),
        XYZ,
        XYZ,
        checkpoint={"dirpath": "run", "monitor": "physicality/unphysical"},
        trainer={"max_epochs": 3, "early_stopping": {"monitor": "physicality/unphysical", "patience": 9}},
        recipes=[recipe],
    )
    output = tune(config, "md")
    counts = logged("physicality/unphysical")
    assert logged("physicality/trajectories") == [3.0] * 3
    assert logged("physicality_end/unphysical") == [
        float(output.trainer.callback_metrics["physicality_end/unphysical"])
    ]
    assert output.trainer.checkpoint_callback.best_model_score.item() == min(counts)

    epochs = pd.read_csv("md/epochs.csv")
    assert epochs["epoch"].tolist()[:2] == [0, 2]
    assert epochs["epoch"].isna().tolist() == [False, False, True]
    table = pd.read_csv("md/physicality.csv")
    model: Any = potential("run/best.ckpt")  # what the recipe says of the best weights, found again without it
    chosen = [a for a in _cleaned(lmo) if a.info["structure_id"] in set(table["structure_id"])]
    again = assess(simulate(model, chosen, temperature=30000.0, steps=60, timestep=2.0, seed=4))
    assert again["physical"].tolist() == table["physical"].tolist()
    assert again["first_unphysical_step"].tolist() == table["first_unphysical_step"].tolist()
    assert 0 < (~table["physical"]).sum() == epochs["unphysical"].iloc[-1]
    assert "hot" in Path("md/report/index.html").read_text()

    config["recipes"] = [{**recipe, "every_n_epochs": None, "epochs": [1]}]
    with pytest.raises(ConfigError, match="every_n_epochs"):
        tune(config, "late")


def test_md_without_validation_data_and_weights_at_the_end(lmo: list[Atoms]) -> None:
    recipe = {"name": "md_physicality", "md": {"steps": 3, "n_structures": 1, "source": ["train"]}, "at_end": "last"}
    config = run_config(
        model_config("cgcnn"),
        XYZ,
        XYZ,
        checkpoint={"dirpath": "run", "monitor": "physicality/overlap"},
        trainer={"max_epochs": 2},
        recipes=[{**recipe, "epochs": [0]}],
    )
    del config["data"]["validation"]
    output = tune(config, "run")
    assert logged("physicality/trajectories") == [1.0, 1.0]
    assert output.trainer.checkpoint_callback.best_model_score.item() == 0
    assert pd.read_csv("physicality/epochs.csv")["trajectories"].tolist() == [1, 1]
    # the MD at the end changed nothing
    last = {k: v.clone() for k, v in output.model.state_dict().items()}
    config["recipes"] = []
    config["trainer"]["checkpoint"]["monitor"] = "train/total_loss"
    assert all(torch.equal(v, last[k]) for k, v in tune(config, "same").model.state_dict().items())


def _cleaned(structures: list[Atoms]) -> list[Atoms]:
    from mdl_physpretrain.hosts.mattertune.labelling import clean

    return clean(structures)


def test_job_carries_weights_from_part_to_part(lmo: list[Atoms]) -> None:
    from typer.testing import CliRunner

    from mdl_physpretrain.cli import app
    from mdl_physpretrain.hosts.mattertune.job import load_job, run_stages

    ends = {"name": "md_physicality", "md": {"steps": 5, "n_structures": 2}, "directory": "md"}
    job = {
        "common": run_config(model_config("cgcnn"), XYZ, XYZ, checkpoint={}),
        "pretrain": {"data": {"train": labels()}, "trainer": {"max_epochs": 1, "checkpoint": {"dirpath": "pre"}}},
        "finetune": {
            "model": {"optimizer": {"name": "SGD", "lr": 1e-12}},
            "trainer": {"max_epochs": 1, "checkpoint": {"dirpath": "fine"}},
        },
        "evaluate": {"recipes": [ends]},
    }
    Path("job.yaml").write_text(yaml.safe_dump(job))
    checked = CliRunner().invoke(app, ["mattertune", "job.yaml", "--check"])
    assert checked.exit_code == 0, checked.output
    assert not Path("pre").exists()
    first, second, third = run_stages(load_job("job.yaml", ["finetune.trainer.max_epochs=2"]))
    assert second.output.trainer.current_epoch == 2
    assert third.checkpoint is None
    assert third.metrics["physicality_end/trajectories"] == 2
    # finetuning that changes nothing and evaluation see the same network
    assert third.metrics["val/forces_mae"] == pytest.approx(second.metrics["val/forces_mae"], rel=1e-5)
    pre = torch.load(str(first.checkpoint), weights_only=True)["state_dict"]
    fine = torch.load(str(second.checkpoint), weights_only=True)["state_dict"]
    for key, value in pre.items():
        if key != "backbone.reference_energies":  # fitted to the DFT energies
            torch.testing.assert_close(fine[key], value)

    broken = CliRunner().invoke(app, ["mattertune", "job.yaml", "finetune.trainer.max_epoch=2"])
    assert broken.exit_code == 2
    assert "finetune.trainer.max_epoch" in broken.output


def test_labels_are_cached_clean_and_split_by_parent(lmo: list[Atoms], monkeypatch) -> None:
    from mattertune.registry import data_registry

    moving = [a.copy() for a in lmo]
    for copy, original in zip(moving, lmo, strict=True):
        copy.calc = original.calc
        copy.set_velocities(np.ones((len(copy), 3)))
        copy.set_constraint(FixAtoms([0]))
    inner = {"type": "atoms_list", "atoms_list": moving}
    whole = data_registry.construct(labels(dataset=inner, include_dataset=True)).create_dataset()
    assert all(not a.constraints and not a.has("momenta") for a in whole)
    mine = {a.info["structure_id"]: a for a in whole}
    for atoms in lmo:
        found = get_labels(mine[atoms.info["structure_id"]])
        np.testing.assert_allclose(found.forces, get_labels(atoms).forces, atol=1e-8)
        assert mine[atoms.info["structure_id"]].get_total_energy() == pytest.approx(get_labels(atoms).energy)

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("labelled again")

    monkeypatch.setattr("mdl_physpretrain.hosts.mattertune.labelling._make", never)
    parts = {}
    for part in ("train", "validation", "all"):
        config = data_registry.construct(labels(part=part, validation_share=0.3))
        config.prepare_data()
        parts[part] = [a.info["structure_id"] for a in config.create_dataset().structures]
        assert parts[part] == [a.info["structure_id"] for a in config.create_dataset().structures]
    assert sorted(parts["train"] + parts["validation"]) == sorted(parts["all"])
    assert parts["validation"]
    assert not {_parent(whole, i) for i in parts["train"]} & {_parent(whole, i) for i in parts["validation"]}
    assert parts["all"] != sorted(parts["all"])  # shuffled
    other = data_registry.construct(labels(part="all", seed=1)).create_dataset()
    assert [a.info["structure_id"] for a in other.structures] != parts["all"]
    with pytest.raises(AssertionError, match="labelled again"):
        data_registry.construct(labels(augment={"n_aug": 3})).create_dataset()


def _parent(dataset: Any, identifier: str) -> str:
    return next(str(a.info["parent_id"]) for a in dataset.structures if a.info["structure_id"] == identifier)


def test_other_teachers_and_missing_stress(folder: Path, lmo: list[Atoms]) -> None:
    from ase.build import bulk
    from mattertune.registry import data_registry

    copper = []
    rng = np.random.default_rng(0)
    for k in range(4):
        atoms = bulk("Cu", cubic=True)
        atoms.positions += rng.normal(0, 0.05, atoms.positions.shape)
        atoms.info["structure_id"] = f"cu-{k}"
        atoms.calc = EMT()
        found = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        found |= {"stress": atoms.get_stress()} if k else {}
        atoms.calc = SinglePointCalculator(atoms, **found)
        copper.append(atoms)
    write(folder / "small.extxyz", copper)
    emt = {"calculator": "ase.calculators.emt:EMT"}
    options = labels(teacher=emt, augment={"n_aug": 2, "pull": 0.3, "perturb": 0.2, "anchor": False})
    dataset = data_registry.construct(options).create_dataset()
    assert len(dataset) == 8
    for atoms in dataset.structures[:2]:
        bare = atoms.copy()
        bare.calc = EMT()
        np.testing.assert_allclose(bare.get_forces(), get_labels(atoms).forces, atol=1e-8)
        np.testing.assert_allclose(bare.get_stress(), atoms.get_stress(), atol=1e-8)
    anchored = labels(teacher=emt, augment={"n_aug": 2, "pull": 0.3, "perturb": 0.2})
    with pytest.raises(StructureError, match="missing_stress"):
        data_registry.construct(anchored).create_dataset()
    kept = data_registry.construct(anchored | {"missing_stress": "drop"}).create_dataset()
    assert {a.info["parent_id"] for a in kept.structures} == {"cu-1", "cu-2", "cu-3"}
    assert len(data_registry.construct(anchored | {"missing_stress": "allow"}).create_dataset()) == 8
    # a network of ours teaches as well as any calculator
    student("cgcnn", copper[1:]).save(folder / "net.pt")
    taught = labels(teacher={"checkpoint": "net.pt"}, augment={"n_aug": 1, "anchor": False, "max_force": None})
    first = data_registry.construct(taught).create_dataset().structures[0]
    with torch.no_grad():
        expected = load_model(folder / "net.pt")(build_batch(first, MODELS["cgcnn"]["cutoff"])).item()
    assert get_labels(first).energy == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ConfigError, match=r"teacher\.checkpoint"):
        data_registry.construct(labels(teacher={"checkpoint": "no.pt"})).create_dataset()


def test_epochs_hold_all_of_one_and_a_share_of_the_other() -> None:
    from mdl_physpretrain.hosts.mattertune.recipe_order import EpochDataset

    base, extra = [f"a{k}" for k in range(12)], [f"b{k}" for k in range(40)]
    data: Any = EpochDataset(base, extra, fraction=0.25, seed=2)
    orders = []
    for epoch in (0, 1, 0):
        data.set_epoch(epoch)
        orders.append([data[k] for k in range(len(data))])
        assert sorted(x for x in orders[-1] if x[0] == "a") == sorted(base)
        assert len({x for x in orders[-1] if x[0] == "b"}) == 4
    assert orders[0] == orders[2] != orders[1]
    assert {x for x in orders[0] if x[0] == "b"} != {x for x in orders[1] if x[0] == "b"}


def test_replay_reaches_the_training_batches(lmo: list[Atoms], monkeypatch) -> None:
    from mdl_physpretrain.hosts.mattertune.recipe_order import EpochDataset

    seen: list[tuple[str, bool]] = []
    original = EpochDataset.__getitem__

    def recorded(self: Any, index: int) -> Atoms:
        atoms = original(self, index)
        seen.append((atoms.info["structure_id"], "parent_id" in atoms.info))
        return atoms

    monkeypatch.setattr(EpochDataset, "__getitem__", recorded)
    replay = {"name": "replay", "dataset": labels(), "fraction": 0.5, "seed": 3}
    model = model_config("cgcnn", optimizer={"name": "SGD", "lr": 1e-6})
    config = run_config(model, XYZ, XYZ, checkpoint={"dirpath": "r"}, trainer={"max_epochs": 2}, recipes=[replay])
    tune(config, "replay")
    used = seen[-2 * 16 :]  # before that the network was initialised from them
    epochs = used[:16], used[16:]
    for epoch in epochs:
        assert sum(taught for _, taught in epoch) == 8
        assert {name for name, taught in epoch if not taught} == {a.info["structure_id"] for a in lmo}
    assert epochs[0] != epochs[1]
    config["recipes"] = [replay, {"name": "shuffle"}]
    with pytest.raises(ConfigError, match="shuffles already"):
        tune(config, "twice")


def test_sam_takes_its_own_gradient_and_counts_a_batch_once(lmo: list[Atoms]) -> None:
    pytest.importorskip("pytorch_optimizer", reason="pytorch_optimizer is not installed")
    from mattertune.registry import backbone_registry

    write("one.extxyz", lmo[:4])
    one = {"type": "xyz", "src": "one.extxyz"}
    model = model_config("cgcnn", optimizer={"name": "SGD", "lr": 1e-4}, initialise=False, seed=7)
    config = run_config(model, one, one, checkpoint={"dirpath": "s"}, trainer={"max_epochs": 1})
    batch = collate([build_batch(a, MODELS["cgcnn"]["cutoff"]) for a in lmo[:4]])
    by_hand: Any = backbone_registry.construct(model).create_model().backbone

    def gradient() -> tuple[list[Any], float]:
        out = predict(by_hand, batch, create_graph=True)
        parts = ((0.01, out.energy, batch.energy), (50, out.forces, batch.forces), (50, out.stress, batch.stress))
        loss = sum(w * (a - b).abs().mean() for w, a, b in parts)
        return list(torch.autograd.grad(loss, parameters, allow_unused=True)), loss.item()

    parameters = list(by_hand.parameters())
    start = [p.detach().clone() for p in parameters]
    first, loss = gradient()
    norm = torch.stack([g.norm() for g in first if g is not None]).norm()
    with torch.no_grad():
        for p, g in zip(parameters, first, strict=True):
            if g is not None:
                p += 0.5 * g / norm
    second, _ = gradient()
    config["recipes"] = [{"name": "sam", "rho": 0.5}]
    module = tune(config, "sam").model
    moved = 0.0
    for p, old, g in zip(module.backbone.parameters(), start, second, strict=True):
        if g is not None:
            torch.testing.assert_close(p.detach(), old - 1e-4 * g, rtol=1e-4, atol=1e-7)
            moved = max(moved, float((p.detach() - old).abs().max()))
    assert moved > 1e-6
    assert any(not torch.allclose(a, b) for a, b in zip(first, second, strict=True) if a is not None)
    assert logged("train/total_loss") == [pytest.approx(loss, rel=1e-4)]
    metrics = logged("train/forces_mae_epoch")
    assert metrics == [pytest.approx(logged("train/forces_mae_step")[0])]


def test_physics_pretrain_needs_a_checkpoint(lmo: list[Atoms]) -> None:
    config = run_config(model_config("cgcnn"), XYZ, XYZ, checkpoint={"dirpath": "x"}, trainer={"max_epochs": 1})
    with pytest.raises(ConfigError, match="physics_pretrain"):
        tune(config | {"recipes": [{"name": "physics_pretrain"}]}, "a")
    with pytest.raises(CheckpointError, match="does not exist"):
        tune(config | {"recipes": [{"name": "physics_pretrain", "checkpoint": "no.ckpt"}]}, "b")
