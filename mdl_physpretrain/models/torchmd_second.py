"""The second derivative of :mod:`mdl_physpretrain.models.torchmd_kernel`, which training on forces needs."""

# ruff: noqa: ANN001, ANN201, ANN202 - numba finds the types

from __future__ import annotations

import numpy as np

from mdl_physpretrain.models.torchmd_kernel import LANES, add, sigmoid, spread_heads, sum_heads
from mdl_physpretrain.models.vector_math import ONE, TWO, ZERO, compiled

__all__ = ["second_backward"]


@compiled
def _radial_curvature(parts, row, weight, slope, curvature, table, bias, f):
    """``F``, ``silu'(z)``, ``dz/dr``, ``silu''(z)`` and ``d2z/dr2`` of part ``p`` to ``f[p]``, ``f[4 + p]``, ..."""
    w0, w1, w2, w3, w4, w5 = weight[0], weight[1], weight[2], weight[3], weight[4], weight[5]
    s0, s1, s2, s3, s4, s5 = slope[0], slope[1], slope[2], slope[3], slope[4], slope[5]
    r0, r1, r2, r3, r4, r5 = curvature[0], curvature[1], curvature[2], curvature[3], curvature[4], curvature[5]
    for p in range(parts):
        t, b, y, d, zr, dd, zrr = table[p, row : row + 6], bias[p], f[p], f[4 + p], f[8 + p], f[12 + p], f[16 + p]
        for c in range(y.shape[0]):
            t0, t1, t2, t3, t4, t5 = t[0, c], t[1, c], t[2, c], t[3, c], t[4, c], t[5, c]
            z = b[c] + w0 * t0 + w1 * t1 + w2 * t2 + w3 * t3 + w4 * t4 + w5 * t5
            s = sigmoid(z)
            y[c] = z * s
            d[c] = s * (ONE + z * (ONE - s))
            dd[c] = s * (ONE - s) * (TWO + z * (ONE - TWO * s))
            zr[c] = s0 * t0 + s1 * t1 + s2 * t2 + s3 * t3 + s4 * t4 + s5 * t5
            zrr[c] = r0 * t0 + r1 * t1 + r2 * t2 + r3 * t3 + r4 * t4 + r5 * t5


@compiled
def _scatter_two(to, row, weight, y, slope, z):
    for m in range(6):
        t, w, s = to[row + m], weight[m], slope[m]
        for c in range(t.shape[0]):
            t[c] += w * y[c] + s * z[c]


