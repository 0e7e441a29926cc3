"""The labelled set of method "coverage"."""

import numpy as np

import mdl_physpretrain as pp
from mdl_physpretrain.augmentation.coverage import coverage_table, uncovered
from mdl_physpretrain.recipe import Augment
from mdl_physpretrain.structures import get_labels
from mdl_physpretrain.structures.labels import Labels, set_labels
from mdl_physpretrain.teacher.fit_ionic import fit_ionic
from mdl_physpretrain.teacher.labelled_set import augmented_labels


def test_every_distance_is_labelled_and_all_atoms_move(rocksalt):
    teacher = fit_ionic(rocksalt)
    options = Augment(method="coverage", coverage={"per_bin": 2, "disorder": 2}, max_force=None)
    made = augmented_labels(rocksalt, teacher, options)
    kinds = [a.info["structure_id"].removeprefix(a.info["parent_id"]) for a in made.filtered.kept]
    hot = [k for k in kinds if k.startswith("-heat")]
    assert len(hot) == 2 * len(rocksalt)
    assert len(kinds) > 3 * len(hot) / 2
    before = coverage_table(rocksalt, wanted=2)
    assert uncovered(before) != []
    assert uncovered(coverage_table([*rocksalt, *made.filtered.kept], before, wanted=2)) == []
    assert all(get_labels(a).forces is not None for a in made.filtered.kept)
    disordered = [a for a in made.augmented if "aug_amplitude" in a.info]
    assert all(np.linalg.norm(a.arrays["aug_displacement"], axis=1).min() > 0 for a in disordered)
    again = augmented_labels(rocksalt, teacher, options)
    assert all(np.array_equal(a.positions, b.positions) for a, b in zip(made.augmented, again.augmented, strict=True))


def test_cells_keep_their_shape_where_no_stress_can_anchor_them(rocksalt):
    bare = [set_labels(a.copy(), Labels(get_labels(a).energy, get_labels(a).forces, None)) for a in rocksalt]
    made = augmented_labels(bare, pp.ZBL(), Augment(method="coverage", coverage={"per_bin": 1, "disorder": 1}))
    assert not any("aug_strain" in a.info for a in made.augmented)
