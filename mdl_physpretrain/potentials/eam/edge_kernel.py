"""The EAM on a list of edges, as machine code, for MD and single points of any size.

:class:`mdl_physpretrain.potentials.EAM` is the readable formula; functions of a
pair are those of :mod:`mdl_physpretrain.potentials.eam.pair_functions`, in double
precision whatever the type of the vectors. Edges are worked on a thousand at a
time, ordered by kind of pair, so that what is between stays in the caches.
"""

# ruff: noqa: ANN001, ANN201, ANN202 - numba finds the types of what it compiles
from __future__ import annotations

import math

import numpy as np

from mdl_physpretrain.compiled.compiler import compiled
from mdl_physpretrain.potentials.eam.pair_functions import SMALLEST_R, pair_functions

__all__ = ["energy_and_gradient"]

BLOCK = 2048  # directed edges at a time
RUN = 32  # pairs of a kind come in multiples of this: a compiled loop's remainder rounds otherwise than its body


@compiled
def _pick(index, vectors, shifts, element, kind_of, low, high, cutoff, starts, chosen, place_of, r, gradient):
    """One direction of the pairs in a block, by kind, the ``q``-th at ``place_of[q]``; gradients of the other are 0.

    At places between the pairs of a kind and the next ``r`` stays the cutoff, where there is no core.
    """
    kind, edge = np.empty(high - low, dtype=np.int64), np.empty(high - low, dtype=np.int64)
    starts[:] = 0
    count = 0
    for e in range(low, high):
        i, j = index[0, e], index[1, e]
        # among an atom's own images the shift S stands for -S too: the first non-zero component decides
        a, b, c = shifts[e, 0], shifts[e, 1], shifts[e, 2]
        if i < j or (i == j and (a > 0 or (a == 0 and (b > 0 or (b == 0 and c > 0))))):
            kind[count], edge[count] = kind_of[element[i], element[j]], e
            starts[kind[count] + 1] += 1
            count += 1
        else:
            gradient[e, 0], gradient[e, 1], gradient[e, 2] = 0.0, 0.0, -1.0
    for k in range(1, starts.shape[0]):
        starts[k] = starts[k - 1] + RUN * ((starts[k] + RUN - 1) // RUN)
    r[: starts[-1]] = cutoff
    place = starts.copy()
    for q in range(count):
        p, e = place[kind[q]], edge[q]
        place[kind[q]] += 1
        place_of[q] = p
        x, y, z = np.float64(vectors[e, 0]), np.float64(vectors[e, 1]), np.float64(vectors[e, 2])
        chosen[p], r[p] = e, math.sqrt(x * x + y * y + z * z)
    return count


@compiled
def energy_and_gradient(index, vectors, shifts, structure, element, kind_of, potential, energies, gradient):
    """Energies of structures, and their gradient with respect to the edge vectors.

    Parameters
    ----------
    index, vectors, shifts
        Of the edges, in both directions: shapes (2, E), (E, 3) in Å, (E, 3).
    structure, element
        Of the atoms, shape (N,).
    kind_of
        Kind of pair of two elements, shape (n_elements, n_elements).
    potential
        As in :func:`~mdl_physpretrain.potentials.eam.structure_kernel.evaluate`, by kind.
    energies
        Written, shape (B,), eV, float64.
    gradient
        Written, shape (E, 3), eV/Å: that of a pair whole on one of its edges.
    """
    pair, element_parameters, cutoff, start = potential
    morse, amplitudes, decays, core = pair
    n, n_edges, n_kinds = structure.shape[0], index.shape[1], morse.shape[0]
    slope_of = np.zeros(n)  # first the density at an atom, then the derivative of the embedding energy
    starts, place_of = np.empty(n_kinds + 1, dtype=np.int64), np.empty(BLOCK, dtype=np.int64)
    room = BLOCK + RUN * min(n_kinds, BLOCK)
    chosen = np.empty(room, dtype=np.int64)
    r, value, slope, density, fall = np.empty(room), np.empty(room), np.empty(room), np.empty(room), np.empty(room)
    energies[:] = 0.0
    for low in range(0, n_edges, BLOCK):
        high = min(low + BLOCK, n_edges)
        count = _pick(
            index, vectors, shifts, element, kind_of, low, high, cutoff, starts, chosen, place_of, r, gradient
        )
        for kind in range(n_kinds):
            if starts[kind] == starts[kind + 1]:
                continue
            here = slice(starts[kind], starts[kind + 1])
            depth, alpha, middle = morse[kind, 0], morse[kind, 1], morse[kind, 2]
            functions = (amplitudes[kind], decays[kind], core[kind], start, cutoff)
            pair_functions(
                r[here], depth, alpha, middle, *functions, value[here], slope[here], density[here], fall[here]
            )
        for o in range(count):  # in the order of the list: sums depend on no other structure of the batch
            q = place_of[o]
            e = chosen[q]
            i, j = index[0, e], index[1, e]
            slope_of[i] += density[q]
            slope_of[j] += density[q]
            energies[structure[i]] += value[q]
            # kept here until all densities are known
            gradient[e, 0], gradient[e, 1], gradient[e, 2] = slope[q], fall[q], max(r[q], SMALLEST_R)
    for a in range(n):
        curvature, lowest, atomic = element_parameters[element[a]]
        excess = slope_of[a] - lowest
        energies[structure[a]] += curvature * excess * excess + atomic
        slope_of[a] = 2 * curvature * excess
    for e in range(n_edges):
        if gradient[e, 2] < 0:
            gradient[e, 2] = 0.0
            continue
        total = (gradient[e, 0] + (slope_of[index[0, e]] + slope_of[index[1, e]]) * gradient[e, 1]) / gradient[e, 2]
        gradient[e, 0] = total * vectors[e, 0]
        gradient[e, 1] = total * vectors[e, 1]
        gradient[e, 2] = total * vectors[e, 2]
