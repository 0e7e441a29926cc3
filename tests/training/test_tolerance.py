"""Labels ask for no more than the teacher knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms

import mdl_physpretrain as pp
from mdl_physpretrain.augmentation.thermal import disorder
from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.graphs.batch import build_batch, collate
from mdl_physpretrain.potentials import Prediction
from mdl_physpretrain.recipe import Augment
from mdl_physpretrain.structures import get_labels
from mdl_physpretrain.teacher.labelled_set import augmented_labels, change_errors
from mdl_physpretrain.training import EFSLoss


@pytest.fixture
def parents(rocksalt: list[Atoms]) -> list[Atoms]:
    return list(pp.label(rocksalt, pp.ZBL(inner=0.6, outer=1.3).double()))


def test_labels_carry_what_they_may_be_wrong_by(parents: list[Atoms], tmp_path: Path) -> None:
    teacher = pp.ZBL(inner=0.5, outer=1.2).double()
    (atoms,) = disorder(parents[:1], n_aug=1, amplitude=0.2)
    (label,) = pp.label([atoms], teacher, anchor=True, parents=parents, change_error=0.25)
    change = get_labels(pp.label([atoms], teacher)[0]).forces - get_labels(pp.label(parents[:1], teacher)[0]).forces
    expected = 0.25 * np.sqrt((change**2).mean(axis=1))
    np.testing.assert_allclose(label.arrays["forces_tolerance"], expected, atol=1e-12)
    assert label.info["stress_tolerance"] > 0
    pp.write_structures(tmp_path / "a.extxyz", [label])
    (read,) = pp.read_structures(tmp_path / "a.extxyz")
    batch = build_batch(read, 4.0, torch.float64)
    np.testing.assert_allclose(batch.forces_tolerance[:, 0].numpy(), expected, atol=1e-6)
    assert float(batch.stress_tolerance) == pytest.approx(label.info["stress_tolerance"], abs=1e-8)
    (plain,) = pp.label([atoms], teacher, anchor=True, parents=parents)
    assert "forces_tolerance" not in plain.arrays


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("forces_tolerance", np.zeros((8, 3))),
        ("forces_tolerance", np.full(8, np.nan)),
        ("forces_tolerance", np.full(8, -1.0)),
        ("forces_tolerance", np.array(["a"] * 8)),
        ("forces_tolerance", np.full(8, True)),
        ("stress_tolerance", "much"),
        ("stress_tolerance", [1.0, 2.0]),
        ("stress_tolerance", float("inf")),
        ("stress_tolerance", None),
    ],
)
def test_tolerances_that_are_none_are_refused(parents: list[Atoms], field: str, value: object) -> None:
    atoms = parents[0].copy()
    (atoms.arrays if field.startswith("forces") else atoms.info)[field] = value
    if value is None:
        assert float(build_batch(atoms, 4.0).stress_tolerance) == 0
        return
    with pytest.raises(StructureError, match=r"mgo-0, field \w+: must be one number"):
        build_batch(atoms, 4.0)


def test_a_new_label_has_no_tolerance_of_an_old_one(parents: list[Atoms]) -> None:
    teacher = pp.ZBL(inner=0.5, outer=1.2).double()
    (old,) = pp.label(disorder(parents[:1], n_aug=1), teacher, anchor=True, parents=parents, change_error=0.25)
    (new,) = pp.label([old], teacher, anchor=True, parents=parents)
    assert "forces_tolerance" not in new.arrays
    assert "stress_tolerance" not in new.info


def test_only_what_is_above_the_tolerance_counts(parents: list[Atoms]) -> None:
    one, two = (build_batch(a, 4.0, torch.float64) for a in parents[:2])
    one.forces_tolerance += 0.3
    one.stress_tolerance += 0.3
    batch = collate([one, two])
    out = Prediction(batch.energy, batch.forces + 0.5, batch.stress + 0.5)
    for factor, counted in ((0.0, 0.5), (1.0, 0.5 * (0.2 + 0.5)), (2.0, 0.25)):
        loss = EFSLoss(0.0, 1.0, 1.0, tolerance=factor)
        assert float(loss(out, batch)) == pytest.approx(2 * counted)
    with pytest.raises(ConfigError, match="tolerance"):
        EFSLoss(tolerance=-1.0)


def test_the_error_of_changes_is_measured_on_the_data(parents: list[Atoms]) -> None:
    right, wrong = pp.ZBL(inner=0.6, outer=1.3).double(), pp.ZBL(inner=0.5, outer=1.2).double()
    frames = list(pp.label(disorder(parents, n_aug=2, amplitude=0.05, compression=0.0, shear=0.0), right))
    for k, atoms in enumerate(frames):
        atoms.info["structure_id"] = f"frame-{k}"
    auto = Augment(n_aug=1, change_error="auto", max_force=None)
    perfect, error = (change_errors(teacher, frames, auto) for teacher in (right, wrong))
    assert perfect is not None
    assert error is not None
    assert perfect.overall == pytest.approx(0.0, abs=1e-9)
    assert 0.01 < error.overall <= 1
    assert change_errors(wrong, frames, Augment()) is None
    assert change_errors(wrong, frames, Augment(change_error="auto", anchor=False)) is None
    labelled = augmented_labels(frames, wrong, auto).labelled
    assert all("forces_tolerance" in atoms.arrays for atoms in labelled)


def test_training_with_tolerance_differs_and_a_wide_one_learns_nothing_of_the_replay(parents: list[Atoms]) -> None:
    teacher = pp.ZBL(inner=0.5, outer=1.2).double()
    replay = list(pp.label(disorder(parents, n_aug=1), teacher, anchor=True, parents=parents, change_error=0.5))
    options = {"model_args": {"cutoff": 4.0, "dim1": 8, "dim2": 8, "gc_count": 1}, "epochs": 2, "seed": 0}
    options |= {"replay": replay, "replay_fraction": 0.5}
    losses = [
        pp.train("cgcnn", parents, replay_tolerance=t, **options).metadata["history"][-1]["train_loss"]
        for t in (0.0, 1.0, 1e6)
    ]
    assert losses[0] > losses[1] > losses[2]


def _sheared(parents: list[Atoms]) -> tuple[Atoms, list[Atoms], pp.ZBL]:
    """A parent with large forces, frames on the way back from it, and a teacher that is half as strong."""
    true, teacher = pp.ZBL(inner=0.9, outer=2.0).double(), pp.ZBL(inner=0.8, outer=1.9).double()
    rest = parents[0]
    moved = rest.copy()
    moved.calc = None
    moved.positions[::2] += [0.45, 0.0, 0.0]
    (parent,) = pp.label([moved], true)
    frames = []
    for share in (0.05, 1.0):
        frame = rest.copy()
        frame.info = {"structure_id": f"frame-{share}", "parent_id": parent.info["structure_id"]}
        frame.arrays["aug_displacement"] = share * (rest.positions - moved.positions)
        frame.positions = moved.positions + frame.arrays["aug_displacement"]
        frames.append(frame)
    return parent, frames, teacher


def test_far_from_a_parent_with_large_forces_the_teachers_own_count(parents: list[Atoms]) -> None:
    parent, frames, teacher = _sheared(parents)
    near, far = pp.label(frames, teacher, anchor=True, parents=[parent, *parents[1:]], change_error=0.5)
    own = [get_labels(atoms) for atoms in pp.label([*frames, parent], teacher)]
    assert np.abs(get_labels(parent).forces).max() > 1
    assert near.info["label_source"] == "zbl-anchored"
    assert far.info["label_source"] == "zbl-anchored-energy"
    reference = get_labels(parent)
    np.testing.assert_allclose(get_labels(near).forces, own[0].forces - own[2].forces + reference.forces, atol=1e-12)
    np.testing.assert_allclose(get_labels(far).forces, own[1].forces, atol=1e-12)
    assert get_labels(far).energy == pytest.approx(own[1].energy - own[2].energy + reference.energy, abs=1e-10)
    error = np.sqrt(((own[2].forces - reference.forces) ** 2).mean())
    expected = 0.5 * np.sqrt((own[1].forces ** 2).mean(axis=1)) + error
    np.testing.assert_allclose(far.arrays["forces_tolerance"], expected, atol=1e-10)


def test_without_a_measured_error_every_label_has_its_parents_forces(parents: list[Atoms]) -> None:
    parent, frames, teacher = _sheared(parents)
    labels = pp.label(frames, teacher, anchor=True, parents=[parent])
    assert {atoms.info["label_source"] for atoms in labels} == {"zbl-anchored"}
