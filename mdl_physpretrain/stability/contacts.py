"""Which atoms of a first frame belong together, and how close two elements may come.

Distances are compared with sums of covalent radii (B. Cordero et al., Dalton
Trans. 2008, 2832) and of van der Waals radii (S. Alvarez, Dalton Trans. 42,
8617 (2013)), as ASE tabulates them.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.data.vdw_alvarez import vdw_radii
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from mdl_physpretrain.graphs.neighbour_lists import neighbour_list

__all__ = ["bound_pairs", "radii_of"]

BOND = 1.3  # sums of covalent radii: longest bond
CONTACT = 1.2  # sums of van der Waals radii: longest contact
CONDENSED = 4.0  # contacts per molecule, on average; a solid has more, a gas fewer


def radii_of(numbers: np.ndarray) -> np.ndarray:
    """Covalent radii in Å."""
    return covalent_radii[numbers]


def bound_pairs(atoms: Atoms, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Which pairs keep their distance in a sound trajectory.

    In condensed matter all of them. In a gas, and between a surface and what
    is adsorbed on it, only atoms of one molecule (connected by bonds) do.

    Parameters
    ----------
    atoms
        First frame.
    first, second
        Atoms of the pairs, shape (P,).

    Returns
    -------
    ndarray
        bool, shape (P,).
    """
    everything = np.ones(len(first), dtype=bool)
    radii = radii_of(atoms.numbers)
    (i, j), shifts, distances = _neighbours(atoms, 2 * BOND * float(radii.max()))
    bonded = distances < BOND * (radii[i] + radii[j])
    n = len(atoms)
    count, molecule = connected_components(coo_matrix((bonded[bonded], (i[bonded], j[bonded])), shape=(n, n)))
    if count == 1:
        return everything
    wide = np.nan_to_num(vdw_radii[np.minimum(atoms.numbers, len(vdw_radii) - 1)])
    wide = np.where(wide > 0, wide, radii + 0.8)
    (i, j), shifts, distances = _neighbours(atoms, 2 * CONTACT * float(wide.max()))
    touching = (distances < CONTACT * (wide[i] + wide[j])) & (molecule[i] != molecule[j])
    contacts = np.unique(np.column_stack([molecule[i], molecule[j], shifts])[touching], axis=0)
    return everything if len(contacts) >= CONDENSED * count else molecule[first] == molecule[second]


def _neighbours(atoms: Atoms, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs (2, E), their cell shifts (E, 3), and distances (E,) in Å."""
    pairs, shifts = neighbour_list(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
    vectors = atoms.positions[pairs[1]] - atoms.positions[pairs[0]] + shifts @ atoms.cell.array
    return pairs, shifts, np.linalg.norm(vectors, axis=1)
