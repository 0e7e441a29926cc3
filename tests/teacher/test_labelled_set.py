"""Structures beside those of Algorithm 1 are made, labelled and anchored with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

import mdl_physpretrain as pp
from mdl_physpretrain.augmentation.coverage import coverage_with, uncovered
from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.option_types import validated
from mdl_physpretrain.potentials.classical import ClassicalForceField
from mdl_physpretrain.recipe import Augment
from mdl_physpretrain.structures import Labels, get_labels, read_structures, set_labels, write_structures
from mdl_physpretrain.teacher.amplitudes import amplitudes_at
from mdl_physpretrain.teacher.labelled_set import augmented_labels, further_structures


@pytest.fixture
def parents(truth: ClassicalForceField, rocksalt: list[Atoms]) -> list[Atoms]:
    return list(pp.label(rocksalt[:4], truth))


def test_by_default_there_are_none(parents: list[Atoms], truth: ClassicalForceField) -> None:
    assert further_structures(parents, Augment()) == []
    made = augmented_labels(parents, truth, Augment(n_aug=2)).augmented
    expected = pp.augment(parents, n_aug=2)
    assert [a.info["structure_id"] for a in made] == [a.info["structure_id"] for a in expected]
    assert all(np.array_equal(a.positions, b.positions) for a, b in zip(made, expected, strict=True))


def test_labels_of_all_are_anchored_and_survive_a_file(
    parents: list[Atoms], truth: ClassicalForceField, tmp_path: Path
) -> None:
    options = Augment(n_aug=1, coverage=2, thermal_amplitude=0.1, thermal_rounds=2, max_force=None)
    result = augmented_labels(parents, truth, options)
    kinds = [("aug_round", 4), ("aug_amplitude", 8), ("aug_pair", None)]
    for key, count in kinds:
        there = sum(key in a.info for a in result.augmented)
        assert there == count if count else there > 10
    assert uncovered(coverage_with(parents, result.filtered.kept, wanted=2)) == []
    assert uncovered(coverage_with(parents, [], wanted=2)) != []

    write_structures(tmp_path / "made.extxyz", result.augmented)
    read = read_structures(tmp_path / "made.extxyz")
    again = pp.label(read, truth, anchor=True, parents=parents)
    for one, two in zip(result.labelled, again, strict=True):
        # the teacher is the reference: an anchored label is its own label
        own, first, second = (get_labels(a) for a in (pp.label([one], truth)[0], one, two))
        for labels in (first, second):
            assert labels.energy == pytest.approx(own.energy, abs=1e-6)
            np.testing.assert_allclose(labels.forces, own.forces, atol=1e-6)
            np.testing.assert_allclose(labels.stress, own.stress, atol=1e-6)


def test_a_temperature_means_the_teachers_springs(parents: list[Atoms], truth: ClassicalForceField) -> None:
    made = further_structures(parents, Augment(thermal=300.0, thermal_rounds=1, compression=0.0, shear=0.0), truth)
    largest = max(amplitudes_at(truth, parents, 300.0, factor=1.5).values())
    assert [a.info["aug_amplitude"] for a in made] == [pytest.approx(largest)] * 4
    hotter = further_structures(parents, Augment(thermal=900.0, thermal_rounds=1), truth)
    assert hotter[0].info["aug_amplitude"] > largest


def test_cells_are_strained_where_labels_can_say_what_it_costs(parents: list[Atoms]) -> None:
    bare = [set_labels(a.copy(), Labels(get_labels(a).energy, get_labels(a).forces, None)) for a in parents[:1]]
    for anchor, of, strained in ((True, parents, True), (True, bare, False), (False, bare, True)):
        (one, *_) = further_structures(of, Augment(thermal_amplitude=0.1, anchor=anchor))
        assert ("aug_strain" in one.info) is strained


def test_errors(parents: list[Atoms]) -> None:
    with pytest.raises(ConfigError, match="give the teacher \\(--teacher\\), or thermal_amplitude instead"):
        further_structures(parents, Augment(thermal=300.0))
    with pytest.raises(ConfigError, match="give 'thermal' or 'thermal_amplitude', not both"):
        validated(Augment, {"thermal": 300.0, "thermal_amplitude": 0.1})
