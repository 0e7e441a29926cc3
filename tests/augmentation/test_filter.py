"""The label filter: each reason, counts, references."""

import json

import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator

from mdl_physpretrain.augmentation import augment, filter_labels
from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.structures.validation import refuse_damaged


def _set(atoms, **changes):
    results = {**atoms.calc.results, **changes}
    atoms.calc = SinglePointCalculator(atoms, **{k: v for k, v in results.items() if v is not None})


def test_each_reason_is_counted(rocksalt):
    forces = np.zeros((8, 3))
    forces[3] = [20, 20, 15]  # norm 32.0 although no component exceeds 30
    _set(rocksalt[1], forces=forces)
    _set(rocksalt[2], energy=np.nan)
    forces = np.zeros((8, 3))
    forces[0, 2] = np.inf
    _set(rocksalt[3], forces=forces)
    rocksalt[4].calc = None
    _set(rocksalt[5], stress=np.full(6, 0.6))
    rocksalt[6].positions[0] = rocksalt[6].positions[1] + [0.4, 0, 0]
    result = filter_labels(rocksalt, max_force=30.0, max_stress=0.5, min_distance=0.5)
    assert [a.info["structure_id"] for a in result.kept] == ["mgo-0", "mgo-7"]
    assert result.kept[0] is rocksalt[0]
    assert result.removed == [
        ("mgo-1", "max_force"),
        ("mgo-2", "non_finite"),
        ("mgo-3", "non_finite"),
        ("mgo-4", "no_label"),
        ("mgo-5", "max_stress"),
        ("mgo-6", "min_distance"),
    ]
    assert {k: v for k, v in result.counts.items() if v} == {
        "max_force": 1,
        "non_finite": 2,
        "no_label": 1,
        "max_stress": 1,
        "min_distance": 1,
    }
    assert result.values[0] == pytest.approx(1025**0.5)
    assert result.values[-1] == pytest.approx(0.4)
    stored = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert (stored["n_structures"], stored["n_kept"], stored["n_removed"]) == (8, 2, 6)
    assert stored["limits"]["max_force"] == 30.0
    assert stored["removed"][1] == {"structure_id": "mgo-2", "reason": "non_finite", "value": None}


def test_atoms_on_top_of_each_other_are_never_kept(rocksalt):
    rocksalt[2].positions[0] = rocksalt[2].positions[1]  # as Algorithm 1 may pull them
    rocksalt[4].positions[0] = rocksalt[4].positions[1] + [0.02, 0, 0]
    limits = dict.fromkeys(("max_force", "max_energy_per_atom", "max_stress", "min_distance", "min_distance_factor"))
    result = filter_labels(rocksalt, **limits)
    assert result.removed == [("mgo-2", "min_distance")]
    assert result.values == [0.0]
    refuse_damaged(result.kept)


def test_partial_labels_are_kept(rocksalt):
    _set(rocksalt[0], forces=None, stress=None)
    _set(rocksalt[1], energy=None)
    result = filter_labels(rocksalt[:2], max_energy_per_atom=1.0, reference=rocksalt[:1], max_stress=1.0)
    assert result.kept == rocksalt[:2]  # mgo-1 has no energy to compare, and needs no reference


def test_energy_above_parent(rocksalt):
    made = augment(rocksalt[:2], n_aug=2)
    for k, (atoms, excess) in enumerate(zip(made, (0.2, 0.6, -0.9, 0.49), strict=True)):
        energy = rocksalt[k // 2].calc.results["energy"] + 8 * excess
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.zeros((8, 3)))
    result = filter_labels(made, max_energy_per_atom=0.5, reference=rocksalt)
    assert result.removed == [("mgo-0-aug1", "max_energy_per_atom")]
    assert result.values == pytest.approx([0.6])
    with pytest.raises(StructureError, match=r"mgo-1-aug0.*parent mgo-1"):
        filter_labels(made, max_energy_per_atom=0.5, reference=rocksalt[:1])
    with pytest.raises(ConfigError, match="reference"):
        filter_labels(made, max_energy_per_atom=0.5)


def test_energy_above_elements(rocksalt):
    energies = np.array([a.calc.results["energy"] for a in rocksalt])
    limit = float(np.sort(energies)[3:5].mean() / 8)
    result = filter_labels(rocksalt, max_energy_per_atom=limit + 6, reference={"Mg": -7.0, "O": -5.0})
    assert result.counts["max_energy_per_atom"] == 4
    with pytest.raises(StructureError, match="no energy of O"):
        filter_labels(rocksalt, max_energy_per_atom=1.0, reference={"Mg": -6.0})


def test_distance_in_covalent_radii(rocksalt):
    # nearest neighbours 2.0-2.2 Å, Mg + O radii 1.41 + 0.66 Å
    assert len(filter_labels(rocksalt, min_distance_factor=0.8).kept) == 8
    assert len(filter_labels(rocksalt, min_distance_factor=1.2).kept) == 0


def test_bad_limits_and_shapes(rocksalt):
    with pytest.raises(ConfigError, match="max_force"):
        filter_labels(rocksalt, max_force=0.0)
    rocksalt[1].calc.results["forces"] = np.zeros((3, 3))
    with pytest.raises(StructureError, match=r"mgo-1.*forces"):
        filter_labels(rocksalt)
