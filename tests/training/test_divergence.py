"""A network that became NaN is never the best one, and no command takes it."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from ase import Atoms
from small_potentials import small
from typer.testing import CliRunner

from mdl_physpretrain.cli import app
from mdl_physpretrain.errors import CheckpointError, ConfigError, StructureError
from mdl_physpretrain.graphs.batch import build_batch
from mdl_physpretrain.potentials import Prediction, load_model
from mdl_physpretrain.potentials.checkpoint import has_finite_weights
from mdl_physpretrain.potentials.error_metrics import ErrorSums, evaluate
from mdl_physpretrain.structures import write_structures
from mdl_physpretrain.structures.labels import Labels, get_labels, set_labels
from mdl_physpretrain.training import module as training_module
from mdl_physpretrain.training import train

SMALL = {"cutoff": 4.0, "dim1": 8, "dim2": 8, "gc_count": 1, "post_fc_count": 1, "edge_dim": 8}


@pytest.mark.parametrize("ema", [None, 0.9])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_late_divergence_keeps_the_best_state_before(
    rocksalt: list[Atoms], tmp_path: Path, value: float, ema: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = training_module.KeepBest.on_train_epoch_start

    def spoil(self, trainer, pl_module):
        before(self, trainer, pl_module)
        if trainer.current_epoch == 2:
            with torch.no_grad():
                for parameter in pl_module.model.parameters():
                    parameter.fill_(value)

    monkeypatch.setattr(training_module.KeepBest, "on_train_epoch_start", spoil)
    with pytest.warns(UserWarning, match="validation error is NaN or infinite from epoch 2 on"):
        model = train("cgcnn", rocksalt, epochs=8, ema=ema, model_args=SMALL, directory=tmp_path)
    assert has_finite_weights(model)
    assert model.metadata["best_val_loss"] > 0
    assert len(model.metadata["history"]) == 3  # it does not go on with what cannot be mended
    with pytest.warns(UserWarning, match="from epoch 2 on"):
        again = train("cgcnn", rocksalt, epochs=8, ema=ema, model_args=SMALL, directory=tmp_path)
    assert len(again.metadata["history"]) == 3  # nor when it is called again
    total = evaluate(load_model(tmp_path / "best.pt"), rocksalt)["total"]
    assert total == pytest.approx(model.metadata["best_val_loss"], rel=1e-3)


@pytest.mark.parametrize(("name", "optimizer"), [("cgcnn", "adamw"), ("cgcnn", "sam"), ("torchmd_et", "adamw")])
def test_a_learning_rate_that_is_far_too_large(rocksalt: list[Atoms], name: str, optimizer: str) -> None:
    args = SMALL if name == "cgcnn" else {"cutoff": 4.0}
    options = {"epochs": 3, "batch_size": 2, "learning_rate": 1e30, "clip_grad": None, "optimizer": optimizer}
    try:
        model = train(name, rocksalt, model_args=args, **options)
    except StructureError as error:
        assert "no finite validation error" in str(error)  # noqa: PT017 - either is right
        return
    assert has_finite_weights(model)
    assert math.isfinite(evaluate(model, rocksalt)["total"])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("label", ["energy", "forces", "stress"])
def test_the_total_of_an_error_that_is_nan(rocksalt: list[Atoms], label: str, value: float) -> None:
    batch = build_batch(rocksalt[0], 4.0, torch.float64)
    out = Prediction(
        batch.energy.clone(), batch.forces.clone(), batch.stress.clone(memory_format=torch.contiguous_format)
    )
    getattr(out, label).contiguous().view(-1)[0] = value
    sums = ErrorSums()
    sums.add(out, batch)
    assert not math.isfinite(sums.means()["total"])


def test_missing_labels_are_left_out_of_the_total(rocksalt: list[Atoms]) -> None:
    model = small("cgcnn")
    whole = evaluate(model, rocksalt)
    for atoms in rocksalt:
        labels = get_labels(atoms)
        set_labels(atoms, Labels(labels.energy, labels.forces, None))
    part = evaluate(model, rocksalt)
    assert math.isnan(part["stress_mae"])
    assert part["total"] == pytest.approx(0.01 * whole["energy_mae"] + 50 * whole["forces_mae"])
    assert math.isnan(ErrorSums().means()["total"])  # nothing was compared


@pytest.mark.parametrize("where", ["structures", "val"])
def test_nothing_to_learn_from_is_told_before_the_training(rocksalt: list[Atoms], where: str) -> None:
    bare = [Atoms(a.symbols, a.positions, cell=a.cell, pbc=True) for a in rocksalt]
    with pytest.raises(StructureError, match=r"no (training|validation) structure has an energy"):
        train("cgcnn", bare if where == "structures" else rocksalt, val=bare if where == "val" else None, epochs=1)


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nan") / "nan.pt"
    model = small("cgcnn")
    with torch.no_grad():
        next(model.parameters()).view(-1)[3] = math.nan
    model.save(path)
    return path


@pytest.mark.parametrize("name", ["cgcnn", "torchmd_et", "schnet", "eam", "classical", "sum"])
def test_a_checkpoint_with_such_a_weight_is_refused(tmp_path: Path, name: str) -> None:
    model = small(name)
    keys = list(model.state_dict())
    for key, value in zip(keys[:: max(1, len(keys) // 12)], itertools.cycle([math.nan, math.inf]), strict=False):
        spoiled = small(name)
        entry = spoiled.state_dict()[key]
        if not entry.is_floating_point() or not entry.numel():
            continue
        with torch.no_grad():
            entry.view(-1)[-1] = value
        spoiled.save(tmp_path / "m.pt")
        with pytest.raises(CheckpointError, match="is NaN or infinite"):
            load_model(tmp_path / "m.pt")


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "{model}", "{data}"],
        ["check", "{model}", "-s", "{data}", "-o", "{out}"],
        ["md", "{model}", "{data}", "-o", "{out}", "--steps", "2"],
        ["label", "{data}", "--teacher", "{model}", "-o", "{out}.extxyz"],
        ["convert", "{model}", "{out}.ckpt"],
        ["train", "{data}", "--model", "{model}", "-o", "{out}"],
        ["finetune", "{data}", "--model", "{model}", "-o", "{out}"],
        ["align", "{model}", "{model}", "{data}"],
        ["examine", "{model}", "{data}"],
    ],
    ids=lambda words: words[0],
)
def test_every_command_refuses_it(words: list[str], spoiled: Path, rocksalt: list[Atoms], tmp_path: Path) -> None:
    write_structures(tmp_path / "d.extxyz", rocksalt)
    places = {"model": spoiled, "data": tmp_path / "d.extxyz", "out": tmp_path / "out"}
    result = CliRunner().invoke(app, [word.format(**places) for word in words])
    assert result.exit_code == 2, result.output
    assert "is NaN or infinite: its training diverged" in result.output
    assert not (tmp_path / "out.extxyz").exists()
    assert not (tmp_path / "out.ckpt").exists()


@pytest.mark.parametrize("option", ["learning_rate", "force_scale", "weight_decay", "clip_grad", "rho", "ema"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0])
def test_options_that_cannot_be(rocksalt: list[Atoms], option: str, value: float) -> None:
    with pytest.raises(ConfigError, match=option):
        train("cgcnn", rocksalt, epochs=1, **{option: value})
    if option in ("learning_rate", "force_scale", "clip_grad", "rho"):
        with pytest.raises(ConfigError, match=option):
            train("cgcnn", rocksalt, epochs=1, **{option: 0.0})
