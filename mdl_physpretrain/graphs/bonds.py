"""Nearest distances in a dataset by pair of elements, and the ends of ZBL cores that follow."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols, covalent_radii

from mdl_physpretrain.graphs.neighbour_lists import neighbour_list
from mdl_physpretrain.structures.elements import FEW_ELEMENTS

__all__ = ["PairDistances", "core_ends", "nearest_distances", "with_images"]

SMALLEST_CORE, LARGEST_CORE = 0.6, 0.95  # end of a ZBL core in units of the radii's sum
OFTEN = 50  # atoms that show a pair well
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


def core_ends(
    distances: dict[tuple[str, str], PairDistances],
    elements: Sequence[str] = (),
    *,
    long: Collection[tuple[str, str]] = (),
) -> dict[str, float]:
    """Ends of a ZBL core for every pair of elements ("Li-O"), in Å.

    The core must not touch what the data describes: it ends before the closest distance of the pair found there, at
    0.95 of the sum of covalent radii at most and 0.6 at least. With more than 8 ``elements`` the cores of pairs that
    fewer than 50 atoms have, or none, end in proportion no later than the median of the others: where matter is
    compressed, so are pairs that the data happen not to show. Not so for the pairs of ``long``.
    """
    shares = {
        k: float(np.clip(0.98 * d.closest / d.contact, SMALLEST_CORE, LARGEST_CORE)) for k, d in distances.items()
    }
    contacts = {pair: d.contact for pair, d in distances.items()}
    often = [share for pair, share in shares.items() if distances[pair].count >= OFTEN]
    if len(elements) > FEW_ELEMENTS and often:
        usual = float(np.median(often))
        for pair in combinations_with_replacement(sorted(elements, key=atomic_numbers.__getitem__), 2):
            contacts.setdefault(pair, float(covalent_radii[[atomic_numbers[s] for s in pair]].sum()))
            if pair not in long and (pair not in distances or distances[pair].count < OFTEN):
                shares[pair] = min(shares.get(pair, LARGEST_CORE), usual)
    return {f"{a}-{b}": round(share * contacts[a, b], 4) for (a, b), share in shares.items()}
