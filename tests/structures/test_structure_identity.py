"""Hashes, identifiers and random numbers of structures: what is in files must stay what it is."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.structures import Labels, get_labels, set_labels
from mdl_physpretrain.structures.fingerprint import structure_hash
from mdl_physpretrain.structures.identifiers import stable_id
from mdl_physpretrain.structures.randomness import structure_rng, trajectory_rng


def test_identifiers_and_streams_of_earlier_versions():
    assert stable_id(bulk("Cu")) == "Cu-15156bb69596"
    assert structure_rng(3, "cu-0").integers(0, 10**9, 3).tolist() == [879908281, 665026550, 737362375]
    assert trajectory_rng(3, "cu-0").integers(0, 10**9, 3).tolist() == [363050477, 281367014, 25679788]
    with pytest.raises(ConfigError, match="seed must be"):
        structure_rng(-1, "cu-0")


@pytest.mark.parametrize(
    ("change", "noticed_with"),
    [
        (lambda a: a.positions.__setitem__((0, 0), a.positions[0, 0] + 1e-12), set()),
        (lambda a: a.numbers.__setitem__(0, 3), set()),
        (lambda a: a.set_cell(a.cell.array * (1 + 1e-12)), set()),
        (lambda a: a.set_pbc((True, True, False)), set()),
        (lambda a: a.set_masses([50.0, *a.get_masses()[1:]]), {"masses"}),
        (lambda a: a.set_velocities(np.ones((len(a), 3))), {"velocities"}),
        (lambda a: set_labels(a, Labels(1.0, get_labels(a).forces, get_labels(a).stress)), {"labels"}),
        (lambda a: set_labels(a, Labels(get_labels(a).energy, None, get_labels(a).stress)), {"labels"}),
    ],
    ids=["position", "element", "cell", "pbc", "mass", "velocity", "energy", "no forces"],
)
def test_the_hash_sees_what_it_is_asked_to_see(rocksalt, change, noticed_with):
    atoms = rocksalt[0]
    kinds = ({}, {"masses": True}, {"velocities": True}, {"labels": True})
    before = [structure_hash(atoms, **kind) for kind in kinds]
    calculator = atoms.calc
    change(atoms)
    atoms.calc = calculator if noticed_with != {"labels"} else atoms.calc
    after = [structure_hash(atoms, **kind) for kind in kinds]
    for kind, old, new in zip(kinds, before, after, strict=True):
        assert (old != new) == (not noticed_with or set(kind) == noticed_with)
    assert len({*before, *after}) == 4 + (4 if not noticed_with else 1)


def test_what_is_no_part_of_the_structure_does_not_count(rocksalt):
    atoms = rocksalt[0].copy()
    atoms.info["structure_id"] = "other"
    atoms.info["config_type"] = "x"
    assert structure_hash(atoms) == structure_hash(rocksalt[0])
