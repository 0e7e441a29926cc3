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
from ase.io import write
from mattertune_jobs import (  # noqa: F401 - pytest finds them by name
    MODELS,
    XYZ,
    folder_fixture,
    labels,
    lmo_fixture,
    logged,
    model_config,
    plugin_fixture,
    run_config,
    tune,
)

from mdl_physpretrain.dynamics import simulate
from mdl_physpretrain.dynamics.assessment import assess
from mdl_physpretrain.errors import CheckpointError, ConfigError
from mdl_physpretrain.graphs.batch import build_batch, collate
from mdl_physpretrain.potentials import ASECalculator, predict
from mdl_physpretrain.structures import get_labels

pytestmark = [pytest.mark.hosts, pytest.mark.usefixtures("plugin")]


def test_m3gnet_pretrains_on_eam_labels_and_finetunes_on_dft(lmo: list[Atoms]) -> None:
    pytest.importorskip("mattersim", reason="mattersim is not installed")
    from mdl_physpretrain.hosts.convert import read_checkpoint_of
    from mdl_physpretrain.hosts.mattertune.loading import potential

    pretrain = run_config(
        model_config("m3gnet", optimizer={"name": "AdamW", "lr": 3e-3}),
        labels(part="train", validation_share=0.2),
        labels(part="validation", validation_share=0.2),
        checkpoint={"dirpath": "pre"},
        trainer={"max_epochs": 5},
        recipes=[{"name": "shuffle"}],
    )
    tune(pretrain, "pretrain")
    losses = logged("val/total_loss")
    assert losses[-1] < losses[0]
    start = read_checkpoint_of("pre/best.ckpt")

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
    finetune["trainer"] |= {"max_epochs": 5, "checkpoint": {**finetune["trainer"]["checkpoint"], "dirpath": "fine"}}
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
    np.testing.assert_allclose(again["min_distance"], table["min_distance"], rtol=1e-7)  # and not of the last weights
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
        trainer={"max_epochs": 2, "early_stopping": {"monitor": "physicality/overlap"}},
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
    del config["trainer"]["early_stopping"]
    assert all(torch.equal(v, last[k]) for k, v in tune(config, "same").model.state_dict().items())


def _cleaned(structures: list[Atoms]) -> list[Atoms]:
    from mdl_physpretrain.hosts.mattertune.labelling import clean

    return clean(structures)


def test_job_carries_weights_from_part_to_part(lmo: list[Atoms]) -> None:
    from typer.testing import CliRunner

    from mdl_physpretrain.cli import app
    from mdl_physpretrain.hosts.mattertune.job import load_stages, run_stages

    ends = {"name": "md_physicality", "md": {"steps": 5, "n_structures": 2}, "directory": "md"}
    job = {
        "common": run_config(model_config("cgcnn"), XYZ, XYZ, checkpoint={}),
        "pretrain": {"data": {"train": labels()}, "trainer": {"max_epochs": 1, "checkpoint": {"dirpath": "pre"}}},
        "finetune": {
            "model": {"optimizer": {"name": "SGD", "lr": 1e-12}},
            "trainer": {"max_epochs": 1, "checkpoint": {"dirpath": "fine"}},
        },
        "evaluate": {"data": {"train": {"src": "shifted.extxyz"}}, "recipes": [ends]},
    }
    for atoms in lmo:
        atoms.calc.results["energy"] += 7.0
    write("shifted.extxyz", lmo)  # the energies of an evaluation must not be fitted to these
    Path("job.yaml").write_text(yaml.safe_dump(job))
    checked = CliRunner().invoke(app, ["mattertune", "job.yaml", "--check"])
    assert checked.exit_code == 0, checked.output
    assert not Path("pre").exists()
    first, second, third = run_stages(load_stages("job.yaml", ["finetune.trainer.max_epochs=2"]))
    assert second.output.trainer.current_epoch == 2
    assert third.checkpoint is None
    assert third.metrics["physicality_end/trajectories"] == 2
    # finetuning that changes nothing and evaluation see the same network
    for kind in ("energy", "forces", "stresses"):
        assert third.metrics[f"val/{kind}_mae"] == pytest.approx(second.metrics[f"val/{kind}_mae"], rel=1e-5)
    pre = torch.load(str(first.checkpoint), weights_only=True)["state_dict"]
    fine = torch.load(str(second.checkpoint), weights_only=True)["state_dict"]
    for key, value in pre.items():
        if key != "backbone.reference_energies":  # fitted to the DFT energies
            torch.testing.assert_close(fine[key], value)

    broken = CliRunner().invoke(app, ["mattertune", "job.yaml", "finetune.trainer.max_epoch=2"])
    assert broken.exit_code == 2
    assert "finetune.trainer.max_epoch" in broken.output


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
    assert len(seen) == 2 * 16  # the network is initialised from the reference data alone
    epochs = seen[:16], seen[16:]
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
