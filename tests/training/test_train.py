"""Training: it learns, resumes exactly, masks labels, refuses nonsense."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.units import GPa

from mdl_physpretrain.errors import CheckpointError, ConfigError, StructureError
from mdl_physpretrain.graphs.batch import build_batch, collate
from mdl_physpretrain.potentials import EAM, Prediction, Sum, load_model, predict
from mdl_physpretrain.potentials.error_metrics import evaluate
from mdl_physpretrain.structures import read_structures, write_structures
from mdl_physpretrain.structures.labels import Labels, get_labels, set_labels
from mdl_physpretrain.training import EFSLoss, new_network, train
from mdl_physpretrain.training.data import EpochSampler

SMALL = {"cutoff": 4.0, "dim1": 12, "dim2": 12, "gc_count": 2, "post_fc_count": 1, "edge_dim": 16}


@pytest.fixture
def labelled(rocksalt: list[Atoms]) -> list[Atoms]:
    """Rock salt with labels a network can learn: those of an EAM."""
    torch.manual_seed(0)
    teacher = EAM(["O", "Mg"], cutoff=4.0, n_basis=2).double()
    with torch.no_grad():
        teacher.B.mul_(0.05)
        teacher.rm.fill_(2.1)
    for atoms in rocksalt:
        out = predict(teacher, build_batch(atoms, 4.0, torch.float64))
        set_labels(atoms, Labels(float(out.energy[0]), out.forces.detach().numpy(), out.stress[0].detach().numpy()))
    return rocksalt


def test_it_learns_and_keeps_the_best(labelled: list[Atoms], tmp_path: Path) -> None:
    start = evaluate(new_network("cgcnn", labelled, model_args=SMALL), labelled)
    model = train(
        "cgcnn",
        labelled,
        val=labelled[:3],
        epochs=40,
        batch_size=4,
        learning_rate=5e-3,
        ema=None,
        model_args=SMALL,
        directory=tmp_path,
    )
    end = evaluate(model, labelled)
    assert end["total"] < 0.5 * start["total"]
    with (tmp_path / "history.csv").open() as file:
        history = list(csv.DictReader(file))
    assert [int(h["epoch"]) for h in history] == list(range(40))
    best = load_model(tmp_path / "best.pt")
    lowest = min(float(h["val_loss"]) for h in history)
    assert evaluate(best, labelled[:3])["total"] == pytest.approx(lowest, rel=1e-3)
    assert evaluate(model, labelled[:3])["total"] == pytest.approx(lowest, rel=1e-3)
    assert model.metadata["elements"] == ["Mg", "O"]


def test_finetuning_starts_from_the_given_weights(labelled: list[Atoms]) -> None:
    first = train("cgcnn", labelled, epochs=2, model_args=SMALL, seed=1)
    second = train(first, labelled, epochs=1, learning_rate=1e-12, weight_decay=0.0, seed=1)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert second is not first


@pytest.mark.parametrize("ema", [None, 0.9])
def test_resumed_equals_uninterrupted(labelled: list[Atoms], tmp_path: Path, ema: float | None) -> None:
    options = {
        "val": labelled[:2],
        "batch_size": 3,
        "model_args": SMALL,
        "seed": 5,
        "ema": ema,
        "scheduler_patience": 1,
    }
    whole = train("cgcnn", labelled, epochs=6, directory=tmp_path / "whole", **options)
    train("cgcnn", labelled, epochs=3, directory=tmp_path / "parts", **options)
    parts = train("cgcnn", labelled, epochs=6, directory=tmp_path / "parts", **options)
    for a, b in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    without_seconds = []
    for folder in ("whole", "parts"):
        with (tmp_path / folder / "history.csv").open() as file:
            without_seconds.append([{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)])
    assert without_seconds[0] == without_seconds[1]


def test_another_training_does_not_go_on(labelled: list[Atoms], tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 1, "model_args": SMALL, "seed": 5, "val": labelled[:2]}
    first = train("cgcnn", labelled, directory=tmp_path, **options)
    replay = {"replay": labelled[:1], "replay_fraction": 0.2}
    relabelled = [atoms.copy() for atoms in labelled]
    for atoms, old in zip(relabelled, labelled, strict=True):
        set_labels(atoms, Labels(get_labels(old).energy, 2 * get_labels(old).forces, get_labels(old).stress))
    others: list[tuple[Any, list[Atoms], dict[str, Any], str]] = [
        ("cgcnn", labelled, {"seed": 6}, "seed=5, not 6"),
        ("cgcnn", labelled, {"learning_rate": 0.02}, "learning_rate=0.001, not 0.02"),
        ("cgcnn", labelled, {"core": "zbl"}, "core=None, not 'zbl'"),
        ("cgcnn", labelled, {"model_args": {**SMALL, "dim1": 13}}, "model_args="),
        ("cgcnn", labelled, {"val": None}, "other val"),
        ("cgcnn", labelled, replay, "other replay"),
        ("cgcnn", labelled[:-1], {}, "other structures"),
        ("cgcnn", relabelled, {}, "other structures"),
        (first, labelled, {"model_args": None}, "another model"),
    ]
    for model, data, change, reason in others:
        with pytest.raises(CheckpointError, match=f"last.ckpt was written with .*{reason}.*: to train anew delete it"):
            train(model, data, directory=tmp_path, **{**options, **change})
    again = train("cgcnn", labelled, directory=tmp_path, **options)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    afresh = train("cgcnn", labelled, directory=tmp_path, resume=False, **{**options, "seed": 6})
    assert afresh.metadata["seed"] == 6


def test_a_start_is_the_same_from_a_file(labelled: list[Atoms], tmp_path: Path) -> None:
    start = new_network("cgcnn", labelled, model_args=SMALL, core="zbl")
    start.save(tmp_path / "start.pt")
    train(start, labelled, epochs=1, directory=tmp_path / "out")
    assert len(train(tmp_path / "start.pt", labelled, epochs=2, directory=tmp_path / "out").metadata["history"]) == 2


def test_a_state_of_an_older_version_is_refused(labelled: list[Atoms], tmp_path: Path) -> None:
    train("cgcnn", labelled, epochs=1, model_args=SMALL, directory=tmp_path)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    del state["training_identity"]
    torch.save(state, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match=r"does not say of which training it is .* delete it"):
        train("cgcnn", labelled, epochs=2, model_args=SMALL, directory=tmp_path)


def test_killed_training_goes_on(labelled: list[Atoms], tmp_path: Path) -> None:
    write_structures(tmp_path / "data.extxyz", labelled)
    script = tmp_path / "job.py"
    script.write_text(
        "import sys, torch\ntorch.set_num_threads(1)\nimport mdl_physpretrain as pp\n"
        "data = pp.read_structures(sys.argv[1])\n"
        f"pp.train('cgcnn', data, epochs=40, batch_size=4, model_args={SMALL!r}, directory=sys.argv[2])\n"
    )

    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, script, tmp_path / "data.extxyz", tmp_path / "killed"], env=env)
    last = tmp_path / "killed" / "last.ckpt"
    deadline = time.monotonic() + 300  # importing alone can take a minute on a busy machine
    while not last.is_file() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert last.is_file()
    assert process.returncode == -signal.SIGKILL
    data = read_structures(tmp_path / "data.extxyz")
    for folder in ("killed", "whole"):
        train("cgcnn", data, epochs=40, batch_size=4, model_args=SMALL, directory=tmp_path / folder)
    killed, whole = (load_model(tmp_path / f / "best.pt").state_dict() for f in ("killed", "whole"))
    assert all(torch.equal(killed[k], whole[k]) for k in whole)


def test_core_is_added_and_fixed(labelled: list[Atoms]) -> None:
    model = train("cgcnn", labelled, epochs=1, model_args=SMALL, core="zbl")
    assert isinstance(model, Sum)
    near = Atoms("MgO", [[0, 0, 0], [0.5, 0, 0]])
    with_core, without = (predict(m, build_batch(near, m.cutoff)).forces[1, 0] for m in (model, model.parts[0]))
    assert with_core - without > 100


def test_replay_mixes_the_given_share() -> None:
    sampler = EpochSampler(30, n_replay=50, replay_fraction=0.25, seed=3)
    first, again = list(sampler), list(sampler)
    assert first == again
    assert len(first) == 40
    assert sum(k >= 30 for k in first) == 10
    sampler.set_epoch(1)
    assert {k for k in list(sampler) if k >= 30} != {k for k in first if k >= 30}
    assert sorted(k for k in first if k < 30) == list(range(30))


def test_weights_decide_which_replayed_structures_are_drawn() -> None:
    weights = [0.5 / 90] * 90 + [0.5 / 110] * 110
    sampler = EpochSampler(100, n_replay=200, replay_fraction=0.1, seed=3, weights=weights)
    drawn = []
    for epoch in range(60):
        sampler.set_epoch(epoch)
        chosen = [k for k in sampler if k >= 100]
        assert len(set(chosen)) == len(chosen) == 11
        drawn += chosen
    assert 0.4 < np.mean(np.array(drawn) < 190) < 0.6
    rare = EpochSampler(100, n_replay=200, replay_fraction=0.1, seed=3, weights=[1e-9] * 195 + [1.0] * 5)
    assert {295, 296, 297, 298, 299} <= set(rare)
    with pytest.raises(ConfigError, match="replay_weights must be one positive number for each replay structure"):
        train("cgcnn", [], replay=[Atoms("H")], replay_weights=[1.0, 2.0])


def test_missing_labels_do_not_count(labelled: list[Atoms]) -> None:
    whole = get_labels(labelled[1])
    set_labels(labelled[0], Labels(energy=get_labels(labelled[0]).energy))
    set_labels(labelled[2], Labels(forces=get_labels(labelled[2]).forces))
    batch = collate([build_batch(a, 4.0) for a in labelled[:3]])
    assert batch.has_energy.tolist() == [True, True, False]
    assert batch.has_forces.tolist() == [False, True, True]
    assert batch.has_stress.tolist() == [False, True, False]
    zero = Prediction(torch.zeros(3), torch.zeros(24, 3), torch.zeros(3, 3, 3))
    energies = [get_labels(a).energy for a in labelled[:2]]
    forces = np.concatenate([get_labels(a).forces for a in labelled[1:3]])
    expected = 0.01 * np.abs(energies).mean() + 50 * np.abs(forces).mean() + 50 * np.abs(whole.stress).mean()
    assert float(EFSLoss()(zero, batch)) == pytest.approx(expected, rel=1e-5)


def test_errors_are_the_stated_means(labelled: list[Atoms]) -> None:
    model = new_network("cgcnn", labelled, model_args=SMALL)
    errors = evaluate(model, labelled, batch_size=3)
    out = [predict(model, build_batch(a, 4.0)) for a in labelled]
    labels = [get_labels(a) for a in labelled]
    energy = np.array([float(p.energy[0]) - lab.energy for p, lab in zip(out, labels, strict=True)])
    stress = np.array([p.stress[0].detach().numpy() - lab.stress for p, lab in zip(out, labels, strict=True)])
    assert errors["energy_mae"] == pytest.approx(np.abs(energy).mean(), rel=1e-4)
    assert errors["energy_per_atom_mae"] == pytest.approx(np.abs(energy).mean() / 8, rel=1e-4)
    assert errors["stress_mae"] == pytest.approx(np.abs(stress).mean(), rel=1e-4)
    assert errors["stress_mae_gpa"] == pytest.approx(np.abs(stress).mean() / GPa, rel=1e-4)
    assert errors["total"] == pytest.approx(
        0.01 * errors["energy_mae"] + 50 * errors["forces_mae"] + 50 * errors["stress_mae"], rel=1e-6
    )


def test_refusals(labelled: list[Atoms], tmp_path: Path) -> None:
    for wrong in (
        {"epochs": 0},
        {"batch_size": 0},
        {"learning_rate": -1.0},
        {"replay_fraction": 1.0},
        {"ema": 2.0},
        {"core": "iron"},
        {"model_args": {"dimm": 3}},
        {"loss": "rmse"},
    ):
        with pytest.raises(ConfigError):
            train("cgcnn", labelled, **{"epochs": 1, **wrong})
    with pytest.raises(ConfigError, match="unknown model 'cgcn'"):
        train("cgcn", labelled, epochs=1)
    with pytest.raises(StructureError):
        train("cgcnn", [], epochs=1)
    with pytest.raises(StructureError, match="validation set is empty"):
        train("cgcnn", labelled, val=[], epochs=1)
