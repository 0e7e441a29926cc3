"""Augmentation by coverage: every pair of elements is shown at every distance.

Algorithm 1 pulls close pairs by a fixed strength, so that a pair which the
data keep far apart is never seen close. Here the distances are given, from
the core's end up to where the data have the pair, and the structures that
need the smallest displacement are moved there. Pairs grow with the square of
the elements: above 8 of these the bins become wider in proportion, so that
their number grows with the elements only, and each gets fewer structures, so
that theirs stays that of 8 elements down to one a bin.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii

from mdl_physpretrain.augmentation.children import displaced_child
from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.graphs.neighbour_lists import neighbour_list
from mdl_physpretrain.structures.elements import FEW_ELEMENTS
from mdl_physpretrain.structures.identifiers import require_unique_ids, stable_id
from mdl_physpretrain.structures.randomness import structure_rng

__all__ = ["Covering", "cover", "coverage_table", "coverage_with", "per_bin_of", "uncovered"]

PAIRS_PER_ELEMENT = 0.5 * (FEW_ELEMENTS + 1)  # all pairs of 8 elements: with more the bins of a pair are fewer
FEW_PAIRS = PAIRS_PER_ELEMENT * FEW_ELEMENTS
DEPTH = 8  # of each structure the closest few pairs of a kind are candidates
ROUNDS = 40  # of pushing other atoms out of the way


def per_bin_of(per_bin: int, n_elements: int, n_pairs: int) -> int:
    """Structures for each bin: where more pairs meet than 8 elements have fewer, but one at least."""
    as_many_as = max(1.0, min(n_pairs, PAIRS_PER_ELEMENT * n_elements))  # pairs with bins of 0.1 Å
    return max(1, round(per_bin * min(1.0, FEW_PAIRS / as_many_as)))


class Covering(list[Atoms]):
    """Structures that cover distances; ``missing``: how many could not be made, by pair (``"P-P"``)."""

    def __init__(self, structures: Sequence[Atoms] = (), *, missing: dict[str, int] | None = None) -> None:
        super().__init__(structures)
        self.missing = dict(missing or {})


def coverage_table(
    structures: Sequence[Atoms],
    bins: pd.DataFrame | None = None,
    *,
    inner: float = 0.55,
    width: float = 0.1,
    wanted: int = 5,
    reach: float = 8.0,
) -> pd.DataFrame:
    """How many structures contain each pair of elements at each distance.

    Parameters
    ----------
    structures
        Data, augmented structures, or both.
    bins
        Columns ``pair, low, high`` of an earlier table, to count other
        structures in the same bins. Otherwise every pair of elements that
        meets in a structure gets bins from ``inner`` times the sum of its
        covalent radii up to the median distance of nearest neighbours of that
        kind in ``structures`` (``reach`` where they are farther apart).
    inner
        Where the core ends, in sums of covalent radii.
    width
        Of a bin, Å; with more pairs than 4.5 per element wider in that proportion.
    wanted
        Structures per bin that count as covered; where more than 36 pairs meet fewer (:func:`per_bin_of`; not for
        ``bins`` that are given).
    reach
        Å: pairs farther apart are not looked at.

    Returns
    -------
    pandas.DataFrame
        Columns ``pair`` (symbols in order of atomic number), ``low``,
        ``high`` (Å), ``count``, ``wanted``, ``covered``.

    Raises
    ------
    ConfigError
        If an option is out of range.
    StructureError
        If there are no structures.
    """
    structures = list(structures)
    if not structures:
        raise StructureError("there are no structures to look at")
    for option, value in (("inner", inner), ("width", width), ("wanted", wanted), ("reach", reach)):
        if not (np.isfinite(value) and value > 0):
            raise ConfigError(f"{option} must be positive and finite, not {value}")
    distances = [_distances_by_kind(atoms, reach) for atoms in structures]
    if bins is None:
        bins = _bins(structures, distances, inner, width, reach)
        wanted = _per_bin(wanted, bins)
    table = bins[["pair", "low", "high"]].reset_index(drop=True)
    counts = np.zeros(len(table), dtype=int)
    rows_of = {pair: rows.to_numpy() for pair, rows in table.groupby("pair", sort=False).groups.items()}
    low, high = table["low"].to_numpy(), table["high"].to_numpy()
    for of_structure in distances:
        for kind, values in of_structure.items():
            rows = rows_of.get(_pair_name(kind))
            if rows is not None:
                first = np.searchsorted(values, low[rows], side="left")
                counts[rows] += np.searchsorted(values, high[rows], side="left") > first
    return table.assign(count=counts, wanted=int(wanted), covered=counts >= wanted)


def coverage_with(structures: Sequence[Atoms], augmented: Sequence[Atoms], *, wanted: int = 5) -> pd.DataFrame:
    """Coverage of data and augmented structures together, in the bins of the data; ``data``: these alone."""
    table = coverage_table(structures, wanted=wanted)
    table.insert(3, "data", table["count"])
    if augmented and len(table):
        reach = float(table["high"].max())
        table["count"] += coverage_table(augmented, table, reach=reach)["count"]
        table["covered"] = table["count"] >= table["wanted"]
    return table


def _per_bin(per_bin: int, bins: pd.DataFrame) -> int:
    pairs = {str(pair) for pair in bins["pair"]}
    return per_bin_of(per_bin, len({symbol for pair in pairs for symbol in pair.split("-")}), len(pairs))


def uncovered(table: pd.DataFrame) -> list[str]:
    """The stretches of a coverage table that are not covered, such as ``"P-P 1.18-4.08 Å"``."""
    stretches = []
    for pair, rows in table.groupby("pair", sort=False):
        for covered, run in itertools.groupby(rows.itertuples(), key=lambda row: bool(row.covered)):
            if not covered:
                members = list(run)
                stretches.append(f"{pair} {members[0].low:.2f}-{members[-1].high:.2f} Å")
    return stretches


@dataclass(frozen=True)
class _Candidates:
    """Pairs of one kind in one structure, the shortest image of each, nearest first."""

    parent: int
    i: np.ndarray
    j: np.ndarray
    shifts: np.ndarray  # cells, shape (P, 3)
    distances: np.ndarray  # Å


def cover(
    structures: Sequence[Atoms],
    *,
    bins: pd.DataFrame | None = None,
    per_bin: int = 5,
    inner: float = 0.55,
    width: float = 0.1,
    reach: float = 8.0,
    clearance: float = 0.75,
    slack: float = 0.5,
    disorder: float = 0.1,
    seed: int = 0,
) -> Covering:
    """Copies of the structures in which every pair of elements stands at every distance.

    The distances are the bins of :func:`coverage_table`, each with
    ``per_bin`` targets spread evenly and at random within. For a target the
    structures whose closest pairs of that kind need the smallest change of
    distance are eligible (within ``slack`` of the best), and the one used
    least takes it. All atoms are displaced by a little disorder, the two atoms
    are moved along their line in equal parts, and others that stand in the
    way are pushed aside.

    Parameters
    ----------
    structures
        Parents with unique ids.
    bins
        Columns ``pair, low, high``: these distances only.
    per_bin
        Targets per bin; where more than 36 pairs meet fewer (:func:`per_bin_of`; not for ``bins`` that are given).
    inner, width, reach
        See :func:`coverage_table`.
    clearance
        No other pair may come closer than this many sums of its covalent radii,
        or than it is in the parent.
    slack
        Å, see above: more spreads the targets over more structures.
    disorder
        Å: each child's Gaussian displacements have a standard deviation drawn
        from ``U(0, disorder)``.
    seed
        Non-negative integer; the numbers of a child belong to its parent's id
        and the target. Which parent takes a target depends on the set, not on
        its order.

    Returns
    -------
    Covering
        ``structure_id`` is ``<parent>-<pair>-<target>``; ``info`` holds
        ``parent_id``, ``aug_pair``, ``aug_distance`` (Å, of the pair),
        ``aug_change`` (Å, from the parent) and ``aug_seed``.

    Raises
    ------
    ConfigError
        If an option is out of range.
    StructureError
        If there are no structures, two share an id, or one is unusable.
    """
    structures = list(structures)
    if not structures:
        raise StructureError("there are no structures to augment")
    if per_bin < 1:
        raise ConfigError(f"per_bin must be at least 1, not {per_bin}")
    for option, value in (("clearance", clearance), ("slack", slack), ("disorder", disorder)):
        if not (np.isfinite(value) and value >= 0):
            raise ConfigError(f"{option} must be finite and not negative, not {value}")
    names = require_unique_ids(structures, "structures")
    structure_rng(seed, "")  # checks the seed
    order = sorted(range(len(structures)), key=names.__getitem__)  # so that the order given does not matter
    structures, names = [structures[k] for k in order], [names[k] for k in order]
    if bins is None:
        bins = coverage_table(structures, inner=inner, width=width, reach=reach)
        per_bin = _per_bin(per_bin, bins)
    kinds = _candidates(structures, reach)
    used = np.zeros(len(structures), dtype=int)
    result = Covering()
    for pair, rows in bins.groupby("pair", sort=False):
        candidates = kinds.get(str(pair), [])
        targets = _targets(rows, per_bin, seed, str(pair))
        for k, target in enumerate(targets):
            child = None
            for chosen in _eligible(candidates, target, slack, used):
                parent, name = structures[chosen.parent], names[chosen.parent]
                rng = structure_rng(seed, f"cover/{name}/{pair}/{k}")
                moved = _moved_pair(parent, chosen, target, rng, slack, disorder, inner, clearance)
                if moved is not None:
                    facts: dict[str, Any] = {"aug_pair": str(pair), "aug_distance": target, "aug_seed": int(seed)}
                    facts["aug_change"] = target - float(chosen.distances[0])
                    child = displaced_child(parent, name, f"{pair}-{k}", moved, **facts)
                    used[chosen.parent] += 1
                    break
            if child is None:
                result.missing[str(pair)] = result.missing.get(str(pair), 0) + 1
            else:
                result.append(child)
    return result


def _pair_name(kind: tuple[int, int]) -> str:
    return "-".join(chemical_symbols[z] for z in kind)


def _edges(atoms: Atoms, reach: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Every pair once per image within ``reach``: atoms i <= j, cell shifts, distances."""
    if not np.isfinite(atoms.positions).all():
        raise StructureError("NaN or infinite value", structure=stable_id(atoms), field="positions")
    try:
        (i, j), shifts = neighbour_list(atoms.positions, atoms.cell.array, atoms.pbc, reach)
    except StructureError as error:
        raise StructureError(str(error), structure=stable_id(atoms)) from error
    half = i <= j
    i, j, shifts = i[half], j[half], shifts[half]
    vectors = atoms.positions[j] - atoms.positions[i] + shifts @ atoms.cell.array
    return i, j, shifts, np.linalg.norm(vectors, axis=1)


