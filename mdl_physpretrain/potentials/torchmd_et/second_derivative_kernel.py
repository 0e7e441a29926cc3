"""Second derivatives of the messages (``message_kernel``), which training on forces needs."""

# ruff: noqa: ANN001, ANN201, ANN202 - numba finds the types

from __future__ import annotations

import numba
import numpy as np

from mdl_physpretrain.compiled.compiler import on_threads
from mdl_physpretrain.compiled.lanes_kernel import LANES, disjoint, spread_heads, sum_heads
from mdl_physpretrain.compiled.vector_math import ONE, TWO, ZERO, compiled
from mdl_physpretrain.potentials.torchmd_et.message_kernel import (
    add_product,
    add_products,
    add_three,
    common,
    common_linear,
    images_until,
    multiply,
    sigmoid,
    six_rows,
)

__all__ = ["second_backward", "second_backward_shared"]


@disjoint
def _value_curvature(w, s, h, t0, t1, t2, t3, t4, t5, b, y, d, zr, dd, zrr):
    w0, w1, w2, w3, w4, w5 = w[0], w[1], w[2], w[3], w[4], w[5]
    s0, s1, s2, s3, s4, s5 = s[0], s[1], s[2], s[3], s[4], s[5]
    h0, h1, h2, h3, h4, h5 = h[0], h[1], h[2], h[3], h[4], h[5]
    for c in range(y.shape[0]):
        v0, v1, v2, v3, v4, v5 = t0[c], t1[c], t2[c], t3[c], t4[c], t5[c]
        z = b[c] + w0 * v0 + w1 * v1 + w2 * v2 + w3 * v3 + w4 * v4 + w5 * v5
        g = sigmoid(z)
        y[c] = z * g
        d[c] = g * (ONE + z * (ONE - g))
        dd[c] = g * (ONE - g) * (TWO + z * (ONE - TWO * g))
        zr[c] = s0 * v0 + s1 * v1 + s2 * v2 + s3 * v3 + s4 * v4 + s5 * v5
        zrr[c] = h0 * v0 + h1 * v1 + h2 * v2 + h3 * v3 + h4 * v4 + h5 * v5


@compiled
def _radial_curvature(parts, row, weight, slope, curvature, table, bias, f):
    """``F``, ``silu'(z)``, ``dz/dr``, ``silu''(z)`` and ``d2z/dr2`` of part ``p`` to ``f[p]``, ``f[4 + p]``, ..."""
    for p in range(parts):
        t0, t1, t2, t3, t4, t5 = six_rows(table, row, p)
        b, y, d, zr, dd, zrr = bias[p], f[p], f[4 + p], f[8 + p], f[12 + p], f[16 + p]
        _value_curvature(weight, slope, curvature, t0, t1, t2, t3, t4, t5, b, y, d, zr, dd, zrr)


@disjoint
def _scale_product(y, s, a, b):
    for c in range(y.shape[0]):
        y[c] = s * a[c] * b[c]


@disjoint
def _two_products(y, a, b, s, t):
    """``y = a b + s t``."""
    for c in range(y.shape[0]):
        y[c] = a[c] * b[c] + s[c] * t[c]


@disjoint
def _subtract_change(y, t_, x, t, u):
    for c in range(y.shape[0]):
        y[c] -= t_[c] * x[c] + t[c] * u[c]


@compiled
def _share_out(parts, t, t_, xi, xj, gi, gj, ui, uj, yi, yj, oi, oj):
    """Add what a pair of atoms gives to ``dx`` and ``dg``; ``t`` (8, C) are sums over images, ``t_`` their changes."""
    add_products(yi[0], t_[0], xj[1], t[0], uj[1])
    add_products(yj[1], t_[0], xi[0], t[0], ui[0])
    add_products(yj[0], t_[1], xi[1], t[1], ui[1])
    add_products(yi[1], t_[1], xj[0], t[1], uj[0])
    add_product(yj[2], t_[2], gi[0])
    add_product(yi[2], t_[3], gj[0])
    add_products(oi[0], t_[2], xj[2], t[2], uj[2])
    add_products(oj[0], t_[3], xi[2], t[3], ui[2])
    if parts > 2:
        add_three(yj[3], ONE, t_[4], gi[1], t_[5], gi[2], t_[6], gi[3])
        add_three(yi[3], -ONE, t_[4], gj[1], t_[5], gj[2], t_[6], gj[3])
        for d in range(1, 4):
            add_products(oi[d], t_[3 + d], xj[3], t[3 + d], uj[3])
            _subtract_change(oj[d], t_[3 + d], xi[3], t[3 + d], ui[3])
    if parts > 3:
        for d in range(1, 4):
            add_product(yj[3 + d], t_[7], gi[d])
            add_product(yi[3 + d], t_[7], gj[d])
            add_products(oi[d], t_[7], xj[3 + d], t[7], uj[3 + d])
            add_products(oj[d], t_[7], xi[3 + d], t[7], ui[3 + d])


