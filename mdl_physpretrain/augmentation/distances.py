"""Smallest distance of every pair of elements, structure by structure (Fig. 6b)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from ase import Atoms
from ase.data import chemical_symbols

from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.graphs.neighbour_lists import neighbour_list
from mdl_physpretrain.structures.identifiers import stable_id

__all__ = ["pair_min_distances"]


def pair_min_distances(structures: Iterable[Atoms], *, max_distance: float = 6.0) -> pd.DataFrame:
    """Smallest distance of each element pair in each structure (Fig. 6b).

    Parameters
    ----------
    structures
        Any periodicity. Periodic images count, an atom's own ones too.
    max_distance
        Search radius in Å; a pair that is nowhere closer has no row.

    Returns
    -------
    pandas.DataFrame
        Columns ``structure_id``, ``pair`` (``"O-Si"``, symbols in alphabetical
        order), ``distance`` (Å).

    Raises
    ------
    ConfigError
        If ``max_distance`` is not positive.
    StructureError
        On non-finite positions or an impossible cell.
    """
    if not (np.isfinite(max_distance) and max_distance > 0):
        raise ConfigError(f"max_distance must be positive and finite (Å), not {max_distance}")
    names: list[str] = []
    owners, codes, minima = [np.empty(0, int)], [np.empty(0, int)], [np.empty(0)]
    for k, atoms in enumerate(structures):
        names.append(stable_id(atoms))
        code, minimum = _minima(atoms, max_distance, names[-1])
        owners.append(np.full(len(code), k))
        codes.append(code)
        minima.append(minimum)
    code = np.concatenate(codes)
    labels = {c: "-".join(sorted((chemical_symbols[c // 256], chemical_symbols[c % 256]))) for c in np.unique(code)}
    return pd.DataFrame(
        {
            "structure_id": [names[k] for k in np.concatenate(owners)],
            "pair": [labels[c] for c in code],
            "distance": np.concatenate(minima),
        }
    )


def shortest_edges(atoms: Atoms, cutoff: float, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Edges within ``cutoff`` (Å) as atomic numbers, shape (2, E), and distances, shape (E,)."""
    if not np.isfinite(atoms.positions).all():
        raise StructureError("NaN or infinite value", structure=name, field="positions")
    try:
        edges, shifts = neighbour_list(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
    except StructureError as error:
        raise StructureError(str(error), structure=name) from error
    i, j = edges
    vectors = atoms.positions[j] - atoms.positions[i] + shifts @ atoms.cell.array
    return atoms.numbers[edges], np.linalg.norm(vectors, axis=1)


def _minima(atoms: Atoms, cutoff: float, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Codes ``256 z_small + z_large`` of the element pairs present and their smallest distances (Å)."""
    numbers, distances = shortest_edges(atoms, cutoff, name)
    smaller, larger = np.sort(numbers.astype(int), axis=0)
    codes, code_of_edge = np.unique(256 * smaller + larger, return_inverse=True)
    minima = np.full(len(codes), np.inf)
    np.minimum.at(minima, code_of_edge, distances)
    return codes, minima