def _by_kind(numbers: np.ndarray, i: np.ndarray, j: np.ndarray) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    """The kinds of pairs and where they are."""
    first, second = np.minimum(numbers[i], numbers[j]), np.maximum(numbers[i], numbers[j])
    codes = first * 1000 + second
    for code in np.unique(codes):
        yield (int(code) // 1000, int(code) % 1000), np.flatnonzero(codes == code)


def _distances_by_kind(atoms: Atoms, reach: float) -> dict[tuple[int, int], np.ndarray]:
    """Sorted distances of every pair of elements, Å."""
    i, j, _, distances = _edges(atoms, reach)
    return {kind: np.sort(distances[rows]) for kind, rows in _by_kind(atoms.numbers, i, j)}


def _bins(
    structures: Sequence[Atoms], distances: Sequence[dict], inner: float, width: float, reach: float
) -> pd.DataFrame:
    meeting: set[tuple[int, int]] = set()
    for atoms in structures:
        elements, counts = np.unique(atoms.numbers, return_counts=True)
        meeting |= set(itertools.combinations(elements.tolist(), 2))
        meeting |= {(z, z) for z, count in zip(elements.tolist(), counts, strict=True) if count > 1}
    parts = []
    n_elements = len({z for kind in meeting for z in kind})
    width *= max(1.0, len(meeting) / max(1.0, PAIRS_PER_ELEMENT * n_elements))
    for kind in sorted(meeting):
        nearest = [float(of_structure[kind][0]) for of_structure in distances if kind in of_structure]
        start = inner * float(covalent_radii[list(kind)].sum())
        end = float(np.median(nearest)) if nearest else reach
        count = max(1, round((end - start) / width))
        end = end if end > start else start + width
        edges = start + (end - start) * np.arange(count + 1) / count
        parts.append(pd.DataFrame({"pair": _pair_name(kind), "low": edges[:-1], "high": edges[1:]}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["pair", "low", "high"])


def _candidates(structures: Sequence[Atoms], reach: float) -> dict[str, list[_Candidates]]:
    """The closest pairs of different atoms, by kind and structure."""
    kinds: dict[str, list[_Candidates]] = {}
    for parent, atoms in enumerate(structures):
        i, j, shifts, distances = _edges(atoms, reach)
        order = np.lexsort((j, i, np.round(distances, 6)))
        order = order[i[order] < j[order]]  # an atom cannot be moved towards its own image
        _, first = np.unique(i[order] * len(atoms) + j[order], return_index=True)
        order = order[np.sort(first)]
        for kind, rows in _by_kind(atoms.numbers, i[order], j[order]):
            rows = order[rows[:DEPTH]]
            kinds.setdefault(_pair_name(kind), []).append(
                _Candidates(parent, i[rows], j[rows], shifts[rows], distances[rows])
            )
    return kinds


def _targets(rows: pd.DataFrame, per_bin: int, seed: int, pair: str) -> list[float]:
    """``per_bin`` distances in every bin, one at random in each of equal parts."""
    rng = structure_rng(seed, f"cover/{pair}")
    low, high = rows["low"].to_numpy()[:, None], rows["high"].to_numpy()[:, None]
    place = (np.arange(per_bin) + rng.random((len(rows), per_bin))) / per_bin
    return [float(value) for value in (low + (high - low) * place).ravel()]


def _eligible(candidates: list[_Candidates], target: float, slack: float, used: np.ndarray) -> list[_Candidates]:
    """Structures to try for a target: least used first among those that need the smallest change, then the others."""
    needed = np.array([np.abs(c.distances - target).min() for c in candidates])
    if not len(needed):
        return []
    near = needed <= needed.min() + slack
    uses = used[[c.parent for c in candidates]]
    order = np.lexsort((needed, np.where(near, uses, 0), ~near))
    return [candidates[k] for k in order[:10]]


def _moved_pair(
    parent: Atoms,
    chosen: _Candidates,
    target: float,
    rng: np.random.Generator,
    slack: float,
    disorder: float,
    inner: float,
    clearance: float,
) -> np.ndarray | None:
    """Displacements (n, 3) in Å that bring one of the pairs to the target; ``None`` if others would overlap."""
    needed = np.abs(chosen.distances - target)
    k = int(rng.choice(np.flatnonzero(needed <= needed.min() + slack)))
    i, j, shift = int(chosen.i[k]), int(chosen.j[k]), chosen.shifts[k]
    moves = rng.uniform(0, disorder) * rng.normal(size=(len(parent), 3))
    positions = parent.positions + moves - moves.mean(axis=0)
    cell, radii = parent.cell.array, covalent_radii[parent.numbers]
    vector = positions[j] - positions[i] + shift @ cell
    length = float(np.linalg.norm(vector))
    if length < 1e-6:
        return None
    step = 0.5 * (length - target) / length * vector
    positions[i] += step
    positions[j] -= step

    weight = np.ones(len(parent))
    weight[[i, j]] = 0.0  # the pair itself stays where it was put
    limit = 2 * max(clearance, inner) * float(radii.max())
    before = dict(zip(*_keyed(parent, limit)[:2], strict=True))
    for _ in range(ROUNDS):
        moved = Atoms(parent.numbers, positions, cell=cell, pbc=parent.pbc)
        keys, distances, edge_i, edge_j, shifts = _keyed(moved, limit)
        other = ~((edge_i == i) & (edge_j == j) & (shifts == shift).all(axis=1))
        contact = radii[edge_i] + radii[edge_j]
        least = np.minimum(clearance * contact, [before.get(key, np.inf) for key in keys])
        close = np.flatnonzero(other & (distances < least - 1e-3))
        movable = close[weight[edge_i[close]] + weight[edge_j[close]] > 0]
        if not len(movable):
            break
        a, b, r = edge_i[movable], edge_j[movable], np.maximum(distances[movable], 1e-6)
        line = (positions[b] - positions[a] + shifts[movable] @ cell) / r[:, None]
        push = ((least[movable] - r) / (weight[a] + weight[b]))[:, None] * line
        np.subtract.at(positions, a, weight[a][:, None] * push)
        np.add.at(positions, b, weight[b][:, None] * push)
    if (distances[other] < inner * contact[other]).any():
        return None
    return positions - parent.positions


def _keyed(atoms: Atoms, reach: float) -> tuple[list[tuple[int, ...]], np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The pairs within ``reach`` with keys that stay when atoms move: keys, distances, atoms i, j, shifts."""
    i, j, shifts, distances = _edges(atoms, reach)
    return [tuple(row) for row in np.column_stack([i, j, shifts]).astype(int).tolist()], distances, i, j, shifts
