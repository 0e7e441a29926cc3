"""Real pairs of atoms at other distances, all others in place, and whether they are pushed back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from ase import Atoms

from mdl_physpretrain.graphs.bonds import with_images
from mdl_physpretrain.graphs.neighbour_lists import neighbour_list

__all__ = ["PULL_TO", "at_distance", "pairs_within", "share_pushed_back"]

PULL_TO = 0.65  # real pairs are pulled to this share of their distance
REACH = 4.0  # Å, within which the closest pair is looked for


def pairs_within(atoms: Atoms, reach: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Atoms i and j, vectors from i to j (Å) and distances of pairs of different atoms within ``reach`` (Å)."""
    (i, j), shifts = neighbour_list(atoms.positions, atoms.cell.array, atoms.pbc, reach)
    keep = i != j
    vectors = (atoms.positions[j] - atoms.positions[i] + shifts @ atoms.cell.array)[keep]
    return i[keep], j[keep], vectors, np.linalg.norm(vectors, axis=1)


def at_distance(atoms: Atoms, i: int, j: int, vector: np.ndarray, distance: float) -> Atoms:
    """A copy in which the pair that ``vector`` joins is at ``distance`` (Å); both atoms move alike."""
    moved = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    change = 0.5 * (distance / np.linalg.norm(vector) - 1) * vector
    moved.positions[i] -= change
    moved.positions[j] += change
    return moved


def share_pushed_back(
    structures: Sequence[Atoms], forces: Callable[[list[Atoms]], Sequence[np.ndarray]], most: int
) -> float:
    """Share of structures whose closest pair is repelled once it is pulled to ``PULL_TO`` of its distance.

    Parameters
    ----------
    structures
        Real ones.
    forces
        Gives those of structures, each (N, 3), eV/Å.
    most
        Structures that are looked at, evenly spaced.
    """
    pulled, pairs = [], []
    for atoms in structures[:: max(1, len(structures) // most)]:
        i, j, vectors, r = pairs_within(atoms, REACH)
        if not len(r):  # a primitive cell of one atom has no other pair
            atoms = with_images(atoms)
            i, j, vectors, r = pairs_within(atoms, REACH)
        if len(r):
            k = int(np.argmin(r))
            pairs.append((int(i[k]), int(j[k]), vectors[k]))
            pulled.append(at_distance(atoms, *pairs[-1], PULL_TO * float(r[k])))
    if not pulled:
        return 1.0
    return float(np.mean([(f[j] - f[i]) @ v > 0 for f, (i, j, v) in zip(forces(pulled), pairs, strict=True)]))
