"""Frames of the teacher's own molecular dynamics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

import mdl_physpretrain as pp
from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.potentials.classical import ClassicalForceField
from mdl_physpretrain.recipe import Augment
from mdl_physpretrain.structures import get_labels
from mdl_physpretrain.teacher.labelled_set import augmented_labels
from mdl_physpretrain.teacher.motion import thermal_motion


def test_frames_move_as_the_temperature_says() -> None:
    crystals = [bulk("Cu", cubic=True), bulk("Au", cubic=True)]
    for k, atoms in enumerate(crystals):
        atoms.info["structure_id"] = f"metal-{k}"
    cold, warm = (thermal_motion(crystals, EMT, t, frames=6, duration=200.0, hotter=1.0, seed=1) for t in (50.0, 800.0))
    size = [np.sqrt(np.mean([a.arrays["aug_displacement"] ** 2 for a in frames])) for frames in (cold, warm)]
    assert 2 < size[1] / size[0] < 8  # the root of 16 in a harmonic crystal
    assert [a.info["structure_id"] for a in cold[:2]] == ["metal-0-md0", "metal-0-md1"]
    assert {a.info["parent_id"] for a in cold} == {"metal-0", "metal-1"}


def test_every_second_frame_is_hotter_and_order_changes_nothing(
    truth: ClassicalForceField, rocksalt: list[Atoms]
) -> None:
    frames = thermal_motion(rocksalt[:2], truth, 300.0, frames=4, duration=100.0, hotter=2.0)
    assert [a.info["aug_temperature"] for a in frames] == [300.0, 600.0] * 4
    back = thermal_motion(rocksalt[1::-1], truth, 300.0, frames=4, duration=100.0, hotter=2.0)
    by_id = {a.info["structure_id"]: a for a in back}
    for atoms in frames:
        np.testing.assert_allclose(by_id[atoms.info["structure_id"]].positions, atoms.positions, atol=1e-6)
    assert len(thermal_motion(rocksalt, truth, 300.0, frames=1, duration=20.0, most=3)) == 3


def test_anchored_labels_of_frames(truth: ClassicalForceField, rocksalt: list[Atoms], tmp_path: Path) -> None:
    parents = list(pp.label(rocksalt[:3], truth))
    options = Augment(n_aug=0, thermal=300.0, thermal_method="md", thermal_rounds=4, thermal_time=100.0)
    result = augmented_labels(parents, truth, options, resume=tmp_path / "journal")
    assert len(result.filtered.kept) == 12
    own = pp.label(result.augmented, truth)
    for one, two in zip(result.labelled, own, strict=True):  # the teacher is the reference
        np.testing.assert_allclose(get_labels(one).forces, get_labels(two).forces, atol=1e-6)
    before = sorted((tmp_path / "journal.motion").rglob("*.extxyz"))
    assert before
    stamps = [f.stat().st_mtime_ns for f in before]
    again = augmented_labels(parents, truth, options, resume=tmp_path / "journal")
    assert [f.stat().st_mtime_ns for f in before] == stamps  # nothing was simulated again
    for one, two in zip(result.augmented, again.augmented, strict=True):
        np.testing.assert_array_equal(one.positions, two.positions)


def test_any_calculator_moves() -> None:
    copper = bulk("Cu", cubic=True)
    copper.info["structure_id"] = "cu"
    frames = thermal_motion([copper], EMT, 500.0, frames=2, duration=60.0)
    assert [a.info["structure_id"] for a in frames] == ["cu-md0", "cu-md1"]
    assert 0.02 < np.abs(frames[1].arrays["aug_displacement"]).max() < 1


def test_options_out_of_range_are_refused(truth: ClassicalForceField, rocksalt: list[Atoms]) -> None:
    with pytest.raises(ConfigError, match="must be positive"):
        thermal_motion(rocksalt, truth, 0.0)
