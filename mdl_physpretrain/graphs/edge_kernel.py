"""Edge vectors, forces and virials as machine code: one pass over the edges each, no arrays between.

Arithmetic is that of IEEE in the type of the arrays, operation by operation:
the numbers of vectors are those of the operations in torch that they replace.
"""

# ruff: noqa: ANN001, ANN201, ANN202 - numba finds the types of what it compiles
from __future__ import annotations

import numpy as np

from mdl_physpretrain.compiled.compiler import compiled, exact

__all__ = ["add_forces", "add_virials", "edge_vectors"]


@exact
def _component(end, start, s1, s2, s3, cell, c):
    return end - start + (s1 * cell[0, c] + s2 * cell[1, c] + s3 * cell[2, c])


@compiled
def edge_vectors(positions, cells, structure, index, shifts, vectors):
    """See :meth:`mdl_physpretrain.graphs.batch.AtomicBatch.edge_vectors`; ``vectors`` is written."""
    for e in range(index.shape[1]):
        i, j = index[0, e], index[1, e]
        cell, s1, s2, s3 = cells[structure[i]], shifts[e, 0], shifts[e, 1], shifts[e, 2]
        for c in range(3):
            vectors[e, c] = _component(positions[j, c], positions[i, c], s1, s2, s3, cell, c)


@compiled
def add_forces(index, gradient, forces):
    """Add forces (N, 3) by the gradient (E, 3) of the energy with respect to the edge vectors, eV/Å."""
    for e in range(index.shape[1]):
        i = index[0, e]
        for c in range(3):
            forces[i, c] += gradient[e, c]
    for e in range(index.shape[1]):  # in the order of two sums, so that the last digits are theirs
        j = index[1, e]
        for c in range(3):
            forces[j, c] -= gradient[e, c]


@exact
def _sum_of_products(total, a, b):
    return total + a * b


@compiled
def add_virials(index, structure, vectors, gradient, virials):
    """Add ``sum r (x) dE/dr`` over the edges of each structure to ``virials`` (B, 3, 3), eV, float64."""
    for e in range(index.shape[1]):
        k = structure[index[0, e]]
        for a in range(3):
            for b in range(3):
                virials[k, a, b] = _sum_of_products(virials[k, a, b], vectors[e, a], np.float64(gradient[e, b]))
