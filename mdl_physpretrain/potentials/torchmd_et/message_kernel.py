"""Messages of the equivariant transformer as machine code, with two derivatives, pair by pair.

A pair ``e`` of atoms ``i`` and ``j`` at distance ``r`` in direction ``n`` has
four radial functions of every channel, for keys and for three kinds of values,

    F_p = silu(z_p),   z_p = bias_p + sum_m weight_m(r) table_p[row + m],   m = 0..5

and the weight of head ``h`` is ``a_ij = phi(r) silu(sum_h q_i k_j F_0)``. Then

    out_i[0] += a_ij F_1 v_j,      out_i[1 + d] += c(r) (n_d F_2 s_j + F_3 w_j[d])

and the same for ``j`` with ``n`` reversed. All that belongs to a pair lives in a
few kB: nothing of the size of pairs times channels is ever written. Periodic
images of one pair of atoms follow each other: what they have in common is
computed before them, and what they add up to meets the features after them.

Arrays: ``x`` (N, 3, 4 or 7, C) are ``q, k, v, s, w`` of the atoms, ``table``
(G, parts, C), ``bias`` (parts, C), ``out`` (N, 1 or 4, C). With two parts
there are no vectors, with three no ``w``. ``spline`` (3, M, 6) and
``envelope`` (3, M, 2) are the weights and ``phi, c`` with their first and
second derivatives by ``r``. A head has :data:`LANES` channels. Pairs
``first:last`` are done; sums are added to the last arguments, of which a
``..._shared`` one gives each thread its own.
:meth:`mdl_physpretrain.potentials.torchmd_et.layers.Attention.forward` is the readable formula.
"""

# ruff: noqa: ANN001, ANN201, ANN202 - numba finds the types

from __future__ import annotations

import numba
import numpy as np

from mdl_physpretrain.compiled.compiler import on_threads
from mdl_physpretrain.compiled.lanes_kernel import LANES, disjoint, spread_heads, sum_heads
from mdl_physpretrain.compiled.vector_math import ONE, ZERO, compiled, exp_negative

__all__ = [
    "add_product", "add_products", "add_three", "backward", "backward_shared", "common", "common_linear", "forward",
    "forward_shared", "images_until", "multiply", "sigmoid", "six_rows",
]  # fmt: skip


@numba.njit(inline="always")
def sigmoid(z):
    """Of one number."""
    t = exp_negative(-abs(z))
    return (ONE if z >= ZERO else t) / (ONE + t)


@numba.njit(inline="always")
def six_rows(table, row, part):
    """Rows of one part, each known to be contiguous."""
    return (
        table[row, part], table[row + 1, part], table[row + 2, part],
        table[row + 3, part], table[row + 4, part], table[row + 5, part],
    )  # fmt: skip


@compiled
def images_until(e, last, centre, neighbour):
    """Where the images of the pair of atoms that ``e`` belongs to end."""
    i, j = centre[e], neighbour[e]
    while e < last and centre[e] == i and neighbour[e] == j:
        e += 1
    return e


@disjoint
def multiply(y, a, b):
    """``y = a b``."""
    for c in range(y.shape[0]):
        y[c] = a[c] * b[c]


@disjoint
def add_product(y, a, b):
    """``y += a b``."""
    for c in range(y.shape[0]):
        y[c] += a[c] * b[c]


@disjoint
def _subtract_product(y, a, b):
    for c in range(y.shape[0]):
        y[c] -= a[c] * b[c]


@disjoint
def add_products(y, a, b, s, v):
    """``y += a b + s v``."""
    for c in range(y.shape[0]):
        y[c] += a[c] * b[c] + s[c] * v[c]


@disjoint
def _add_difference(y, a, b, s, v):
    """``y += a b - s v``."""
    for c in range(y.shape[0]):
        y[c] += a[c] * b[c] - s[c] * v[c]


@disjoint
def add_three(y, s, a0, b0, a1, b1, a2, b2):
    """``y += s (a_0 b_0 + a_1 b_1 + a_2 b_2)``."""
    for c in range(y.shape[0]):
        y[c] += s * (a0[c] * b0[c] + a1[c] * b1[c] + a2[c] * b2[c])


@disjoint
def _add_scaled(y, s, a):
    for c in range(y.shape[0]):
        y[c] += s * a[c]


