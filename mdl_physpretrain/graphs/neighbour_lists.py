"""Neighbour lists with vesin, of structures of any extent; those that would take all memory or time are refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from ase.geometry import complete_cell as ase_complete_cell
from vesin import NeighborList

from mdl_physpretrain.errors import StructureError

__all__ = ["complete_cell", "neighbour_list", "refuse_impossible"]

MAX_EXTENT = 2e4  # largest extent of an open structure, in units of the cutoff (of 1 Å for smaller ones)
MAX_COORDINATE = 1e8  # Å; beyond, a float64 has less than eight digits behind the point
MIN_HEIGHT = 1e-2  # Å between two faces of a cell
MAX_EDGES = 2e8  # some 10 GB
WIDE = 50  # cutoffs: an open structure that is larger is brought together
MAX_SEARCH = 1e4  # boxes of the size of an open structure within the cutoff, which vesin would go through
MIN_CUTOFF = 1e-2  # Å, of vesin, whose grid of cells is that fine


def neighbour_list(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float, shift_dtype: Any = np.int64
) -> tuple[np.ndarray, np.ndarray]:
    """All directed edges shorter than ``cutoff``, with vesin.

    Parameters
    ----------
    positions, cell, pbc
        Shapes (N, 3), (3, 3), (3,). Cell vectors may be zero in directions
        that are not periodic.
    cutoff
        In Å.
    shift_dtype
        NumPy type of the shifts.

    Returns
    -------
    edge_index
        Shape (2, E), int64, sorted by centre.
    shifts
        Shape (E, 3), of ``shift_dtype``; an atom's own periodic images are included.

    Raises
    ------
    StructureError
        If a position or the cell is not finite, the cell is impossible, an
        open structure is spread out beyond all reason, or the list would not
        fit into memory.
    """
    pbc, positions = np.asarray(pbc, dtype=bool), np.asarray(positions, dtype=np.float64)
    box = refuse_impossible(positions, np.asarray(cell, dtype=np.float64), pbc, cutoff)
    points, reach = np.ascontiguousarray(positions), max(cutoff, MIN_CUTOFF)
    extent = np.ptp(points, axis=0) if len(points) else np.zeros(3)
    if _search(points, box, pbc, reach) > MAX_SEARCH:
        edge_index, shifts = _all_pairs(points, box, pbc, cutoff)
        return edge_index, shifts.astype(shift_dtype)
    if not pbc.all() and extent.max() > WIDE * reach:
        points = _brought_together(points, box, pbc, 2.0 * reach)
    try:
        i, j, shifts, *distances = NeighborList(cutoff=reach, full_list=True, sorted=True, n_threads=1).compute(
            points=points, box=box, periodic=pbc.tolist(), quantities="ijS" if reach == cutoff else "ijSd"
        )
    except RuntimeError as error:
        raise StructureError(f"no neighbour list could be made: {error}", field="positions") from error
    if distances:
        near = distances[0] < cutoff
        i, j, shifts = i[near], j[near], shifts[near]
    edge_index = np.empty((2, len(i)), dtype=np.int64)
    edge_index[0], edge_index[1] = i, j
    return edge_index, shifts.astype(shift_dtype)


def refuse_impossible(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float) -> np.ndarray:
    """A cell with three vectors, or what forbids a list.

    Raises
    ------
    StructureError
        See :func:`neighbour_list`.
    """
    if not np.isfinite(positions).all():
        raise StructureError("NaN or infinite value", field="positions")
    largest = np.abs(positions).max(initial=0.0)
    if largest > MAX_COORDINATE:
        raise StructureError(f"a coordinate of {largest:.3g} Å: an exploded structure", field="positions")
    box = complete_cell(cell, pbc)
    extent = np.ptp(positions, axis=0) if len(positions) else np.zeros(3)
    if not pbc.all() and extent.max() > MAX_EXTENT * max(cutoff, 1.0):
        raise StructureError(f"atoms are spread over {extent.max():.3g} Å: an exploded structure", field="positions")
    volume = abs(np.linalg.det(box))
    heights = volume / np.linalg.norm(np.cross(box[[1, 2, 0]], box[[2, 0, 1]]), axis=1)
    if pbc.any() and heights[pbc].min() < MIN_HEIGHT:
        raise StructureError(f"the cell is flat: its faces are {heights[pbc].min():.2g} Å apart", field="cell")
    with np.errstate(over="ignore"):
        images = np.prod(2.0 * cutoff / heights[pbc] + 1.0)
        # open directions count with the atoms' extent, and never less than the cutoff
        room = volume * np.prod((extent.max() + cutoff) / heights[~pbc])
        edges = len(positions) ** 2 * min(images, 4 / 3 * math.pi * np.float64(cutoff) ** 3 / room + 1.0)
    if not edges < MAX_EDGES:
        raise StructureError(f"a cutoff of {cutoff:g} Å gives about {edges:.1g} neighbours: too many", field="cell")
    return box


def complete_cell(cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Fill cell vectors of non-periodic directions that are zero, or no vectors, with unit normals.

    Raises
    ------
    StructureError
        If a periodic direction has no cell vector, or the cell is flat.
    """
    lengths = np.linalg.norm(cell, axis=1)
    usable = (lengths >= 1e-8) & (lengths < MAX_COORDINATE)
    if np.any(pbc & ~np.isfinite(lengths)):
        raise StructureError("NaN or infinite value", field="cell")
    if np.any(pbc & (lengths < 1e-8)):
        raise StructureError("periodic direction without a cell vector", field="cell")
    if np.any(pbc & ~usable):
        raise StructureError(f"a cell vector of {lengths[pbc].max():.3g} Å", field="cell")
    if not usable.all():
        cell = ase_complete_cell(np.where(usable[:, None], cell, 0.0))
    if abs(np.linalg.det(cell)) < 1e-6:
        if not pbc.any():
            return np.eye(3)
        cell = ase_complete_cell(np.where(pbc[:, None], cell, 0.0))  # vectors of open directions do not matter
        if abs(np.linalg.det(cell)) < 1e-6:
            raise StructureError("cell vectors are linearly dependent (zero volume)", field="cell")
    return cell


