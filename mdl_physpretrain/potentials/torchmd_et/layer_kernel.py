"""Steps of the equivariant transformer between products with weights and messages, as machine code without gradients.

They stand between the products of features with weights and the messages of
:mod:`mdl_physpretrain.potentials.torchmd_et.message_kernel`; :mod:`mdl_physpretrain.potentials.torchmd_et.forces`
puts them together. Each ``..._backward`` adds to or writes the gradients of
the arguments that depend on positions. Vectors are (N, 3, C); an array of no
atoms stands for vectors that are zero, as before the first layer.
"""

# ruff: noqa: ANN001, ANN201 - numba finds the types

from __future__ import annotations

import numpy as np

from mdl_physpretrain.compiled.lanes_kernel import LANES
from mdl_physpretrain.compiled.vector_math import ZERO, compiled
from mdl_physpretrain.potentials.torchmd_et.message_kernel import images_until, six_rows

__all__ = ["join", "join_backward", "neighbours", "neighbours_backward", "update", "update_backward"]


@compiled
def join(q, k, v, vec, x):
    """Queries, keys and the three values of each head, ``v`` (N, heads, 3, LANES), to the messages' ``x``."""
    blocks = x.shape[1]
    for n in range(x.shape[0]):
        x[n, 0], x[n, 1] = q[n], k[n]
        for h in range(v.shape[1]):
            for c in range(LANES):
                x[n, 2, h * LANES + c] = v[n, h, 0, c]
                if blocks > 3:
                    x[n, 3, h * LANES + c] = v[n, h, 2, c]
                for b in range(4, blocks):
                    x[n, b, h * LANES + c] = vec[n, b - 4, h * LANES + c] * v[n, h, 1, c]


@compiled
def join_backward(g, v, vec, gv, gvec):
    """From ``g``, like ``x``: ``gv`` is written, ``gvec`` added to; queries and keys have ``g[:, :2]``."""
    blocks = g.shape[1]
    for n in range(g.shape[0]):
        for h in range(v.shape[1]):
            for c in range(LANES):
                m = h * LANES + c
                gate = ZERO
                for b in range(4, blocks):
                    gate += g[n, b, m] * vec[n, b - 4, m]
                    gvec[n, b - 4, m] += g[n, b, m] * v[n, h, 1, c]
                gv[n, h, 0, c], gv[n, h, 1, c] = g[n, 2, m], gate
                gv[n, h, 2, c] = g[n, 3, m] if blocks > 3 else ZERO


@compiled
def update(o, w, out, x, vec, new_x, new_vec):
    """Features after a layer from the messages ``out``, ``o`` (N, 3, C) and ``w`` (N, 3, 2 or 3, C) of its products."""
    for n in range(x.shape[0]):
        for c in range(x.shape[1]):
            new_x[n, c] = x[n, c] + o[n, 2, c]
        for d in range(3):
            if len(w):
                for c in range(x.shape[1]):
                    new_x[n, c] += w[n, d, 0, c] * w[n, d, 1, c] * o[n, 1, c]
            if len(new_vec):
                for c in range(x.shape[1]):
                    new_vec[n, d, c] = out[n, 1 + d, c]
                if len(w):
                    for c in range(x.shape[1]):
                        new_vec[n, d, c] += vec[n, d, c] + w[n, d, 2, c] * o[n, 0, c]


@compiled
def update_backward(gx, gvec, o, w, go, gw):
    """Gradients of ``o`` and ``w``, written, from those of the new features; ``gvec`` of the last layer is empty."""
    for n in range(gx.shape[0]):
        go[n, 0], go[n, 1], go[n, 2] = ZERO, ZERO, gx[n]
        if len(w):
            for d in range(3):
                for c in range(gx.shape[1]):
                    go[n, 1, c] += gx[n, c] * w[n, d, 0, c] * w[n, d, 1, c]
                for c in range(gx.shape[1]):
                    gw[n, d, 0, c] = gx[n, c] * o[n, 1, c] * w[n, d, 1, c]
                    gw[n, d, 1, c] = gx[n, c] * o[n, 1, c] * w[n, d, 0, c]
                if len(gvec):
                    for c in range(gx.shape[1]):
                        go[n, 0, c] += gvec[n, d, c] * w[n, d, 2, c]
                        gw[n, d, 2, c] = gvec[n, d, c] * o[n, 0, c]


@compiled
def neighbours(own_images, centre, neighbour, row, spline, envelope, table, bias, embedding, around):
    """Add the embeddings (N, C) of an atom's neighbours, weighted by distance, to ``around`` (N, C).

    The weights are those of :class:`mdl_physpretrain.potentials.torchmd_et.layers.NeighbourEmbedding`,
    from a table (G, 1, C) and a bias (C,).
    """
    total = np.empty(len(bias), np.float32)
    end, last = 0, len(row)
    while end < last:
        begin = end
        end = images_until(begin, last, centre, neighbour)
        i, j = centre[begin], neighbour[begin]
        if i == j and not own_images:
            continue
        total[:] = ZERO
        for e in range(begin, end):
            t0, t1, t2, t3, t4, t5 = six_rows(table, row[e], 0)
            w, phi = spline[0, e], envelope[0, e, 0]
            for c in range(len(total)):
                z = w[0] * t0[c] + w[1] * t1[c] + w[2] * t2[c] + w[3] * t3[c] + w[4] * t4[c] + w[5] * t5[c]
                total[c] += phi * (bias[c] + z)
        for c in range(len(total)):
            around[i, c] += total[c] * embedding[j, c]
        for c in range(len(total)):
            around[j, c] += total[c] * embedding[i, c]


@compiled
def neighbours_backward(own_images, centre, neighbour, row, spline, envelope, table, bias, embedding, g, dr):
    """Add the derivatives by distance to ``dr`` (M,), given ``g`` (N, C) of ``around``."""
    for e in range(len(row)):
        i, j, along = centre[e], neighbour[e], ZERO
        if i == j and not own_images:
            continue
        t0, t1, t2, t3, t4, t5 = six_rows(table, row[e], 0)
        w, s, phi, phi_r = spline[0, e], spline[1, e], envelope[0, e, 0], envelope[1, e, 0]
        gi, gj, ei, ej = g[i], g[j], embedding[i], embedding[j]
        for c in range(len(bias)):
            z = w[0] * t0[c] + w[1] * t1[c] + w[2] * t2[c] + w[3] * t3[c] + w[4] * t4[c] + w[5] * t5[c]
            zr = s[0] * t0[c] + s[1] * t1[c] + s[2] * t2[c] + s[3] * t3[c] + s[4] * t4[c] + s[5] * t5[c]
            along += (gi[c] * ej[c] + gj[c] * ei[c]) * (phi_r * (bias[c] + z) + phi * zr)
        dr[e] += along
