"""Forces that a file holds under a name that nobody has told."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.structures import validate_structures
from mdl_physpretrain.structures.labels import Labels, set_labels


def cells(name: str, width: int = 3) -> list[Atoms]:
    structures = []
    for k in range(3):
        atoms = set_labels(bulk("Cu", cubic=True), Labels(-1.0 * k))
        atoms.arrays[name] = np.ones((4, width))
        structures.append(atoms)
    return structures


@pytest.mark.parametrize("name", ["F", "F_total", "my_forces", "GRAD", "atomic-f"])
def test_they_are_asked_for(name: str) -> None:
    with pytest.raises(StructureError, match=rf"field forces: none of the 3 structures.*'{name}'.*forces_key"):
        validate_structures(cells(name), require=("energy",))


@pytest.mark.parametrize(("name", "width"), [("dipoles", 3), ("velocities", 3), ("offset", 3), ("F", 2)])
def test_energies_alone_are_data_too(name: str, width: int) -> None:
    with pytest.warns(UserWarning, match="3 of 3 structures have no forces"):
        validate_structures(cells(name, width), require=("energy",))


def test_forces_that_are_there_are_enough() -> None:
    structures = cells("F")
    for atoms in structures:
        set_labels(atoms, Labels(-1.0, np.zeros((4, 3)), np.zeros((3, 3))))
    assert validate_structures(structures) == structures
