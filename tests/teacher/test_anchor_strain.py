"""Anchored labels of structures whose cell was strained."""

import numpy as np
import pytest

import mdl_physpretrain as pp
from mdl_physpretrain.augmentation.thermal import disorder
from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.graphs.batch import build_batch
from mdl_physpretrain.potentials import predict
from mdl_physpretrain.structures.labels import Labels, get_labels, set_labels


def _labelled_by(model, structures):
    made = []
    for atoms in structures:
        out = predict(model, build_batch(atoms, model.cutoff, model.dtype))
        stress = out.stress[0].detach().double().numpy()
        made.append(set_labels(atoms.copy(), Labels(float(out.energy), out.forces.detach().double().numpy(), stress)))
    return made


def test_a_linear_error_of_the_teacher_is_removed(rocksalt):
    """Reference and teacher differ to second order after anchoring, in energy, forces and stress."""
    teacher, reference = pp.ZBL(inner=0.5, outer=1.2).double(), pp.ZBL(inner=0.6, outer=1.3).double()
    parents = _labelled_by(reference, rocksalt)
    errors = []
    for size in (0.02, 0.01):
        made = disorder(parents, n_aug=1, amplitude=size, compression=size, shear=size, seed=1)
        labels = pp.label(made, teacher, anchor=True, parents=parents)
        right = _labelled_by(reference, made)
        errors.append([abs(get_labels(a).energy - get_labels(b).energy) for a, b in zip(labels, right, strict=True)])
        plain = pp.label(made, teacher)
        unanchored = [abs(get_labels(a).energy - get_labels(b).energy) for a, b in zip(plain, right, strict=True)]
        assert max(errors[-1]) < 0.2 * max(unanchored)
    assert np.mean(errors[1]) < 0.35 * np.mean(errors[0])  # quadratic: a quarter


@pytest.mark.parametrize("reach", [None, 0.15])
def test_forces_are_the_slope_of_the_energy(rocksalt, reach):
    teacher, reference = pp.ZBL(inner=0.5, outer=1.2).double(), pp.ZBL(inner=0.6, outer=1.3).double()
    parents = _labelled_by(reference, rocksalt[:1])
    (atoms,) = disorder(parents, n_aug=1, amplitude=0.1, compression=0.05, shear=0.05)
    back = np.linalg.inv(np.eye(3) + atoms.info["aug_strain"])
    energies = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[2, 1] += sign * 1e-4
        moved.arrays["aug_displacement"] = moved.positions @ back - parents[0].positions
        energies.append(
            get_labels(pp.label([moved], teacher, anchor=True, anchor_reach=reach, parents=parents)[0]).energy
        )
    forces = get_labels(pp.label([atoms], teacher, anchor=True, anchor_reach=reach, parents=parents)[0]).forces
    assert forces[2, 1] == pytest.approx((energies[1] - energies[0]) / 2e-4, rel=1e-4, abs=1e-6)


def test_with_a_reach_far_labels_are_the_teachers_and_near_ones_anchored(rocksalt):
    teacher, reference = pp.ZBL(inner=0.5, outer=1.2).double(), pp.ZBL(inner=0.6, outer=1.3).double()
    parents = _labelled_by(reference, rocksalt[:1])
    made = disorder(parents, n_aug=1, amplitude=0.1, compression=0.0, shear=0.0)
    plain, whole, far, near = (
        get_labels(pp.label(made, teacher, anchor=anchor, anchor_reach=reach, parents=parents)[0])
        for anchor, reach in ((False, None), (True, None), (True, 1e-3), (True, 1e3))
    )
    np.testing.assert_allclose(far.forces, plain.forces, atol=1e-9)
    np.testing.assert_allclose(near.forces, whole.forces, atol=1e-4)
    np.testing.assert_allclose(near.stress, whole.stress, atol=1e-6)
    assert np.abs(whole.forces - plain.forces).max() > 1e-3
    with pytest.raises(ConfigError, match="anchor_reach"):
        pp.label(made, teacher, anchor=True, anchor_reach=0.0, parents=parents)


def test_the_strain_is_checked_and_travels_in_files(rocksalt, tmp_path):
    teacher = pp.ZBL(inner=0.5, outer=1.2)
    made = disorder(rocksalt, n_aug=1, amplitude=0.1)
    pp.write_structures(tmp_path / "made.extxyz", made)
    read = pp.read_structures(tmp_path / "made.extxyz")
    direct = pp.label(made, teacher, anchor=True, parents=rocksalt)
    again = pp.label(read, teacher, anchor=True, parents=rocksalt)
    for a, b in zip(direct, again, strict=True):
        assert np.allclose(get_labels(a).forces, get_labels(b).forces, atol=1e-4)
        assert get_labels(a).energy == pytest.approx(get_labels(b).energy, abs=1e-4)
    del made[0].info["aug_strain"]
    with pytest.raises(StructureError, match="is not its parent"):
        pp.label(made, teacher, anchor=True, parents=rocksalt)
