"""The crystal-graph convolution as machine code: messages and their derivatives, edge by edge.

For edges ``e`` from centre ``i`` to neighbour ``j`` and channels ``c``

    z_e = a_i + b_j + sum_m B_m(u_e) table[k_e + m],     k_e = floor(u_e), m = 0..5
    out_i = sum_e w_e sigmoid(z_e[:C]) softplus(z_e[C:])

with quintic B-splines ``B_m``. All that belongs to an edge lives in registers:
nothing of the size of the edges times the channels is ever written. Each
function works on the centres ``first:last``, whose edges are ``start[i]`` to
``start[i + 1]``; what belongs to neighbours is added to arrays that the
caller keeps per thread. Array lengths: ``C`` channels a multiple of 16.
:func:`mdl_physpretrain.potentials.cgcnn.layers.CGConv.forward` is the readable formula.
"""

# ruff: noqa: ANN001, ANN201, ANN202 - numba finds the types

from __future__ import annotations

import numba
import numpy as np

from mdl_physpretrain.compiled.vector_math import (
    HIGHEST,
    LOWEST,
    ONE,
    TWO,
    ZERO,
    compiled,
    exp_negative,
    exp_within,
    log1p_unit,
    on_threads,
)

__all__ = [
    "backward",
    "backward_shared",
    "forward",
    "forward_shared",
    "second_backward",
    "second_backward_shared",
]


@numba.njit(fastmath={"contract"}, nogil=True)
def _spline(t, value, slope, curvature):
    """Quintic B-splines of ``t`` in [0, 1): values and two derivatives, into arrays of length 6."""
    t = np.float64(t)
    s = 1 - t
    # of degree 3, 4, 5 by the recursion of uniform B-splines
    c0, c1, c2, c3 = s**3 / 6, (4 + t * t * (3 * t - 6)) / 6, (4 + s * s * (3 * s - 6)) / 6, t**3 / 6
    d0, d1, d2 = s * c0 / 4, ((1 + s) * c1 + (3 + t) * c0) / 4, ((2 + s) * c2 + (2 + t) * c1) / 4
    d3, d4 = ((3 + s) * c3 + (1 + t) * c2) / 4, t * c3 / 4
    value[0] = s * d0 / 5
    value[1] = ((1 + s) * d1 + (4 + t) * d0) / 5
    value[2] = ((2 + s) * d2 + (3 + t) * d1) / 5
    value[3] = ((3 + s) * d3 + (2 + t) * d2) / 5
    value[4] = ((4 + s) * d4 + (1 + t) * d3) / 5
    value[5] = t * d4 / 5
    slope[0], slope[1], slope[2] = -d0, d0 - d1, d1 - d2
    slope[3], slope[4], slope[5] = d2 - d3, d3 - d4, d4
    curvature[0], curvature[1], curvature[2] = c0, c1 - 2 * c0, c2 - 2 * c1 + c0
    curvature[3], curvature[4], curvature[5] = c3 - 2 * c2 + c1, c2 - 2 * c3, c3


@numba.njit(inline="always")
def _exponentials(zf, zs):
    """``exp(-zf)``, ``exp(-|zs|)`` and ``softplus(zs)``."""
    x = LOWEST if zf < LOWEST else zf
    x = HIGHEST if x > HIGHEST else x
    t = exp_negative(-abs(zs))
    return exp_within(-x), t, (ZERO if zs < ZERO else zs) + log1p_unit(t)


@numba.njit(inline="always")
def _gates(zf, zs):
    """``sigmoid(zf)``, ``softplus(zs)`` and ``sigmoid(zs)``, with one division for both."""
    p, t, s = _exponentials(zf, zs)
    p, q = ONE + p, ONE + t
    inverse = ONE / (p * q)
    return q * inverse, s, (ONE if zs >= ZERO else t) * p * inverse


