"""The closest pair against brute force over images."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from ase import Atoms

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.stability.overlap import closest_pair


def brute_force(atoms: Atoms, images: int = 3) -> float:
    ranges = [range(-images, images + 1) if p else (0,) for p in atoms.pbc]
    best = np.inf
    for shift in itertools.product(*ranges):
        offset = np.array(shift) @ atoms.cell.array
        for i, j in itertools.product(range(len(atoms)), repeat=2):
            if i != j or any(shift):
                best = min(best, np.linalg.norm(atoms.positions[j] + offset - atoms.positions[i]))
    return best


def find(atoms: Atoms, **options):
    return closest_pair(atoms.positions, atoms.cell.array, atoms.pbc, **options)


def test_equals_brute_force_in_every_kind_of_cell(zoo):
    for name, atoms in zoo.items():
        atoms.rattle(0.05, seed=1)
        assert find(atoms).distance == pytest.approx(brute_force(atoms), rel=1e-12), name


def test_one_atom_sees_its_own_image(zoo):
    pair = find(zoo["one_atom"])
    assert pair.distance == pytest.approx(4.05 / np.sqrt(2))
    assert (pair.first, pair.second) == (0, 0)


def test_far_apart_and_alone():
    assert find(Atoms("He2", [[0, 0, 0], [0, 0, 40.0]])).distance == pytest.approx(40.0)
    assert find(Atoms("He", [[0, 0, 0]])).distance == np.inf
    assert find(Atoms("He", [[0, 0, 0]], cell=[30, 0, 0], pbc=(True, False, False))).distance == pytest.approx(30.0)


def test_within(zoo):
    atoms = zoo["molecule"]
    assert find(atoms, within=0.9) == (np.inf, -1, -1)
    assert find(atoms, within=1.2).distance == pytest.approx(brute_force(atoms))


def test_periodic_without_a_cell_is_an_error():
    with pytest.raises(StructureError, match="without a cell vector"):
        find(Atoms("He2", [[0, 0, 0], [0, 0, 2]], pbc=True))
