"""What a label may be wrong by is measured for each composition: a teacher may know one and not another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes

import mdl_physpretrain as pp
from mdl_physpretrain.recipe import Augment
from mdl_physpretrain.structures import get_labels
from mdl_physpretrain.structures.labels import set_labels
from mdl_physpretrain.teacher.change_errors import ChangeErrors, measured_change_errors
from mdl_physpretrain.teacher.labelled_set import change_errors


class Springs(Calculator):
    """Atoms at springs to their places; those of gold may have another strength than the truth's."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, gold: float = 1.0) -> None:
        super().__init__()
        self.gold = gold

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:  # type: ignore[no-untyped-def]
        super().calculate(atoms, properties, system_changes)
        moves = atoms.positions - atoms.arrays["place"]
        strength = (self.gold if "Au" in atoms.symbols else 1.0) * 2.0
        self.results = {"energy": strength * (moves**2).sum() / 2, "forces": -strength * moves}


def _frames(element: str, count: int, *, still: bool = False) -> list[Atoms]:
    """Frames of one crystal, moved at random."""
    rng = np.random.default_rng(len(element) + count)
    frames = []
    for k in range(count):
        atoms = bulk(element, cubic=True)
        atoms.set_array("place", atoms.positions.copy())
        atoms.positions += rng.normal(0, 0.05, (len(atoms), 3))
        truth = atoms.copy()
        truth.calc = Springs()
        forces = np.zeros((len(atoms), 3)) if still else truth.get_forces()
        set_labels(atoms, replace(get_labels(atoms), energy=truth.get_potential_energy(), forces=forces))
        atoms.info["structure_id"] = f"{element}-{k}"
        frames.append(atoms)
    return frames


def test_each_composition_has_its_own_error() -> None:
    found = measured_change_errors(Springs(gold=1.5), [*_frames("Cu", 8), *_frames("Au", 8)])
    assert found is not None
    skills = found.skills
    assert {name: skill.pairs for name, skill in skills.items()} == {"Au4": 27, "Cu4": 27}
    assert skills["Au4"].error == pytest.approx(0.5 * skills["Au4"].trivial)
    assert skills["Cu4"].error == pytest.approx(0.0, abs=1e-9)
    assert 0.15 < found.overall < 0.35
    # 27 pairs of frames, and six of the error over all data
    assert found.of_composition["Cu4"] == pytest.approx(6 * found.overall / 33)
    assert found.of_composition["Au4"] == pytest.approx((27 * 0.5 + 6 * found.overall) / 33)
    assert found.of(bulk("Au", cubic=True)) == found.of_composition["Au4"]
    assert found.of(bulk("Au")) == found.overall  # other atoms


def test_few_pairs_say_little_and_the_error_is_at_most_one() -> None:
    found = measured_change_errors(Springs(gold=9.0), [*_frames("Cu", 8), *_frames("Au", 2)])
    assert found is not None
    assert found.skills["Au4"].error > 7 * found.skills["Au4"].trivial
    assert found.of_composition["Au4"] == pytest.approx((1 + 6 * found.overall) / 7)
    assert found.overall <= 1


def test_where_nothing_changes_the_overall_error_stands() -> None:
    found = measured_change_errors(Springs(gold=1.5), [*_frames("Cu", 4, still=True), *_frames("Au", 4)])
    assert found is not None
    assert found.skills["Cu4"].trivial == 0
    assert found.of(bulk("Cu", cubic=True)) == found.overall
    assert found.table()["composition"].tolist() == ["Au4", "Cu4"]
    assert found.table().set_index("composition").loc["Cu4", "expected"] == found.overall
    assert measured_change_errors(Springs(), _frames("Cu", 4, still=True)) is None
    assert measured_change_errors(Springs(), _frames("Cu", 1)) is None


def test_tolerances_of_labels_follow_the_composition_and_the_noted_error_does_not() -> None:
    frames = [*_frames("Cu", 8), *_frames("Au", 8)]
    errors = measured_change_errors(Springs(gold=1.5), frames)
    assert errors is not None
    options = {"n_aug": 1, "max_force": None, "min_distance_factor": None}
    one = change_errors(Springs(gold=1.5), frames, Augment(change_error="auto", **options))
    assert one == ChangeErrors(errors.overall, skills=errors.skills)
    assert change_errors(Springs(gold=1.5), frames, Augment(change_error=0.3, **options)) == ChangeErrors(0.3)
    parents = {atoms.info["structure_id"]: atoms for atoms in frames}
    children = []
    for name, parent in parents.items():
        child = parent.copy()
        child.info = {"structure_id": f"{name}-child", "parent_id": name}
        child.arrays["aug_displacement"] = np.full((4, 3), 0.1)
        child.positions += 0.1
        children.append(child)
    labelled = pp.label(children, Springs(gold=1.5), anchor=True, parents=frames, change_error=errors)
    assert len(labelled) == 16
    for atoms in labelled:
        strength = 3.0 if "Au" in atoms.symbols else 2.0
        np.testing.assert_allclose(atoms.arrays["forces_tolerance"], errors.of(atoms) * strength * 0.1, rtol=1e-6)
        assert atoms.info["change_error"] == errors.overall
