"""Small labelled cells that several tests and fixtures are made of."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator


def random_labels(atoms: Atoms, rng: np.random.Generator, name: str) -> Atoms:
    stress = rng.normal(scale=0.01, size=(3, 3))
    atoms.calc = SinglePointCalculator(
        atoms,
        energy=float(rng.normal()) - 5.0 * len(atoms),
        forces=rng.normal(scale=0.1, size=(len(atoms), 3)),
        stress=(0.5 * (stress + stress.T)).flat[[0, 4, 8, 5, 2, 1]],
    )
    atoms.info["structure_id"] = name
    return atoms


def rocksalt_cells() -> list[Atoms]:
    """Eight rattled MgO cells of 8 atoms with random labels."""
    rng = np.random.default_rng(7)
    structures = []
    for k in range(8):
        atoms = bulk("MgO", "rocksalt", a=4.2 * (1 + 0.02 * (k % 3 - 1)), cubic=True)
        atoms.positions += rng.normal(scale=0.05, size=(8, 3))
        structures.append(random_labels(atoms, rng, f"mgo-{k}"))
    return structures
