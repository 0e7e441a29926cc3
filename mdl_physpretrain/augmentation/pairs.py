"""The closest pairs of atoms that share no atom (step 2 of Algorithm 1)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from ase import Atoms

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.graphs.neighbour_lists import neighbour_list

__all__ = ["ClosePairs", "close_pairs", "kinds_of_pairs"]

FIRST_CUTOFF = 3.0  # Å: beyond the bonds of nearly every solid
COINCIDENT = 1e-6  # Å: closer atoms have no direction between them
KIND_REACH = 4.5  # Å: up to here pairs of a kind are looked for
KIND_DEPTH = 8  # of each kind the closest few are candidates
TIE = 1e-6  # Å: distances of symmetry-equivalent pairs differ by rounding only


class ClosePairs(NamedTuple):
    """Pairs in order of distance.

    Attributes
    ----------
    i, j
        Atoms of each pair, shape (P,), ``i < j``.
    vectors
        Minimum-image vector from ``i`` to ``j`` in Å, shape (P, 3).
    distances
        In Å, shape (P,).
    """

    i: np.ndarray
    j: np.ndarray
    vectors: np.ndarray
    distances: np.ndarray


def close_pairs(atoms: Atoms, n_pairs: int) -> ClosePairs:
    """The ``n_pairs`` closest pairs such that no atom is in two of them.

    Pairs are taken greedily in order of their minimum-image distance. An atom
    never pairs with its own periodic image. In a small cell the minimum is
    over all images that can matter, not only the nearest 27. Equal distances
    (to 1e-6 Å) are ordered by atom index, so that rounding does not decide.

    Parameters
    ----------
    atoms
        Any periodicity.
    n_pairs
        Capped by half the number of atoms.

    Raises
    ------
    StructureError
        On non-finite positions, an impossible cell, or a chosen pair of atoms
        on top of each other.
    """
    name = atoms.info.get("structure_id", atoms.get_chemical_formula())
    if not np.isfinite(atoms.positions).all():
        raise StructureError("NaN or infinite value", structure=name, field="positions")
    count = max(0, min(int(n_pairs), len(atoms) // 2))
    cutoff = FIRST_CUTOFF
    # Greedy choice among the pairs within a cutoff is a prefix of the greedy choice among all pairs,
    # so the first cutoff that yields enough pairs yields the right ones.
    while True:
        candidates = _pairs_within(atoms, cutoff)
        chosen = _greedy(candidates.i, candidates.j, count, len(atoms))
        if len(chosen) == count:
            break
        cutoff *= 1.7
    pairs = ClosePairs(*(values[chosen] for values in candidates))
    if count and pairs.distances.min() < COINCIDENT:
        k = int(pairs.distances.argmin())
        raise StructureError(
            f"atoms {pairs.i[k]} and {pairs.j[k]} are on top of each other", structure=name, field="positions"
        )
    return pairs


def kinds_of_pairs(atoms: Atoms, n_pairs: int, rounds: int, rng: np.random.Generator) -> tuple[ClosePairs, np.ndarray]:
    """For every round, close pairs of as many kinds (of elements) as there are.

    The closest pairs of a compound are nearly always of one kind (cation and anion), so Algorithm 1 as printed never
    shows how two cations repel. Here the kinds take turns, in random order: each gives one of its eight closest pairs
    that share no atom with those already chosen. Returns all candidates, and which of them each round takes, shape
    (rounds, P), -1 where a round has fewer.
    """
    closest = close_pairs(atoms, n_pairs)  # also checks the structure
    i, j, vectors, distances = _pairs_within(atoms, KIND_REACH)
    _, first = np.unique(i * len(atoms) + j, return_index=True)  # the shortest image of each pair
    first.sort()
    i, j, vectors, distances = i[first], j[first], vectors[first], distances[first]
    numbers = np.sort(np.stack([atoms.numbers[i], atoms.numbers[j]]), axis=0)
    codes = numbers[0] * 1000 + numbers[1]
    kinds = [np.flatnonzero(codes == code)[:KIND_DEPTH] for code in np.unique(codes)]
    chosen = np.full((rounds, len(closest.i)), -1)
    for row in chosen:
        used: set[int] = set()
        queues = [rng.permutation(kinds[k]).tolist() for k in rng.permutation(len(kinds))]
        count = 0
        while count < len(row) and any(queues):
            for queue in queues:
                while queue and count < len(row):
                    k = queue.pop(0)
                    if i[k] not in used and j[k] not in used:
                        used |= {i[k], j[k]}
                        row[count] = k
                        count += 1
                        break
    return ClosePairs(i, j, vectors, distances), chosen


def _pairs_within(atoms: Atoms, cutoff: float) -> ClosePairs:
    """All images of all pairs of different atoms within ``cutoff`` Å, nearest first."""
    try:
        (i, j), shifts = neighbour_list(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
    except StructureError as error:
        name = atoms.info.get("structure_id", atoms.get_chemical_formula())
        raise StructureError(str(error), structure=name) from error
    half = i < j
    i, j, shifts = i[half], j[half], shifts[half]
    vectors = atoms.positions[j] - atoms.positions[i] + shifts @ atoms.cell.array
    distances = np.linalg.norm(vectors, axis=1)
    order = np.lexsort((*shifts.T[::-1], j, i, np.round(distances / TIE)))
    return ClosePairs(i[order], j[order], vectors[order], distances[order])


def _greedy(i: np.ndarray, j: np.ndarray, count: int, n_atoms: int) -> list[int]:
    """Indices of the first ``count`` pairs that share no atom."""
    used = bytearray(n_atoms)
    chosen: list[int] = []
    if not count:
        return chosen
    for k, (a, b) in enumerate(zip(i.tolist(), j.tolist(), strict=True)):
        if not (used[a] or used[b]):
            used[a] = used[b] = 1
            chosen.append(k)
            if len(chosen) == count:
                break
    return chosen
