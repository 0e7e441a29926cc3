"""A stiff, well-behaved EAM and rattled rocksalt cells."""

from __future__ import annotations

import pytest
import torch
from ase import Atoms
from ase.build import bulk

from mdl_physpretrain.potentials import EAM


@pytest.fixture(scope="session")
def eam() -> EAM:
    model = EAM(["Mg", "O"], cutoff=5.0, n_basis=2, core=True).double()
    with torch.no_grad():
        model.D[:] = torch.tensor([0.7, 0.1, 0.1])
        model.alpha[:] = 1.6
        model.rm[:] = torch.tensor([2.1, 3.1, 3.1])
        model.A[:] = 0.05
        model.beta[:] = 1.2
        model.B[:] = 0.5
    return model


@pytest.fixture
def mgo() -> list[Atoms]:
    structures = []
    for k in range(4):
        atoms = bulk("MgO", "rocksalt", a=4.2 * (1 + 0.01 * k), cubic=True)
        atoms.rattle(0.05, seed=k)
        atoms.info["structure_id"] = f"mgo-{k}"
        structures.append(atoms)
    structures[3] = structures[3][:7]  # a vacancy: not all of one size
    return structures
