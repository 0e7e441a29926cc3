"""Messages of the equivariant transformer as machine code, with two derivatives, pair by pair.

A pair ``e`` of atoms ``i`` and ``j`` at distance ``r`` in direction ``n`` has
four radial functions of every channel, for keys and for three kinds of values,

    F_p = silu(z_p),   z_p = bias_p + sum_m weight_m(r) table_p[row + m],   m = 0..5

and the weight of head ``h`` is ``a_ij = phi(r) silu(sum_h q_i k_j F_0)``. Then

    out_i[0] += a_ij F_1 v_j,      out_i[1 + d] += c(r) (n_d F_2 s_j + F_3 w_j[d])

and the same for ``j`` with ``n`` reversed. All that belongs to a pair lives in a
few kB: nothing of the size of pairs times channels is ever written.

Arrays: ``x`` (N, 2 to 7, C) are ``q, k, v, s, w`` of the atoms, ``table``
(parts, G, C), ``bias`` (parts, C), ``out`` (N, 1 or 4, C). With two parts
there are no vectors, with three no ``w``. ``spline`` (3, M, 6) and
``envelope`` (3, M, 2) are the weights and ``phi, c`` with their first and
second derivatives by ``r``. A head has :data:`LANES` channels. Pairs
``first:last`` are done; sums go to arrays that the caller keeps per thread.
:meth:`mdl_physpretrain.models.torchmd_layers.Attention.forward` is the readable formula.
"""

# ruff: noqa: ANN001, ANN201, ANN202 - numba finds the types

from __future__ import annotations

import numba
import numpy as np

from mdl_physpretrain.models.vector_math import ONE, ZERO, compiled, exp_negative

__all__ = ["LANES", "add", "backward", "forward", "sigmoid", "spread_heads", "sum_heads"]

LANES = 16


@numba.njit(inline="always")
def sigmoid(z):
    """Of one number."""
    t = exp_negative(-abs(z))
    return (ONE if z >= ZERO else t) / (ONE + t)


@compiled
def _radial(parts, row, weight, table, bias, f):
    """Radial functions to ``f[p]``."""
    w0, w1, w2, w3, w4, w5 = weight[0], weight[1], weight[2], weight[3], weight[4], weight[5]
    for p in range(parts):
        t, b, y = table[p, row : row + 6], bias[p], f[p]
        for c in range(y.shape[0]):
            z = b[c] + w0 * t[0, c] + w1 * t[1, c] + w2 * t[2, c] + w3 * t[3, c] + w4 * t[4, c] + w5 * t[5, c]
            y[c] = z * sigmoid(z)


@compiled
def _radial_slope(parts, row, weight, slope, table, bias, f):
    """Radial functions to ``f[p]``, ``silu'(z)`` to ``f[4 + p]`` and ``dz/dr`` to ``f[8 + p]``."""
    w0, w1, w2, w3, w4, w5 = weight[0], weight[1], weight[2], weight[3], weight[4], weight[5]
    s0, s1, s2, s3, s4, s5 = slope[0], slope[1], slope[2], slope[3], slope[4], slope[5]
    for p in range(parts):
        t, b, y, d, zr = table[p, row : row + 6], bias[p], f[p], f[4 + p], f[8 + p]
        for c in range(y.shape[0]):
            t0, t1, t2, t3, t4, t5 = t[0, c], t[1, c], t[2, c], t[3, c], t[4, c], t[5, c]
            z = b[c] + w0 * t0 + w1 * t1 + w2 * t2 + w3 * t3 + w4 * t4 + w5 * t5
            s = sigmoid(z)
            y[c] = z * s
            d[c] = s * (ONE + z * (ONE - s))
            zr[c] = s0 * t0 + s1 * t1 + s2 * t2 + s3 * t3 + s4 * t4 + s5 * t5


@compiled
def add(to, what):
    """Add rows."""
    for b in range(to.shape[0]):
        x, y = to[b], what[b]
        for c in range(x.shape[0]):
            x[c] += y[c]


