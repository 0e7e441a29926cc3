"""Probe of stiffness: soft potentials are seen, noise of the labels and constant errors are not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator

import mdl_physpretrain as pp
from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.probes.base import Subject
from mdl_physpretrain.probes.stiffness import Stiffness, change_errors
from mdl_physpretrain.structures.labels import Labels, get_labels, set_labels


@pytest.fixture
def frames(rocksalt: list[Atoms]) -> list[Atoms]:
    made = []
    for k in range(7):
        atoms = rocksalt[0].copy()
        atoms.rattle(0.05, seed=k)
        atoms.info["structure_id"] = f"frame-{k}"
        made.append(atoms)
    return list(pp.label(made, _potential(1.0)))


def _potential(factor: float) -> pp.EnergyModel:
    return pp.Sum([pp.ZBL(inner=0.9, outer=2.0).double()], factors=[factor])


def _shifted(frames: list[Atoms], shift: float, noise: float) -> list[Atoms]:
    rng = np.random.default_rng(0)
    made = []
    for atoms in frames:
        forces = get_labels(atoms).forces
        assert forces is not None
        changed = forces + shift + noise * forces.std() * rng.normal(size=forces.shape)
        made.append(set_labels(atoms.copy(), Labels(None, changed, None)))
    return made


def test_a_soft_potential_is_seen_through_constant_errors_and_noise(frames: list[Atoms]) -> None:
    for factor in (1.0, 0.6, 1.5):
        for shift, noise, tolerance in ((0.0, 0.0, 1e-6), (0.3, 0.0, 1e-6), (0.0, 1.0, 0.1)):
            found = change_errors(_potential(factor), _shifted(frames, shift, noise))
            assert found is not None
            assert found["stiffness"] == pytest.approx(factor, rel=tolerance)
            assert found["pairs"] == 21
    perfect = change_errors(_potential(1.0), frames)
    assert perfect is not None
    assert perfect["error"] < 1e-9 < perfect["trivial"]


def test_the_probe_answers_and_has_a_table(frames: list[Atoms]) -> None:
    probe = Stiffness()
    tables = {
        arm: probe.tables(Subject(_potential(factor), splits={"test": frames}))["stiffness"].assign(arm=arm, seed=0)
        for arm, factor in (("soft", 0.5), ("good", 1.0))
    }
    kind, words = probe.answer({"stiffness": tables["soft"]}) or ("", "")
    assert kind == "value"
    assert words.startswith("0.50 (21 pairs of frames; error")
    part = probe.page({"stiffness": pd.concat(tables.values())}, ["good", "soft"], "Arm")
    assert part is not None
    assert part.table is not None
    assert [[cell.text for cell in row[:2]] for row in part.table.rows] == [["good", "1"], ["soft", "0.5"]]
    few = probe.tables(Subject(_potential(0.5), splits={"test": frames[:3]}))["stiffness"]
    assert (probe.answer({"stiffness": few}) or ("",))[0] == "not judged"


def test_nothing_is_said_without_frames_of_the_same_atoms(rocksalt: list[Atoms], frames: list[Atoms]) -> None:
    probe = Stiffness()
    alone = list(pp.label(rocksalt[:1], _potential(1.0)))
    nothing = probe.tables(Subject(_potential(1.0), splits={"test": alone}))["stiffness"].assign(arm="one", seed=0)
    assert nothing["pairs"].tolist() == [0]
    assert (probe.answer({"stiffness": nothing}) or ("",))[0] == "not judged"
    assert probe.page({"stiffness": nothing}, ["one"], "Arm") is None
    assert probe.answer({}) is None
    assert probe.page({}, ["one"], "Arm") is None

    class Failing(Calculator):
        implemented_properties = ("energy", "forces")

        def calculate(self, *args: object, **words: object) -> None:
            raise RuntimeError("no numbers today")

    with pytest.raises(StructureError, match="no numbers today"):
        change_errors(Failing(), frames)