@compiled
def forward(first, last, start, neighbour, u, w, a, b, table, out):
    """Add the messages of centres ``first`` to ``last`` to ``out`` (N, C).

    ``start`` (N + 1,) and ``neighbour`` (E,) are the graph, ``u`` and ``w`` (E,) places in the table and weights of the
    edges; ``a``, ``b`` (N, 2, C) and ``table`` (G, 2, C) as in :class:`Gates`.
    """
    value, slope, curvature = np.empty(6, np.float32), np.empty(6, np.float32), np.empty(6, np.float32)
    for i in range(first, last):
        x, o = a[i], out[i]
        for e in range(start[i], start[i + 1]):
            k = min(max(np.int64(u[e]), 0), table.shape[0] - 6)
            _spline(u[e] - np.float32(k), value, slope, curvature)
            v0, v1, v2, v3, v4, v5 = value[0], value[1], value[2], value[3], value[4], value[5]
            y, t, we = b[neighbour[e]], table[k : k + 6], w[e]
            for c in range(o.shape[0]):
                zf = x[0, c] + y[0, c] + v0 * t[0, 0, c] + v1 * t[1, 0, c] + v2 * t[2, 0, c]
                zs = x[1, c] + y[1, c] + v0 * t[0, 1, c] + v1 * t[1, 1, c] + v2 * t[2, 1, c]
                zf += v3 * t[3, 0, c] + v4 * t[4, 0, c] + v5 * t[5, 0, c]
                zs += v3 * t[3, 1, c] + v4 * t[4, 1, c] + v5 * t[5, 1, c]
                p, _, s = _exponentials(zf, zs)
                o[c] += we * s / (ONE + p)


@compiled
def backward(first, last, start, neighbour, u, w, a, b, table, g, da, du, dw, db, dtable):
    """Products of the derivatives of ``out`` with ``g`` (N, C), for every argument.

    All of them are added to; where ``db`` or ``dtable`` is empty it is left
    out, ``da`` with ``db``.
    """
    n = g.shape[1]
    value, slope, curvature = np.empty(6, np.float32), np.empty(6, np.float32), np.empty(6, np.float32)
    q = np.empty((2, n), np.float32)
    for i in range(first, last):
        x, gi, dx = a[i], g[i], da[i]
        for e in range(start[i], start[i + 1]):
            k = min(max(np.int64(u[e]), 0), table.shape[0] - 6)
            _spline(u[e] - np.float32(k), value, slope, curvature)
            v0, v1, v2, v3, v4, v5 = value[0], value[1], value[2], value[3], value[4], value[5]
            s0, s1, s2, s3, s4, s5 = slope[0], slope[1], slope[2], slope[3], slope[4], slope[5]
            y, t, we = b[neighbour[e]], table[k : k + 6], w[e]
            along_u, along_w = ZERO, ZERO
            for c in range(n):
                f0, f1, f2, f3, f4, f5 = t[0, 0, c], t[1, 0, c], t[2, 0, c], t[3, 0, c], t[4, 0, c], t[5, 0, c]
                zf = x[0, c] + y[0, c] + v0 * f0 + v1 * f1 + v2 * f2 + v3 * f3 + v4 * f4 + v5 * f5
                hf = s0 * f0 + s1 * f1 + s2 * f2 + s3 * f3 + s4 * f4 + s5 * f5
                f0, f1, f2, f3, f4, f5 = t[0, 1, c], t[1, 1, c], t[2, 1, c], t[3, 1, c], t[4, 1, c], t[5, 1, c]
                zs = x[1, c] + y[1, c] + v0 * f0 + v1 * f1 + v2 * f2 + v3 * f3 + v4 * f4 + v5 * f5
                hs = s0 * f0 + s1 * f1 + s2 * f2 + s3 * f3 + s4 * f4 + s5 * f5
                f, s, ss = _gates(zf, zs)
                gf = gi[c] * f
                along_w += gf * s
                qf, qs = we * gf * (ONE - f) * s, we * gf * ss
                along_u += qf * hf + qs * hs
                q[0, c], q[1, c] = qf, qs
            du[e] += along_u
            dw[e] += along_w
            if len(db):
                dy = db[neighbour[e]]
                for c in range(n):
                    dx[0, c] += q[0, c]
                    dx[1, c] += q[1, c]
                    dy[0, c] += q[0, c]
                    dy[1, c] += q[1, c]
            if len(dtable):
                for m in range(6):
                    row, v = dtable[k + m], value[m]
                    for c in range(n):
                        row[0, c] += v * q[0, c]
                        row[1, c] += v * q[1, c]