def _search(points: np.ndarray, box: np.ndarray, pbc: np.ndarray, cutoff: float) -> float:
    """How many times an open structure (of 1 Å at least) fits into the cutoff in its open directions."""
    if pbc.all() or not len(points):
        return 0.0
    normals = ase_complete_cell(np.where(pbc[:, None], box, 0.0))[~pbc]
    return float(np.prod(2.0 * cutoff / np.maximum(np.ptp(points @ normals.T, axis=0), 1.0) + 1.0))


def _all_pairs(points: np.ndarray, box: np.ndarray, pbc: np.ndarray, cutoff: float) -> tuple[np.ndarray, np.ndarray]:
    """Edges and shifts by looking at all pairs: for cutoffs that hold an open structure many times."""
    inverse = np.linalg.inv(box)
    fractional = points @ inverse
    heights = 1.0 / np.linalg.norm(inverse, axis=0)
    reach = [math.ceil(cutoff / heights[k] + np.ptp(fractional[:, k])) if pbc[k] else 0 for k in range(3)]
    shifts = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in reach], indexing="ij"), axis=-1).reshape(-1, 3)
    edges, found = [], []
    for i, point in enumerate(points):
        vectors = (points - point)[:, None, :] + shifts @ box
        distances = np.linalg.norm(vectors, axis=2)
        near = distances < cutoff
        near[i, len(shifts) // 2] = False  # the atom itself
        j, k = np.nonzero(near)
        edges.append(np.stack([np.full(len(j), i), j]))
        found.append(shifts[k])
    return np.concatenate(edges, axis=1).astype(np.int64), np.concatenate(found)


def _brought_together(points: np.ndarray, box: np.ndarray, pbc: np.ndarray, gap: float) -> np.ndarray:
    """Positions with the same neighbours: in open directions no two layers are further apart than ``gap``.

    Without it a single atom far away costs a grid of millions of empty cells.
    """
    periodic = box[pbc]
    axes = np.linalg.svd(np.vstack([periodic, np.zeros((1, 3))]))[2][len(periodic) :]  # normal to what is periodic
    points = points.copy()
    for axis in axes:
        height = points @ axis
        order = np.argsort(height)
        steps = np.diff(height[order])
        moved = np.concatenate([[0.0], np.cumsum(np.maximum(steps - gap, 0.0))])
        points[order] -= moved[:, None] * axis
    return points