@compiled
def second_backward(
    first, last, centre, neighbour, row, spline, envelope, direction, x, table, bias, g,
    ux, ur, un, dx, dtable, dbias, dr, dn, dg,
):  # fmt: skip
    """Derivatives of ``sum(ux dx) + sum(ur dr) + sum(un dn)`` of the backward kernel.

    They are the changes of what the two other kernels compute when ``x, r, n``
    move along ``ux, ur, un``: a name that ends in ``_`` is a change. ``dx``,
    ``dtable``, ``dbias`` and ``dg`` are added to, ``dr`` and ``dn`` written.
    """
    parts, channels, blocks = table.shape[0], x.shape[2], x.shape[1]
    heads = channels // LANES
    p, s = np.empty((8, channels), np.float32), np.empty((8, heads), np.float32)
    by_head = p.reshape((8, heads, LANES))
    f, f_ = np.empty((20, channels), np.float32), np.empty((4, channels), np.float32)
    q, q_ = np.empty((4, channels), np.float32), np.empty((4, channels), np.float32)
    yi, yj = np.empty((blocks, channels), np.float32), np.empty((blocks, channels), np.float32)
    oi, oj = np.empty((g.shape[1], channels), np.float32), np.empty((g.shape[1], channels), np.float32)
    for e in range(first, last):
        i, j, phi, cut, r_ = centre[e], neighbour[e], envelope[0, e, 0], envelope[0, e, 1], ur[e]
        phi_, cut_ = envelope[1, e, 0] * r_, envelope[1, e, 1] * r_
        _radial_curvature(parts, row[e], spline[0, e], spline[1, e], spline[2, e], table, bias, f)
        for m in range(parts):
            y, d, zr = f_[m], f[4 + m], f[8 + m]
            for c in range(channels):
                y[c] = d[c] * zr[c] * r_
        xi, xj, gi, gj, ui, uj = x[i], x[j], g[i], g[j], ux[i], ux[j]
        along_phi, along_phi_, along_cut, along_cut_, along_ = ZERO, ZERO, ZERO, ZERO, ZERO
        for c in range(channels):
            k1, k2 = xi[0, c] * xj[1, c], xj[0, c] * xi[1, c]
            p[0, c], p[1, c] = k1 * f[0, c], k2 * f[0, c]
            p[4, c] = (ui[0, c] * xj[1, c] + xi[0, c] * uj[1, c]) * f[0, c] + k1 * f_[0, c]
            p[5, c] = (uj[0, c] * xi[1, c] + xj[0, c] * ui[1, c]) * f[0, c] + k2 * f_[0, c]
        for c in range(channels):
            p[2, c], p[3, c] = gi[0, c] * xj[2, c] * f[1, c], gj[0, c] * xi[2, c] * f[1, c]
            p[6, c] = gi[0, c] * (uj[2, c] * f[1, c] + xj[2, c] * f_[1, c])
            p[7, c] = gj[0, c] * (ui[2, c] * f[1, c] + xi[2, c] * f_[1, c])
        sum_heads(by_head, s)
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
        spread_heads(s, by_head)
        for c in range(channels):
            k1, k1_ = p[0, c] * f[0, c], p[4, c] * f[0, c] + p[0, c] * f_[0, c]
            yi[0, c], yj[1, c] = k1_ * xj[1, c] + k1 * uj[1, c], k1_ * xi[0, c] + k1 * ui[0, c]
        for c in range(channels):
            k2, k2_ = p[1, c] * f[0, c], p[5, c] * f[0, c] + p[1, c] * f_[0, c]
            yj[0, c], yi[1, c] = k2_ * xi[1, c] + k2 * ui[1, c], k2_ * xj[0, c] + k2 * uj[0, c]
        for c in range(channels):
            k1, k1_ = p[2, c] * f[1, c], p[6, c] * f[1, c] + p[2, c] * f_[1, c]
            yj[2, c], oi[0, c] = k1_ * gi[0, c], k1_ * xj[2, c] + k1 * uj[2, c]
        for c in range(channels):
            k2, k2_ = p[3, c] * f[1, c], p[7, c] * f[1, c] + p[3, c] * f_[1, c]
            yi[2, c], oj[0, c] = k2_ * gj[0, c], k2_ * xi[2, c] + k2 * ui[2, c]
        for c in range(channels):
            k1, k2 = xi[0, c] * xj[1, c], xj[0, c] * xi[1, c]
            k1_, k2_ = ui[0, c] * xj[1, c] + xi[0, c] * uj[1, c], uj[0, c] * xi[1, c] + xj[0, c] * ui[1, c]
            q[0, c] = p[0, c] * k1 + p[1, c] * k2
            q_[0, c] = p[4, c] * k1 + p[0, c] * k1_ + p[5, c] * k2 + p[1, c] * k2_
        for c in range(channels):
            q[1, c] = p[2, c] * gi[0, c] * xj[2, c] + p[3, c] * gj[0, c] * xi[2, c]
            q_[1, c] = gi[0, c] * (p[6, c] * xj[2, c] + p[2, c] * uj[2, c])
            q_[1, c] += gj[0, c] * (p[7, c] * xi[2, c] + p[3, c] * ui[2, c])
        if parts > 2:
            n0, n1, n2 = direction[e, 0], direction[e, 1], direction[e, 2]
            n0_, n1_, n2_ = un[e, 0], un[e, 1], un[e, 2]
            m0_, m1_, m2_ = ZERO, ZERO, ZERO
            for c in range(channels):
                fc, fc_ = cut * f[2, c], cut_ * f[2, c] + cut * f_[2, c]
                si, sj, si_, sj_ = xi[3, c], xj[3, c], ui[3, c], uj[3, c]
                g0i, g1i, g2i, g0j, g1j, g2j = gi[1, c], gi[2, c], gi[3, c], gj[1, c], gj[2, c], gj[3, c]
                m0_ += fc_ * (g0i * sj - g0j * si) + fc * (g0i * sj_ - g0j * si_)
                m1_ += fc_ * (g1i * sj - g1j * si) + fc * (g1i * sj_ - g1j * si_)
                m2_ += fc_ * (g2i * sj - g2j * si) + fc * (g2i * sj_ - g2j * si_)
                ni, ni_ = n0 * g0i + n1 * g1i + n2 * g2i, n0_ * g0i + n1_ * g1i + n2_ * g2i
                nj, nj_ = n0 * g0j + n1 * g1j + n2 * g2j, n0_ * g0j + n1_ * g1j + n2_ * g2j
                yj[3, c] = fc_ * ni + fc * ni_
                yi[3, c] = -fc_ * nj - fc * nj_
                along = ni * sj - nj * si
                change = ni_ * sj + ni * sj_ - nj_ * si - nj * si_
                q[2, c], q_[2, c] = cut * along, cut_ * along + cut * change
                along_cut += f[2, c] * along
                along_cut_ += f_[2, c] * along + f[2, c] * change
            for c in range(channels):
                fc, fc_ = cut * f[2, c], cut_ * f[2, c] + cut * f_[2, c]
                si, sj = fc * xi[3, c], fc * xj[3, c]
                si_, sj_ = fc_ * xi[3, c] + fc * ui[3, c], fc_ * xj[3, c] + fc * uj[3, c]
                oi[1, c], oj[1, c] = n0_ * sj + n0 * sj_, -n0_ * si - n0 * si_
                oi[2, c], oj[2, c] = n1_ * sj + n1 * sj_, -n1_ * si - n1 * si_
                oi[3, c], oj[3, c] = n2_ * sj + n2 * sj_, -n2_ * si - n2 * si_
            dn[e, 0], dn[e, 1], dn[e, 2] = m0_, m1_, m2_
        else:
            dn[e, 0], dn[e, 1], dn[e, 2] = ZERO, ZERO, ZERO
        if parts > 3:
            for c in range(channels):
                q[3, c], q_[3, c] = ZERO, ZERO
            for d in range(3):
                for c in range(channels):
                    fc, fc_ = cut * f[3, c], cut_ * f[3, c] + cut * f_[3, c]
                    g_i, g_j = gi[1 + d, c], gj[1 + d, c]
                    w_i, w_j = xi[4 + d, c], xj[4 + d, c]
                    yj[4 + d, c], yi[4 + d, c] = fc_ * g_i, fc_ * g_j
                    oi[1 + d, c] += fc_ * w_j + fc * uj[4 + d, c]
                    oj[1 + d, c] += fc_ * w_i + fc * ui[4 + d, c]
                    q[3, c] += g_i * w_j + g_j * w_i
                    q_[3, c] += g_i * uj[4 + d, c] + g_j * ui[4 + d, c]
            for c in range(channels):
                along, change = q[3, c], q_[3, c]
                q[3, c], q_[3, c] = cut * along, cut_ * along + cut * change
                along_cut += f[3, c] * along
                along_cut_ += f_[3, c] * along + f[3, c] * change
        for m in range(parts):
            y, y_, d, zr, dd, zrr = q[m], q_[m], f[4 + m], f[8 + m], f[12 + m], f[16 + m]
            for c in range(channels):
                dz_ = y_[c] * d[c] + y[c] * dd[c] * zr[c] * r_
                dz = y[c] * d[c] * r_
                along_ += dz_ * zr[c] + dz * zrr[c]
                y_[c], y[c] = dz_, dz
        along_ += along_phi_ * envelope[1, e, 0] + along_phi * envelope[2, e, 0] * r_
        dr[e] = along_ + along_cut_ * envelope[1, e, 1] + along_cut * envelope[2, e, 1] * r_
        add(dx[i], yi)
        add(dx[j], yj)
        add(dg[i], oi)
        add(dg[j], oj)
        if dtable.shape[1]:
            add(dbias, q_[:parts])
            for m in range(parts):
                _scatter_two(dtable[m], row[e], spline[0, e], q_[m], spline[1, e], q[m])