@compiled
def sum_heads(p, s):
    """Sums over the channels of every head, ``p`` (n, heads, LANES), to ``s`` (n, heads)."""
    for m in range(s.shape[0]):
        for h in range(s.shape[1]):
            x, total = p[m, h], ZERO
            for c in range(LANES):
                total += x[c]
            s[m, h] = total


@compiled
def spread_heads(s, p):
    """Every head's number to all its channels."""
    for m in range(s.shape[0]):
        for h in range(s.shape[1]):
            p[m, h, :] = s[m, h]


@compiled
def forward(first, last, centre, neighbour, row, spline, envelope, direction, x, table, bias, out):
    """Add the messages to ``out``."""
    parts, channels = table.shape[0], x.shape[2]
    heads = channels // LANES
    f, p, s = np.empty((4, channels), np.float32), np.empty((2, channels), np.float32), np.empty((2, heads), np.float32)
    by_head = p.reshape((2, heads, LANES))
    oi, oj = np.empty((out.shape[1], channels), np.float32), np.empty((out.shape[1], channels), np.float32)
    for e in range(first, last):
        i, j, phi, cut = centre[e], neighbour[e], envelope[0, e, 0], envelope[0, e, 1]
        _radial(parts, row[e], spline[0, e], table, bias, f)
        xi, xj = x[i], x[j]
        for c in range(channels):
            p[0, c], p[1, c] = xi[0, c] * xj[1, c] * f[0, c], xj[0, c] * xi[1, c] * f[0, c]
        sum_heads(by_head, s)
        for m in range(2):
            for h in range(heads):
                s[m, h] = phi * s[m, h] * sigmoid(s[m, h])
        spread_heads(s, by_head)
        for c in range(channels):
            oi[0, c], oj[0, c] = p[0, c] * f[1, c] * xj[2, c], p[1, c] * f[1, c] * xi[2, c]
        if parts > 2:
            for d in range(3):
                n, ui, uj = direction[e, d], oi[1 + d], oj[1 + d]
                if parts > 3:
                    wi, wj = xi[4 + d], xj[4 + d]
                    for c in range(channels):
                        ui[c] = cut * (n * f[2, c] * xj[3, c] + f[3, c] * wj[c])
                        uj[c] = cut * (f[3, c] * wi[c] - n * f[2, c] * xi[3, c])
                else:
                    for c in range(channels):
                        ui[c] = cut * n * f[2, c] * xj[3, c]
                        uj[c] = -cut * n * f[2, c] * xi[3, c]
        add(out[i], oi)
        add(out[j], oj)