@compiled
def second_backward(
    first, last, start, neighbour, u, w, a, b, table, g, ca, cb, cu, cw, da, du, dw, dg, db, dtable
):  # fmt: skip
    """Derivatives of ``sum(ca da) + sum(cb db) + sum(cu du) + sum(cw dw)`` of :func:`backward`.

    ``da``, ``db``, ``dtable`` and ``dg`` (N, C) are added to; ``du`` and ``dw``
    are written.
    """
    n = g.shape[1]
    value, slope, curvature = np.empty(6, np.float32), np.empty(6, np.float32), np.empty(6, np.float32)
    q, p = np.empty((2, n), np.float32), np.empty((2, n), np.float32)
    for i in range(first, last):
        x, gi, dx, ux, dgi = a[i], g[i], da[i], ca[i], dg[i]
        for e in range(start[i], start[i + 1]):
            k = min(max(np.int64(u[e]), 0), table.shape[0] - 6)
            _spline(u[e] - np.float32(k), value, slope, curvature)
            v0, v1, v2, v3, v4, v5 = value[0], value[1], value[2], value[3], value[4], value[5]
            s0, s1, s2, s3, s4, s5 = slope[0], slope[1], slope[2], slope[3], slope[4], slope[5]
            r0, r1, r2, r3, r4, r5 = curvature[0], curvature[1], curvature[2], curvature[3], curvature[4], curvature[5]
            j = neighbour[e]
            y, t, dy, uy, we, ue, uw = b[j], table[k : k + 6], db[j], cb[j], w[e], cu[e], cw[e]
            along_u, along_w = ZERO, ZERO
            for c in range(n):
                f0, f1, f2, f3, f4, f5 = t[0, 0, c], t[1, 0, c], t[2, 0, c], t[3, 0, c], t[4, 0, c], t[5, 0, c]
                zf = x[0, c] + y[0, c] + v0 * f0 + v1 * f1 + v2 * f2 + v3 * f3 + v4 * f4 + v5 * f5
                hf = s0 * f0 + s1 * f1 + s2 * f2 + s3 * f3 + s4 * f4 + s5 * f5
                kf = r0 * f0 + r1 * f1 + r2 * f2 + r3 * f3 + r4 * f4 + r5 * f5
                f0, f1, f2, f3, f4, f5 = t[0, 1, c], t[1, 1, c], t[2, 1, c], t[3, 1, c], t[4, 1, c], t[5, 1, c]
                zs = x[1, c] + y[1, c] + v0 * f0 + v1 * f1 + v2 * f2 + v3 * f3 + v4 * f4 + v5 * f5
                hs = s0 * f0 + s1 * f1 + s2 * f2 + s3 * f3 + s4 * f4 + s5 * f5
                ks = r0 * f0 + r1 * f1 + r2 * f2 + r3 * f3 + r4 * f4 + r5 * f5
                f, s, ss = _gates(zf, zs)
                # the direction in which z moves, and what the message's derivatives along it are
                mf, ms = ux[0, c] + uy[0, c] + ue * hf, ux[1, c] + uy[1, c] + ue * hs
                df = f * (ONE - f)
                turn = df * s * mf + f * ss * ms
                gc = gi[c]
                dgi[c] += we * turn + uw * f * s
                along_w += gc * turn
                qf = gc * (we * df * ((ONE - TWO * f) * s * mf + ss * ms) + uw * df * s)
                qs = gc * (we * ss * (df * mf + f * (ONE - ss) * ms) + uw * f * ss)
                pf, ps = gc * we * df * s, gc * we * f * ss
                along_u += qf * hf + qs * hs + ue * (pf * kf + ps * ks)
                q[0, c], q[1, c], p[0, c], p[1, c] = qf, qs, ue * pf, ue * ps
            for c in range(n):
                dx[0, c] += q[0, c]
                dx[1, c] += q[1, c]
                dy[0, c] += q[0, c]
                dy[1, c] += q[1, c]
            du[e], dw[e] = along_u, along_w
            if len(dtable):
                for m in range(6):
                    row, v, h = dtable[k + m], value[m], slope[m]
                    for c in range(n):
                        row[0, c] += v * q[0, c] + h * p[0, c]
                        row[1, c] += v * q[1, c] + h * p[1, c]


@on_threads
def forward_shared(bounds, start, neighbour, u, w, a, b, table, out):
    """:func:`forward` for every range of centres."""
    for k in numba.prange(len(bounds) - 1):
        forward(bounds[k], bounds[k + 1], start, neighbour, u, w, a, b, table, out)


@on_threads
def backward_shared(bounds, start, neighbour, u, w, a, b, table, g, da, du, dw, db, dtable):
    """:func:`backward` for every range of centres, each with ``db`` and ``dtable`` of its own."""
    for k in numba.prange(len(bounds) - 1):
        backward(bounds[k], bounds[k + 1], start, neighbour, u, w, a, b, table, g, da, du, dw, db[k], dtable[k])


@on_threads
def second_backward_shared(
    bounds, start, neighbour, u, w, a, b, table, g, ca, cb, cu, cw, da, du, dw, dg, db, dtable
):  # fmt: skip
    """:func:`second_backward` for every range of centres, each with ``db`` and ``dtable`` of its own."""
    for k in numba.prange(len(bounds) - 1):
        second_backward(
            bounds[k], bounds[k + 1], start, neighbour, u, w, a, b, table, g, ca, cb, cu, cw, da, du, dw, dg, db[k],
            dtable[k],
        )  # fmt: skip
