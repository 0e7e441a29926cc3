"""Closest pair of atoms, and the overlap threshold of a trajectory.

A trajectory is unphysical when, in any frame after the first, two atoms come
as close as half the smallest interatomic distance of the first frame (paper,
section 2.4.2). Distances are minimum-image, and an atom's own periodic images
count: in a one-atom cell they are the only neighbours there are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from ase import Atoms

from mdl_physpretrain.graphs.neighbour_lists import neighbour_list

__all__ = ["ClosestPair", "closest_pair", "pairs_within"]

FIRST_CUTOFF = 2.0  # Å; doubled until a neighbour is found


class ClosestPair(NamedTuple):
    """The smallest distance (Å) and the two atoms; infinite and -1 when there is no pair."""

    distance: float
    first: int
    second: int


NO_PAIR = ClosestPair(np.inf, -1, -1)


def closest_pair(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, *, within: float | None = None
) -> ClosestPair:
    """The two closest atoms, periodic images (also an atom's own) included.

    Parameters
    ----------
    positions, cell, pbc
        Shapes (n, 3), (3, 3), (3,); Å.
    within
        Only look up to this distance in Å. By default the cutoff grows until
        a pair is found.

    Returns
    -------
    ClosestPair
        Infinite distance for an isolated atom, or when nothing is ``within``.

    Raises
    ------
    StructureError
        On an impossible cell.
    """
    pbc = np.asarray(pbc, dtype=bool)
    if within is not None:
        return _closest_within(positions, cell, pbc, within) if within > 0 else NO_PAIR
    if len(positions) == 1 and not pbc.any():
        return NO_PAIR
    cutoff = FIRST_CUTOFF
    while True:
        pair = _closest_within(positions, cell, pbc, cutoff)
        if pair.first >= 0:
            return pair
        cutoff *= 2.0


def pairs_within(atoms: Atoms, distance: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of atoms up to a distance (Å), shape (2, E), and their squared distances (Å²), shape (E,)."""
    if not (np.isfinite(distance) and distance > 0):
        return np.zeros((2, 0), dtype=np.int64), np.zeros(0)
    (i, j), shifts = neighbour_list(atoms.positions, atoms.cell.array, atoms.pbc, distance)
    vectors = atoms.positions[j] - atoms.positions[i] + shifts @ atoms.cell.array
    return np.stack([i, j]), np.einsum("ij,ij->i", vectors, vectors)


def _closest_within(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float) -> ClosestPair:
    (i, j), shifts = neighbour_list(positions, cell, pbc, cutoff)
    if not len(i):
        return NO_PAIR
    vectors = positions[j] - positions[i] + shifts @ cell
    squared = np.einsum("ij,ij->i", vectors, vectors)
    edge = int(np.argmin(squared))
    return ClosestPair(float(np.sqrt(squared[edge])), int(i[edge]), int(j[edge]))
