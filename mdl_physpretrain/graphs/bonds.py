"""Nearest distances in a dataset by pair of elements, and the ends of ZBL cores that follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii

from mdl_physpretrain.graphs.neighbour_lists import neighbour_list

__all__ = ["PairDistances", "core_ends", "nearest_distances", "with_images"]

SMALLEST_CORE, LARGEST_CORE = 0.6, 0.95  # end of a ZBL core in units of the radii's sum
BONDED = 1.35  # a pair is bonded where its typical distance is below this multiple of the radii's sum


@dataclass(frozen=True)
class PairDistances:
    """Distances of one pair of elements in a data set, in Å."""

    typical: float  # median over atoms of the distance to the nearest neighbour of the other kind
    closest: float  # smallest distance
    contact: float  # sum of the covalent radii
    count: int  # atoms that the median is over

    @property
    def bonded(self) -> bool:
        """Whether typical neighbours are near enough to be called bonded."""
        return self.typical < BONDED * self.contact


def with_images(atoms: Atoms) -> Atoms:
    """The structure twice in each periodic direction: images of an atom become atoms of their own."""
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc).repeat(1 + atoms.pbc.astype(int))


def nearest_distances(structures: Sequence[Atoms], cutoff: float) -> dict[tuple[str, str], PairDistances]:
    """Nearest-neighbour distances of pairs of elements (by atomic number) that come within ``cutoff`` (Å)."""
    nearest_of: dict[tuple[int, int], list[np.ndarray]] = {}
    for atoms in structures:
        edges, shifts = neighbour_list(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
        i, j = edges
        r = np.linalg.norm(atoms.positions[j] - atoms.positions[i] + shifts @ atoms.cell.array, axis=1)
        zi, zj = atoms.numbers[i], atoms.numbers[j]
        kinds = np.unique(np.stack([np.minimum(zi, zj), np.maximum(zi, zj)]), axis=1)
        for a, b in kinds.T.tolist():
            mask = (zi == a) & (zj == b)
            nearest = np.full(len(atoms), np.inf)
            np.minimum.at(nearest, i[mask], r[mask])
            nearest_of.setdefault((a, b), []).append(nearest[np.isfinite(nearest)])
    result = {}
    for (a, b), parts in sorted(nearest_of.items()):
        r = np.concatenate(parts)
        contact = float(covalent_radii[a] + covalent_radii[b])
        key = (chemical_symbols[a], chemical_symbols[b])
        result[key] = PairDistances(float(np.median(r)), float(r.min()), contact, len(r))
    return result


def core_ends(distances: dict[tuple[str, str], PairDistances]) -> dict[str, float]:
    """Ends of a ZBL core for every pair of elements ("Li-O"), in Å.

    The core must not touch what the data describes: it ends before the closest distance of the pair found there, at
    0.95 of the sum of covalent radii at most and 0.6 at least.
    """
    return {
        f"{a}-{b}": round(float(np.clip(0.98 * d.closest, SMALLEST_CORE * d.contact, LARGEST_CORE * d.contact)), 4)
        for (a, b), d in distances.items()
    }
