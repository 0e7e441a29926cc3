"""Rounds of the closed loop on small cells: what they label, how they go on, what they refuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ase import Atoms

import mdl_physpretrain as pp
from mdl_physpretrain import recipe
from mdl_physpretrain.errors import CheckpointError
from mdl_physpretrain.loop import LoopData, close_loop, run_round
from mdl_physpretrain.loop import rounds as module
from mdl_physpretrain.potentials import EnergyModel
from mdl_physpretrain.structures import get_labels

NETWORK = {"cutoff": 4.0, "dim1": 8, "dim2": 8, "gc_count": 1, "edge_dim": 12}
OPTIONS = recipe.Loop(
    rounds=1, n_structures=2, steps=20, temperature=2000.0, per_bin=1, epochs=2, frames_lost=2, tolerance=1.0
)


@pytest.fixture
def data(rocksalt: list[Atoms]) -> LoopData:
    teacher = pp.ZBL()
    structures = pp.label(rocksalt, teacher)
    replay = pp.label(pp.augment(structures[:5], n_aug=1, pull=0.2, perturb=0.2), teacher, parents=structures)
    augment = recipe.Augment(max_force=200.0)
    return LoopData(
        structures[:5], structures[5:], replay, teacher, OPTIONS, augment, recipe.Finetune(epochs=1), recipe.MD,
        device="cpu",
    )  # fmt: skip


@pytest.fixture
def network(data: LoopData) -> EnergyModel:
    return pp.finetune("cgcnn", data.structures, val=data.val, model_args=NETWORK, epochs=1)


def same(first: EnergyModel, second: EnergyModel) -> bool:
    states = first.state_dict(), second.state_dict()
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_round_labels_what_fails_and_trains_on(data: LoopData, network: EnergyModel, tmp_path: Path) -> None:
    done = run_round(data, network, [], number=1, directory=tmp_path)
    facts = done.facts
    assert facts["n_trajectories"] == 2
    assert facts["holes"]  # a network that saw five cells for one epoch has no core
    assert not facts["passed"]
    assert facts["n_new"] == len(done.labelled) > 0
    assert facts["n_removed"] == facts["n_labelled"] - facts["n_new"]
    names = [a.info["structure_id"] for a in done.labelled]
    assert len(set(names)) == len(names)
    parents = {a.info["structure_id"] for a in data.structures}
    assert {a.info["parent_id"] for a in done.labelled} <= parents  # of training structures only
    assert {a.info["label_source"] for a in done.labelled} == {"zbl-anchored"}
    forces = [get_labels(a).forces for a in done.labelled]
    assert max(float((f**2).sum(1).max() ** 0.5) for f in forces if f is not None) <= 200.0
    assert facts["accepted"] is True
    assert not same(done.potential, network)
    assert done.potential.metadata["best_val_loss"] == facts["total_after"]

    def never(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a finished round is read")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "finetune", never)
        patch.setattr(module, "examined_motion", never)
        again = run_round(data, network, [], number=1, directory=tmp_path)
    assert same(again.potential, done.potential)
    assert again.facts == facts
    assert [a.info["structure_id"] for a in again.labelled] == names
    for other in (replace(data, seed=1), replace(data, options=OPTIONS.model_copy(update={"steps": 21}))):
        with pytest.raises(CheckpointError, match="holds a round of a loop with other data, options, seed or network"):
            run_round(other, network, [], number=1, directory=tmp_path)
    longer = replace(data, options=OPTIONS.model_copy(update={"rounds": 5}))
    assert run_round(longer, network, [], number=1, directory=tmp_path).facts == facts


def test_an_interrupted_round_ends_as_if_it_had_not_been(data: LoopData, network: EnergyModel, tmp_path: Path) -> None:
    whole = run_round(data, network, [], number=1)
    for victim in ("label", "pair_holes", "finetune"):
        real = getattr(module, victim)

        def dying(*arguments: Any, _real: Any = real, **options: Any) -> Any:
            _real(*arguments, **options)
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, victim, dying)
            with pytest.raises(KeyboardInterrupt):
                run_round(data, network, [], number=1, directory=tmp_path)
    done = run_round(data, network, [], number=1, directory=tmp_path)
    assert same(done.potential, whole.potential)
    assert done.facts == whole.facts


def test_a_round_that_costs_accuracy_is_refused(data: LoopData, network: EnergyModel, tmp_path: Path) -> None:
    wild = OPTIONS.model_copy(update={"learning_rate": 5.0, "epochs": 1, "tolerance": 0.0})
    done = run_round(replace(data, options=wild), network, [], number=1, directory=tmp_path)
    assert done.facts["total_after"] > done.facts["total_before"]
    assert done.facts["accepted"] is False
    assert same(done.potential, network)
    assert same(pp.load_model(tmp_path / "best.pt"), network)
    assert done.labelled  # the next round learns from them, too


def test_a_network_that_passes_is_left_as_it_is(data: LoopData) -> None:
    core = pp.ZBL()
    core.metadata = {"best_val_loss": 1.0}
    calm = OPTIONS.model_copy(update={"rounds": 3, "steps": 5, "temperature": 10.0})
    result = close_loop(replace(data, options=calm), core)
    assert result.potential is core
    assert result.labelled == []
    assert result.rounds[["round", "n_lost", "holes", "n_new", "val_total"]].to_numpy().tolist() == [[0, 0, "", 0, 1.0]]


def test_the_table_has_a_row_per_network(data: LoopData, network: EnergyModel, tmp_path: Path) -> None:
    result = close_loop(data, network, directory=str(tmp_path))
    assert list(result.rounds["round"]) == [0, 1]
    assert list(result.rounds["n_new"]) == [0, len(result.labelled)]
    assert result.rounds["val_total"].iloc[0] == network.metadata["best_val_loss"]
    assert (result.rounds["seconds"] > 0).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["round-1", "round-2"]