@disjoint
def _value(w, t0, t1, t2, t3, t4, t5, b, y):
    w0, w1, w2, w3, w4, w5 = w[0], w[1], w[2], w[3], w[4], w[5]
    for c in range(y.shape[0]):
        z = b[c] + w0 * t0[c] + w1 * t1[c] + w2 * t2[c] + w3 * t3[c] + w4 * t4[c] + w5 * t5[c]
        y[c] = z * sigmoid(z)


@disjoint
def _value_slope(w, s, t0, t1, t2, t3, t4, t5, b, y, d, zr):
    w0, w1, w2, w3, w4, w5 = w[0], w[1], w[2], w[3], w[4], w[5]
    s0, s1, s2, s3, s4, s5 = s[0], s[1], s[2], s[3], s[4], s[5]
    for c in range(y.shape[0]):
        v0, v1, v2, v3, v4, v5 = t0[c], t1[c], t2[c], t3[c], t4[c], t5[c]
        z = b[c] + w0 * v0 + w1 * v1 + w2 * v2 + w3 * v3 + w4 * v4 + w5 * v5
        g = sigmoid(z)
        y[c] = z * g
        d[c] = g * (ONE + z * (ONE - g))
        zr[c] = s0 * v0 + s1 * v1 + s2 * v2 + s3 * v3 + s4 * v4 + s5 * v5


@compiled
def _radial(parts, row, weight, table, bias, f):
    """Radial functions to ``f[p]``."""
    for p in range(parts):
        t0, t1, t2, t3, t4, t5 = six_rows(table, row, p)
        _value(weight, t0, t1, t2, t3, t4, t5, bias[p], f[p])


@compiled
def _radial_slope(parts, row, weight, slope, table, bias, f):
    """Radial functions to ``f[p]``, ``silu'(z)`` to ``f[4 + p]`` and ``dz/dr`` to ``f[8 + p]``."""
    for p in range(parts):
        t0, t1, t2, t3, t4, t5 = six_rows(table, row, p)
        _value_slope(weight, slope, t0, t1, t2, t3, t4, t5, bias[p], f[p], f[4 + p], f[8 + p])


@disjoint
def _scatter(w, y, t0, t1, t2, t3, t4, t5, b):
    """Add to six rows of a table and to the bias."""
    w0, w1, w2, w3, w4, w5 = w[0], w[1], w[2], w[3], w[4], w[5]
    for c in range(y.shape[0]):
        t0[c] += w0 * y[c]
        t1[c] += w1 * y[c]
        t2[c] += w2 * y[c]
        t3[c] += w3 * y[c]
        t4[c] += w4 * y[c]
        t5[c] += w5 * y[c]
        b[c] += y[c]