@disjoint
def _collect(p0, p1, p0_, p1_, k0, k1, k0_, k1_, f, f_, t0, t1, t0_, t1_, q, q_):
    """Sums over images of the two directions, what meets the derivative of ``f``, and the changes of both."""
    for c in range(f.shape[0]):
        t0[c] += p0[c] * f[c]
        t1[c] += p1[c] * f[c]
        t0_[c] += p0_[c] * f[c] + p0[c] * f_[c]
        t1_[c] += p1_[c] * f[c] + p1[c] * f_[c]
        q[c] = p0[c] * k0[c] + p1[c] * k1[c]
        q_[c] = p0_[c] * k0[c] + p0[c] * k0_[c] + p1_[c] * k1[c] + p1[c] * k1_[c]


@disjoint
def _along(n0, n1, n2, n0_, n1_, n2_, cut, cut_, f, f_, k0, k1, k2, k0_, k1_, k2_, q, q_):
    """What meets the derivative of ``c n F_2``; the changes of the derivatives by ``n`` and both by ``c``."""
    m0_, m1_, m2_, along, along_ = ZERO, ZERO, ZERO, ZERO, ZERO
    for c in range(f.shape[0]):
        t = n0 * k0[c] + n1 * k1[c] + n2 * k2[c]
        t_ = n0_ * k0[c] + n0 * k0_[c] + n1_ * k1[c] + n1 * k1_[c] + n2_ * k2[c] + n2 * k2_[c]
        fc, fc_ = cut * f[c], cut_ * f[c] + cut * f_[c]
        q[c], q_[c] = cut * t, cut_ * t + cut * t_
        along += f[c] * t
        along_ += f_[c] * t + f[c] * t_
        m0_ += fc_ * k0[c] + fc * k0_[c]
        m1_ += fc_ * k1[c] + fc * k1_[c]
        m2_ += fc_ * k2[c] + fc * k2_[c]
    return m0_, m1_, m2_, along, along_


@disjoint
def _add_scaled(t, t_, s, s_, f, f_):
    """``t += s f`` and its change."""
    for c in range(f.shape[0]):
        t[c] += s * f[c]
        t_[c] += s_ * f[c] + s * f_[c]


@disjoint
def _carried(cut, cut_, f, f_, k, k_, q, q_):
    along, along_ = ZERO, ZERO
    for c in range(f.shape[0]):
        q[c], q_[c] = cut * k[c], cut_ * k[c] + cut * k_[c]
        along += f[c] * k[c]
        along_ += f_[c] * k[c] + f[c] * k_[c]
    return along, along_


@disjoint
def _chain(y, y_, r_, d, zr, dd, zrr):
    """Derivatives by ``z`` instead of by ``F``; returns the change of that by ``r``."""
    along_ = ZERO
    for c in range(y.shape[0]):
        dz_ = y_[c] * d[c] + y[c] * dd[c] * zr[c] * r_
        dz = y[c] * d[c] * r_
        along_ += dz_ * zr[c] + dz * zrr[c]
        y_[c], y[c] = dz_, dz
    return along_


@disjoint
def _scatter(w, s, y, z, t0, t1, t2, t3, t4, t5, b):
    """Add to six rows of a table and to the bias."""
    w0, w1, w2, w3, w4, w5 = w[0], w[1], w[2], w[3], w[4], w[5]
    s0, s1, s2, s3, s4, s5 = s[0], s[1], s[2], s[3], s[4], s[5]
    for c in range(y.shape[0]):
        t0[c] += w0 * y[c] + s0 * z[c]
        t1[c] += w1 * y[c] + s1 * z[c]
        t2[c] += w2 * y[c] + s2 * z[c]
        t3[c] += w3 * y[c] + s3 * z[c]
        t4[c] += w4 * y[c] + s4 * z[c]
        t5[c] += w5 * y[c] + s5 * z[c]
        b[c] += y[c]