@compiled
def backward(
    first, last, centre, neighbour, row, spline, envelope, direction, x, table, bias, g, dx, dtable, dbias, dr, dn
):
    """Products of the derivatives of ``out`` with ``g``, for every argument.

    ``dx``, ``dtable`` and ``dbias`` are added to; an empty ``dtable`` is left
    out. ``dr`` (M,) and ``dn`` (M, 3) are written.
    """
    parts, channels, blocks = table.shape[0], x.shape[2], x.shape[1]
    heads = channels // LANES
    f, q = np.empty((12, channels), np.float32), np.empty((4, channels), np.float32)
    p, s = np.empty((4, channels), np.float32), np.empty((4, heads), np.float32)
    by_head = p.reshape((4, heads, LANES))
    yi, yj = np.empty((blocks, channels), np.float32), np.empty((blocks, channels), np.float32)
    for e in range(first, last):
        i, j, phi, cut = centre[e], neighbour[e], envelope[0, e, 0], envelope[0, e, 1]
        _radial_slope(parts, row[e], spline[0, e], spline[1, e], table, bias, f)
        xi, xj, gi, gj = x[i], x[j], g[i], g[j]
        along_phi, along_cut, along = ZERO, ZERO, ZERO
        for c in range(channels):
            p[0, c], p[1, c] = xi[0, c] * xj[1, c] * f[0, c], xj[0, c] * xi[1, c] * f[0, c]
        for c in range(channels):
            p[2, c], p[3, c] = gi[0, c] * xj[2, c] * f[1, c], gj[0, c] * xi[2, c] * f[1, c]
        sum_heads(by_head, s)
        for m in range(2):
            for h in range(heads):
                a, t = s[m, h], s[2 + m, h]
                sa = sigmoid(a)
                along_phi += t * a * sa
                s[m, h], s[2 + m, h] = t * phi * sa * (ONE + a * (ONE - sa)), phi * a * sa
        spread_heads(s, by_head)
        for c in range(channels):
            k1, k2 = p[0, c] * f[0, c], p[1, c] * f[0, c]
            yi[0, c], yj[0, c] = k1 * xj[1, c], k2 * xi[1, c]
            yi[1, c], yj[1, c] = k2 * xj[0, c], k1 * xi[0, c]
        for c in range(channels):
            yi[2, c], yj[2, c] = p[3, c] * f[1, c] * gj[0, c], p[2, c] * f[1, c] * gi[0, c]
        for c in range(channels):
            q[0, c] = p[0, c] * xi[0, c] * xj[1, c] + p[1, c] * xj[0, c] * xi[1, c]
            q[1, c] = p[2, c] * gi[0, c] * xj[2, c] + p[3, c] * gj[0, c] * xi[2, c]
        if parts > 2:
            n0, n1, n2 = direction[e, 0], direction[e, 1], direction[e, 2]
            m0, m1, m2 = ZERO, ZERO, ZERO
            for c in range(channels):
                si, sj, fc = xi[3, c], xj[3, c], cut * f[2, c]
                h0 = gi[1, c] * sj - gj[1, c] * si
                h1 = gi[2, c] * sj - gj[2, c] * si
                h2 = gi[3, c] * sj - gj[3, c] * si
                yj[3, c] = fc * (n0 * gi[1, c] + n1 * gi[2, c] + n2 * gi[3, c])
                yi[3, c] = -fc * (n0 * gj[1, c] + n1 * gj[2, c] + n2 * gj[3, c])
                q[2, c] = cut * (n0 * h0 + n1 * h1 + n2 * h2)
                along_cut += f[2, c] * (n0 * h0 + n1 * h1 + n2 * h2)
                m0 += fc * h0
                m1 += fc * h1
                m2 += fc * h2
            dn[e, 0], dn[e, 1], dn[e, 2] = m0, m1, m2
        else:
            dn[e, 0], dn[e, 1], dn[e, 2] = ZERO, ZERO, ZERO
        if parts > 3:
            for c in range(channels):
                fc = cut * f[3, c]
                yj[4, c], yj[5, c], yj[6, c] = fc * gi[1, c], fc * gi[2, c], fc * gi[3, c]
                yi[4, c], yi[5, c], yi[6, c] = fc * gj[1, c], fc * gj[2, c], fc * gj[3, c]
                h0 = gi[1, c] * xj[4, c] + gi[2, c] * xj[5, c] + gi[3, c] * xj[6, c]
                h0 += gj[1, c] * xi[4, c] + gj[2, c] * xi[5, c] + gj[3, c] * xi[6, c]
                q[3, c] = cut * h0
                along_cut += f[3, c] * h0
        for m in range(parts):
            y, d, zr = q[m], f[4 + m], f[8 + m]
            for c in range(channels):
                y[c] *= d[c]
                along += y[c] * zr[c]
        dr[e] = along + along_phi * envelope[1, e, 0] + along_cut * envelope[1, e, 1]
        add(dx[i], yi)
        add(dx[j], yj)
        if dtable.shape[1]:
            add(dbias, q[:parts])
            for m in range(parts):
                _scatter(dtable[m], row[e], spline[0, e], q[m])


@compiled
def _scatter(to, row, weight, y):
    for m in range(6):
        t, w = to[row + m], weight[m]
        for c in range(t.shape[0]):
            t[c] += w * y[c]