@compiled
def forward(first, last, centre, neighbour, row, spline, envelope, direction, x, table, bias, out):
    """Add the messages to ``out``."""
    parts, channels = table.shape[1], x.shape[2]
    f, p = np.empty((4, channels), np.float32), np.empty(2 * channels, np.float32)
    s = np.empty(2 * channels // LANES, np.float32)
    p0, p1 = p[:channels], p[channels:]
    # of a pair of atoms: q k of both directions; sums over images of a F_1 (both), c n F_2 and c F_3
    k, total = np.empty((2, channels), np.float32), np.empty((6, channels), np.float32)
    end = first
    while end < last:
        begin = end
        end = images_until(begin, last, centre, neighbour)
        i, j = centre[begin], neighbour[begin]
        xi, xj, oi, oj = x[i], x[j], out[i], out[j]
        multiply(k[0], xi[0], xj[1])
        multiply(k[1], xj[0], xi[1])
        total[:] = ZERO
        for e in range(begin, end):
            phi, cut = envelope[0, e, 0], envelope[0, e, 1]
            _radial(parts, row[e], spline[0, e], table, bias, f)
            multiply(p0, k[0], f[0])
            multiply(p1, k[1], f[0])
            sum_heads(p, s)
            for h in range(s.shape[0]):
                s[h] = phi * s[h] * sigmoid(s[h])
            spread_heads(s, p)
            add_product(total[0], p0, f[1])
            add_product(total[1], p1, f[1])
            if parts > 2:
                for d in range(3):
                    _add_scaled(total[2 + d], cut * direction[e, d], f[2])
            if parts > 3:
                _add_scaled(total[5], cut, f[3])
        add_product(oi[0], total[0], xj[2])
        add_product(oj[0], total[1], xi[2])
        if parts == 3:
            for d in range(1, 4):
                add_product(oi[d], total[1 + d], xj[3])
                _subtract_product(oj[d], total[1 + d], xi[3])
        if parts > 3:
            for d in range(1, 4):
                add_products(oi[d], total[1 + d], xj[3], total[5], xj[3 + d])
                _add_difference(oj[d], total[5], xi[3 + d], total[1 + d], xi[3])


@compiled
def common_linear(parts, xi, xj, gi, gj, k):
    """The part of :func:`common` that is linear in the features."""
    multiply(k[2], gi[0], xj[2])
    multiply(k[3], gj[0], xi[2])
    if parts > 2:
        k[4:7] = ZERO
        for d in range(3):
            _add_difference(k[4 + d], gi[1 + d], xj[3], gj[1 + d], xi[3])
    if parts > 3:
        k[7] = ZERO
        add_three(k[7], ONE, gi[1], xj[4], gi[2], xj[5], gi[3], xj[6])
        add_three(k[7], ONE, gj[1], xi[4], gj[2], xi[5], gj[3], xi[6])


@compiled
def common(parts, xi, xj, gi, gj, k):
    """What the images of a pair of atoms have in common, the factors of ``F_0`` to ``F_3``: to ``k`` (8, C)."""
    multiply(k[0], xi[0], xj[1])
    multiply(k[1], xj[0], xi[1])
    common_linear(parts, xi, xj, gi, gj, k)


@compiled
def _share_out(parts, total, xi, xj, gi, gj, yi, yj):
    """Add the features' gradients of a pair of atoms, given the sums ``total`` (8, C) over its images."""
    add_product(yi[0], total[0], xj[1])
    add_product(yj[1], total[0], xi[0])
    add_product(yj[0], total[1], xi[1])
    add_product(yi[1], total[1], xj[0])
    add_product(yj[2], total[2], gi[0])
    add_product(yi[2], total[3], gj[0])
    if parts > 2:
        add_three(yj[3], ONE, total[4], gi[1], total[5], gi[2], total[6], gi[3])
        add_three(yi[3], -ONE, total[4], gj[1], total[5], gj[2], total[6], gj[3])
    if parts > 3:
        for d in range(1, 4):
            add_product(yj[3 + d], total[7], gi[d])
            add_product(yi[3 + d], total[7], gj[d])


@disjoint
def _collect(p0, p1, k0, k1, f, t0, t1, q):
    """Sums over images of the two directions, and what meets the derivative of ``f``."""
    for c in range(f.shape[0]):
        t0[c] += p0[c] * f[c]
        t1[c] += p1[c] * f[c]
        q[c] = p0[c] * k0[c] + p1[c] * k1[c]


@disjoint
def _collect_vectors(n0, n1, n2, cut, f, k0, k1, k2, t0, t1, t2, q):
    """The same of vector messages along ``n``; products with the derivatives of ``n`` and of the cutoff."""
    m0, m1, m2, along = ZERO, ZERO, ZERO, ZERO
    for c in range(f.shape[0]):
        fc, t = cut * f[c], n0 * k0[c] + n1 * k1[c] + n2 * k2[c]
        t0[c] += n0 * fc
        t1[c] += n1 * fc
        t2[c] += n2 * fc
        m0 += fc * k0[c]
        m1 += fc * k1[c]
        m2 += fc * k2[c]
        along += f[c] * t
        q[c] = cut * t
    return m0, m1, m2, along


@disjoint
def _collect_carried(cut, f, k, t, q):
    along = ZERO
    for c in range(f.shape[0]):
        t[c] += cut * f[c]
        q[c] = cut * k[c]
        along += f[c] * k[c]
    return along


@disjoint
def _chain(y, d, zr):
    """``y *= d``, the derivative by ``z``; returns that by ``r``."""
    along = ZERO
    for c in range(y.shape[0]):
        y[c] *= d[c]
        along += y[c] * zr[c]
    return along


@compiled
def backward(
    first, last, centre, neighbour, row, spline, envelope, direction, x, table, bias, g, dr, dn, dx, dtable, dbias
):
    """Products of the derivatives of ``out`` with ``g``, for every argument.

    ``dx``, ``dtable`` and ``dbias`` are added to; an empty ``dtable`` is left
    out. ``dr`` (M,) and ``dn`` (M, 3) are written.
    """
    parts, channels = table.shape[1], x.shape[2]
    heads = channels // LANES
    f, q = np.empty((12, channels), np.float32), np.empty((4, channels), np.float32)
    p, s = np.empty((4, channels), np.float32), np.empty((4, heads), np.float32)
    all_p, all_s = p.reshape(4 * channels), s.reshape(4 * heads)
    # of a pair of atoms: q k and g v of both directions, what meets n F_2 and F_3; sums over images of their factors
    k, total = np.empty((8, channels), np.float32), np.empty((8, channels), np.float32)
    end = first
    while end < last:
        begin = end
        end = images_until(begin, last, centre, neighbour)
        i, j = centre[begin], neighbour[begin]
        xi, xj, gi, gj = x[i], x[j], g[i], g[j]
        common(parts, xi, xj, gi, gj, k)
        total[:] = ZERO
        for e in range(begin, end):
            phi, cut = envelope[0, e, 0], envelope[0, e, 1]
            _radial_slope(parts, row[e], spline[0, e], spline[1, e], table, bias, f)
            along_phi, along_cut, along = ZERO, ZERO, ZERO
            for m in range(4):
                multiply(p[m], k[m], f[m // 2])
            sum_heads(all_p, all_s)
            for m in range(2):
                for h in range(heads):
                    a, t = s[m, h], s[2 + m, h]
                    sa = sigmoid(a)
                    along_phi += t * a * sa
                    s[m, h], s[2 + m, h] = t * phi * sa * (ONE + a * (ONE - sa)), phi * a * sa
            spread_heads(all_s, all_p)
            for m in range(2):
                _collect(p[2 * m], p[2 * m + 1], k[2 * m], k[2 * m + 1], f[m], total[2 * m], total[2 * m + 1], q[m])
            m0, m1, m2 = ZERO, ZERO, ZERO
            if parts > 2:
                n0, n1, n2 = direction[e, 0], direction[e, 1], direction[e, 2]
                m0, m1, m2, along_cut = _collect_vectors(
                    n0, n1, n2, cut, f[2], k[4], k[5], k[6], total[4], total[5], total[6], q[2]
                )
            dn[e, 0], dn[e, 1], dn[e, 2] = m0, m1, m2
            if parts > 3:
                along_cut += _collect_carried(cut, f[3], k[7], total[7], q[3])
            for m in range(parts):
                along += _chain(q[m], f[4 + m], f[8 + m])
            dr[e] = along + along_phi * envelope[1, e, 0] + along_cut * envelope[1, e, 1]
            if dtable.shape[0]:
                for m in range(parts):
                    t0, t1, t2, t3, t4, t5 = six_rows(dtable, row[e], m)
                    _scatter(spline[0, e], q[m], t0, t1, t2, t3, t4, t5, dbias[m])
        _share_out(parts, total, xi, xj, gi, gj, dx[i], dx[j])


@on_threads
def forward_shared(bounds, centre, neighbour, row, spline, envelope, direction, x, table, bias, out):
    """:func:`forward` of several ranges, the ``k``-th to ``out[k]``."""
    for k in numba.prange(len(bounds) - 1):
        first, last = bounds[k], bounds[k + 1]
        forward(first, last, centre, neighbour, row, spline, envelope, direction, x, table, bias, out[k])


@on_threads
def backward_shared(
    bounds, centre, neighbour, row, spline, envelope, direction, x, table, bias, g, dr, dn, dx, dtable, dbias
):
    """:func:`backward` of several ranges, the ``k``-th to ``dx[k]``, ``dtable[k]``, ``dbias[k]``."""
    for k in numba.prange(len(bounds) - 1):
        backward(
            bounds[k], bounds[k + 1], centre, neighbour, row, spline, envelope, direction, x, table, bias, g, dr, dn,
            dx[k], dtable[k], dbias[k],
        )  # fmt: skip