@compiled
def second_backward(
    first, last, centre, neighbour, row, spline, envelope, direction, x, table, bias, g,
    ux, ur, un, dr, dn, dx, dtable, dbias, dg,
):  # fmt: skip
    """Derivatives of ``sum(ux dx) + sum(ur dr) + sum(un dn)`` of the backward kernel.

    They are the changes of what the two other kernels compute when ``x, r, n``
    move along ``ux, ur, un``: a name that ends in ``_`` is a change. ``dx``,
    ``dtable``, ``dbias`` and ``dg`` are added to, ``dr`` and ``dn`` written.
    """
    parts, channels = table.shape[1], x.shape[2]
    heads = channels // LANES
    all_p, all_s = np.empty(8 * channels, np.float32), np.empty(8 * heads, np.float32)
    p, s = all_p.reshape((8, channels)), all_s.reshape((8, heads))
    f, f_ = np.empty((20, channels), np.float32), np.empty((4, channels), np.float32)
    q, q_ = np.empty((4, channels), np.float32), np.empty((4, channels), np.float32)
    k, k_ = np.empty((8, channels), np.float32), np.empty((8, channels), np.float32)
    total, total_ = np.empty((8, channels), np.float32), np.empty((8, channels), np.float32)
    end = first
    while end < last:
        begin = end
        end = images_until(begin, last, centre, neighbour)
        i, j = centre[begin], neighbour[begin]
        xi, xj, gi, gj, ui, uj = x[i], x[j], g[i], g[j], ux[i], ux[j]
        common(parts, xi, xj, gi, gj, k)
        _two_products(k_[0], ui[0], xj[1], xi[0], uj[1])
        _two_products(k_[1], uj[0], xi[1], xj[0], ui[1])
        common_linear(parts, ui, uj, gi, gj, k_)
        total[:], total_[:] = ZERO, ZERO
        for e in range(begin, end):
            phi, cut, r_ = envelope[0, e, 0], envelope[0, e, 1], ur[e]
            phi_, cut_ = envelope[1, e, 0] * r_, envelope[1, e, 1] * r_
            _radial_curvature(parts, row[e], spline[0, e], spline[1, e], spline[2, e], table, bias, f)
            for m in range(parts):
                _scale_product(f_[m], r_, f[4 + m], f[8 + m])
            for m in range(4):
                multiply(p[m], k[m], f[m // 2])
                _two_products(p[4 + m], k_[m], f[m // 2], k[m], f_[m // 2])
            sum_heads(all_p, all_s)
            along_phi, along_phi_ = ZERO, ZERO
            for m in range(2):
                for h in range(heads):
                    a, t, a_, t_ = s[m, h], s[2 + m, h], s[4 + m, h], s[6 + m, h]
                    sa = sigmoid(a)
                    slope, bend = sa * (ONE + a * (ONE - sa)), sa * (ONE - sa) * (TWO + a * (ONE - TWO * sa))
                    along_phi += t * a * sa
                    along_phi_ += t_ * a * sa + t * slope * a_
                    s[m, h], s[2 + m, h] = t * phi * slope, phi * a * sa
                    s[4 + m, h] = (t_ * phi + t * phi_) * slope + t * phi * bend * a_
                    s[6 + m, h] = phi_ * a * sa + phi * slope * a_
            spread_heads(all_s, all_p)
            for m in range(2):
                a, b = 2 * m, 2 * m + 1
                _collect(
                    p[a], p[b], p[4 + a], p[4 + b], k[a], k[b], k_[a], k_[b], f[m], f_[m],
                    total[a], total[b], total_[a], total_[b], q[m], q_[m],
                )  # fmt: skip
            m0_, m1_, m2_, along_cut, along_cut_ = ZERO, ZERO, ZERO, ZERO, ZERO
            if parts > 2:
                m0_, m1_, m2_, along_cut, along_cut_ = _along(
                    direction[e, 0], direction[e, 1], direction[e, 2], un[e, 0], un[e, 1], un[e, 2], cut, cut_,
                    f[2], f_[2], k[4], k[5], k[6], k_[4], k_[5], k_[6], q[2], q_[2],
                )  # fmt: skip
                for d in range(3):
                    n, n_ = direction[e, d], un[e, d]
                    _add_scaled(total[4 + d], total_[4 + d], n * cut, n_ * cut + n * cut_, f[2], f_[2])
            dn[e, 0], dn[e, 1], dn[e, 2] = m0_, m1_, m2_
            if parts > 3:
                _add_scaled(total[7], total_[7], cut, cut_, f[3], f_[3])
                along, along_ = _carried(cut, cut_, f[3], f_[3], k[7], k_[7], q[3], q_[3])
                along_cut += along
                along_cut_ += along_
            along_r_ = along_phi_ * envelope[1, e, 0] + along_phi * envelope[2, e, 0] * r_
            along_r_ += along_cut_ * envelope[1, e, 1] + along_cut * envelope[2, e, 1] * r_
            for m in range(parts):
                along_r_ += _chain(q[m], q_[m], r_, f[4 + m], f[8 + m], f[12 + m], f[16 + m])
            dr[e] = along_r_
            if dtable.shape[0]:
                for m in range(parts):
                    t0, t1, t2, t3, t4, t5 = six_rows(dtable, row[e], m)
                    _scatter(spline[0, e], spline[1, e], q_[m], q[m], t0, t1, t2, t3, t4, t5, dbias[m])
        _share_out(parts, total, total_, xi, xj, gi, gj, ui, uj, dx[i], dx[j], dg[i], dg[j])


@on_threads
def second_backward_shared(
    bounds, centre, neighbour, row, spline, envelope, direction, x, table, bias, g,
    ux, ur, un, dr, dn, dx, dtable, dbias, dg,
):  # fmt: skip
    """:func:`second_backward` of several ranges, the ``k``-th to ``dx[k]`` and so on."""
    for k in numba.prange(len(bounds) - 1):
        second_backward(
            bounds[k], bounds[k + 1], centre, neighbour, row, spline, envelope, direction, x, table, bias, g,
            ux, ur, un, dr, dn, dx[k], dtable[k], dbias[k], dg[k],
        )  # fmt: skip
