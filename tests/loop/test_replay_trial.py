"""Trial of a network in MD of training structures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

import mdl_physpretrain as pp
from mdl_physpretrain.loop import replay_trial
from mdl_physpretrain.loop.replay_trial import ReplayTrial
from mdl_physpretrain.potentials.classical import ClassicalForceField
from mdl_physpretrain.recipe import MD


@pytest.fixture
def crystals() -> list[Atoms]:
    made = [bulk("Cu", "fcc", a=3.6, cubic=True).repeat((2, 1, 1)) for _ in range(4)]
    made.append(bulk("Cu", "fcc", a=3.6))  # one atom, which does not move
    for k, atoms in enumerate(made):
        atoms.info["structure_id"] = f"cu-{k}"
    return made


def _oxide() -> list[Atoms]:
    made = []
    for k in range(2):
        atoms = bulk("MgO", "rocksalt", a=5.7, cubic=True)
        atoms.info["structure_id"] = f"mgo-{k}"
        made.append(atoms)
    return made


def _stiff() -> ClassicalForceField:
    model = ClassicalForceField(["O", "Mg"]).double()
    with torch.no_grad():
        model.charges.copy_(torch.tensor([-1.3, 1.3]))
        model.strengths[0, 2], model.strengths[1, 1], model.strengths[0, 4] = 2.5, 6.7, 0.23
    return model


def test_only_some_structures_that_can_move_are_simulated(crystals: list[Atoms]) -> None:
    trial = ReplayTrial(crystals, MD, 3)
    chosen = [atoms.info["structure_id"] for atoms in trial.starts()]
    assert len(chosen) == 3
    assert chosen == sorted(chosen)
    assert "cu-4" not in chosen
    assert chosen == [atoms.info["structure_id"] for atoms in ReplayTrial(crystals, MD, 3).starts()]
    assert len(ReplayTrial(crystals, MD, 16).starts()) == 4
    assert (
        len({tuple(a.info["structure_id"] for a in ReplayTrial(crystals, MD, 2, seed=s).starts()) for s in range(9)})
        > 1
    )
    assert ReplayTrial([crystals[-1]], MD, 3)(pp.ZBL().double(), None) == (0, 0)


def test_small_cells_and_surfaces_are_no_judges(crystals: list[Atoms]) -> None:
    small = bulk("Cu", "fcc", a=3.6, cubic=True)
    surface = crystals[0].copy()
    surface.set_cell(surface.cell.array * [[1, 1, 1], [1, 1, 1], [2, 2, 2]])
    cluster = Atoms("Cu9", np.random.default_rng(0).uniform(0, 6, (9, 3)))
    for atoms, name in ((small, "small"), (surface, "surface"), (cluster, "cluster")):
        atoms.info["structure_id"] = name
    data = [small, surface, cluster, *crystals]
    assert [a.info["structure_id"] for a in ReplayTrial(data, MD, 16).starts()] == ["cu-0", "cu-1", "cu-2", "cu-3"]
    assert [a.info["structure_id"] for a in ReplayTrial([small, crystals[-1]], MD, 16).starts()] == ["small"]
    assert [a.info["structure_id"] for a in ReplayTrial([cluster], MD, 16).starts()] == ["cluster"]


def test_what_is_lost_is_counted_and_not_simulated_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_trial, "STEPS", 400)
    seen: list[float] = []
    simulate = replay_trial.simulate

    def noting(*arguments: Any, **options: Any) -> Any:
        seen.append(options["temperature"])
        return simulate(*arguments, **options)

    monkeypatch.setattr(replay_trial, "simulate", noting)
    md = MD.model_copy(update={"temperature": 100.0, "timestep": 2.0, "interval": 1})
    trial = ReplayTrial(_oxide(), md, 2, device="cpu")
    assert trial(_stiff(), tmp_path) == (0, 2)
    hot = replace(trial, md=md.model_copy(update={"temperature": 20000.0}))
    assert hot(_stiff(), None) == (2, 2)
    assert seen == [120.0, 24000.0]
    assert trial(_stiff(), tmp_path) == (0, 2)
    assert (tmp_path / "trial.runs.npz").is_file()
