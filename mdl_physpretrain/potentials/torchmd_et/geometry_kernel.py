"""Splines of distances, cutoff functions and halved neighbour lists of the equivariant transformer, as machine code."""

# ruff: noqa: ANN001, ANN201, ANN202 - numba finds the types

from __future__ import annotations

import math

import numpy as np

from mdl_physpretrain.compiled.vector_math import compiled

__all__ = ["b_splines", "halve", "radial_weights"]


@compiled
def b_splines(t, order, out):
    """Derivatives of the six quintic B-splines that are not zero at ``t`` in [0, 1].

    The value, the first and the second derivative go to ``out`` (3, 6);
    ``order`` is the highest one wanted. All are float64.
    """
    out[:] = 0.0
    out[0, 0] = 1.0
    for degree in range(1, 6):
        # the second derivative are differences of cubic splines, the first of quartic ones
        if degree == 4 and order > 1:
            out[2, :4] = out[0, :4]
        if degree == 5 and order > 0:
            out[1, :5] = out[0, :5]
        # of the splines that are not zero at t, number m starts degree - m intervals before
        for m in range(degree, 0, -1):
            out[0, m] = ((t + degree - m) * out[0, m - 1] + (1 - t + m) * out[0, m]) / degree
        out[0, 0] *= (1 - t) / degree
    for difference in range(order):
        for d in range(difference + 1, order + 1):
            for m in range(5, 0, -1):
                out[d, m] = out[d, m - 1] - out[d, m]
            out[d, 0] = -out[d, 0]


@compiled
def radial_weights(distance, cutoff, alpha, intervals, smooth, row, spline, envelope):
    """Where the distances (M,) are in the table, and the weights of six rows times the cutoff.

    First rows go to ``row`` (M,), weights and their derivatives to ``spline``
    (n, M, 6), the cutoffs of scalar and vector messages to ``envelope``
    (n, M, 2); ``n`` is 1, 2 or 3.
    """
    n, k = len(spline), math.pi / cutoff
    b, phi = np.empty((3, 6)), np.empty(3)
    for e in range(len(distance)):
        r = float(distance[e])
        phi[0], phi[1], phi[2] = 0.5 * (math.cos(k * r) + 1), -0.5 * k * math.sin(k * r), -0.5 * k * k * math.cos(k * r)
        u = math.exp(-alpha * r) * intervals
        row[e] = min(int(u), intervals - 1) if u > 0 else 0  # NaN goes on in the weights
        b_splines(u - row[e], n - 1, b)
        first, second = -alpha * u, alpha * alpha * u  # derivatives of u
        for m in range(6):
            y, yr = b[0, m], b[1, m] * first
            spline[0, e, m] = phi[0] * y
            if n > 1:
                spline[1, e, m] = phi[1] * y + phi[0] * yr
            if n > 2:
                spline[2, e, m] = phi[2] * y + 2 * phi[1] * yr + phi[0] * (b[2, m] * first * first + b[1, m] * second)
        for d in range(n):
            envelope[d, e, 0] = phi[d]
            envelope[d, e, 1] = phi[d] if smooth else (1.0 if d == 0 else 0.0)


@compiled
def halve(i, j, vectors, n_atoms):
    """One direction of every edge: indices of edges, ordered by first, then second atom.

    The first atom has the lower index; of an atom's own images half are kept.
    """
    chosen, count = np.empty(len(i), np.int64), 0
    for e in range(len(i)):
        x, y, z = vectors[e, 0], vectors[e, 1], vectors[e, 2]
        if i[e] < j[e] or (i[e] == j[e] and (x > 0 or (x == 0 and (y > 0 or (y == 0 and z > 0))))):
            chosen[count] = e
            count += 1
    return _sorted(_sorted(chosen[:count], j, n_atoms), i, n_atoms)


@compiled
def _sorted(order, key, n):
    """Edges by their key in [0, n), edges of equal keys in the order they come in."""
    place, result = np.zeros(n + 1, np.int64), np.empty_like(order)
    for e in order:
        place[key[e] + 1] += 1
    for k in range(n):
        place[k + 1] += place[k]
    for e in order:
        result[place[key[e]]] = e
        place[key[e]] += 1
    return result
