"""Autograd functions around the message kernels of the equivariant transformer, and tables of its radial functions.

It can be differentiated twice, as training on forces needs. Pairs are shared
out over as many threads as PyTorch uses.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mdl_physpretrain.compiled.splines import spline_coefficients
from mdl_physpretrain.compiled.tensors import arrays_of, needs_gradient
from mdl_physpretrain.compiled.threads import launch, threads_for
from mdl_physpretrain.potentials.torchmd_et.geometry_kernel import radial_weights
from mdl_physpretrain.potentials.torchmd_et.message_kernel import backward, backward_shared, forward, forward_shared
from mdl_physpretrain.potentials.torchmd_et.second_derivative_kernel import second_backward, second_backward_shared

__all__ = [
    "BLOCKS",
    "LANES",
    "FastPairs",
    "Grid",
    "arrays_of",
    "attention",
    "gaussian_rows",
    "intervals_for",
    "messages",
]

LANES = 16  # channels of a head
BLOCKS = {2: 3, 3: 4, 4: 7}  # of features that meet so many radial functions
PAIRS_PER_THREAD = 256  # fewer are not worth waking a thread up
STEPS_PER_WIDTH = 8  # grid points in one standard deviation: Gaussians are met to 5e-9
SHARPEST = 1e4  # exponent of a Gaussian; narrower ones would need tables of thousands of rows


class Grid(NamedTuple):
    """Grid of the tabulated radial functions: ``intervals`` in ``exp(-alpha r)`` from 0 to 1."""

    cutoff: float  # Å
    alpha: float  # 1/Å
    intervals: int
    smooth: bool  # vector messages are cut off, too


@dataclass(frozen=True)
class FastPairs:
    """Unordered pairs, one for each image, and what depends on their distance alone."""

    centre: np.ndarray  # (M,), int64
    neighbour: np.ndarray  # (M,), int64
    row: np.ndarray  # first row of the table, (M,), int64
    spline: np.ndarray  # weights of six rows and their derivatives by distance, (2 or 3, M, 6)
    envelope: np.ndarray  # cutoffs of scalar and vector messages and their derivatives, (2 or 3, M, 2)
    r: Tensor  # (M,), with gradient
    direction: Tensor  # (M, 3), with gradient

    @classmethod
    def make(
        cls, centre: Tensor, neighbour: Tensor, r: Tensor, direction: Tensor, grid: Grid, derivatives: int = 2
    ) -> FastPairs:
        """From atoms (M,), distances (M,) and directions (M, 3)."""
        m, n = len(r), derivatives + 1
        row, spline, envelope = np.empty(m, np.int64), np.empty((n, m, 6), np.float32), np.empty((n, m, 2), np.float32)
        radial_weights(*arrays_of(r), *grid, row, spline, envelope)
        i, j = arrays_of(centre, neighbour)
        return cls(i, j, row, spline, envelope, r, direction)

    def confined(self) -> tuple[FastPairs, slice]:
        """The same with a table of only those rows that some pair uses, and which they are."""
        first, last = int(self.row.min()), int(self.row.max()) + 6
        return replace(self, row=self.row - first), slice(first, last)

    def arrays(self) -> tuple[np.ndarray, ...]:
        direction = np.ascontiguousarray(self.direction.detach().numpy())
        return self.centre, self.neighbour, self.row, self.spline, self.envelope, direction

    def bounds(self, atoms: int) -> list[int]:
        """Where the pairs of each thread begin, and the end; ``atoms`` is the number of all."""
        n = len(self.row)
        threads = threads_for(n, PAIRS_PER_THREAD, atoms)
        return [n * k // threads for k in range(threads + 1)]


@functools.lru_cache(maxsize=8)
def _solver(intervals: int) -> tuple[Tensor, Tensor]:
    """Points of the grid, and the matrix from values there to rows of the spline."""
    points = np.empty(0)

    def identity(at: np.ndarray) -> np.ndarray:
        nonlocal points
        points = at
        return np.eye(len(at))

    matrix = spline_coefficients(identity, 1 / intervals, intervals)
    with torch.inference_mode(False):  # they outlive this call
        return torch.from_numpy(points), torch.from_numpy(matrix)


def intervals_for(betas: Tensor) -> int | None:
    """Intervals that resolve Gaussians ``exp(-beta (s - mean)^2)`` for ``s`` in [0, 1]; ``None`` where none do."""
    low, high = (float(b) for b in torch.aminmax(betas.detach()))
    if not (low > 0 and high < SHARPEST):
        return None
    needed = STEPS_PER_WIDTH * math.sqrt(2 * max(high, 1.0))
    return round(2 ** (math.ceil(4 * math.log2(needed)) / 4))  # few different ones: a change costs a matrix


def gaussian_rows(means: Tensor, betas: Tensor, intervals: int, part: slice = slice(None)) -> Tensor:
    """Of ``intervals + 5`` rows (n,) of the splines of ``exp(-beta (s - mean)^2)`` a part, differentiable."""
    points, matrix = _solver(intervals)
    values = torch.exp(-betas.double() * (points.unsqueeze(1) - means.double()).square())
    return (matrix[part] @ values).to(means.dtype)


def attention(
    layer: Any, x: Tensor, vec: Tensor | None, pairs: FastPairs, rows: Tensor, *, last: bool
) -> tuple[Tensor, Tensor | None]:
    """What :meth:`Attention.forward` computes, from rows of splines (G, n_basis); vectors are (N, 3, C) here."""
    channels, n = layer.channels, len(x)
    parts = 2 if last else 3 if vec is None else 4
    x = layer.layernorm(x)
    value, gate, strength = _by_part(layer.v_proj, layer.heads)
    nodes = [*_by_part(layer.q_proj, layer.heads), *_by_part(layer.k_proj, layer.heads), value, strength, gate]
    weight, bias = _joined(nodes[: parts + 1])
    features = F.linear(x, weight, bias).view(n, parts + 1, channels)
    if parts == 4 and vec is not None:
        features = torch.cat([features[:, :4], vec * features[:, 4:]], dim=1)
    out = messages(features, *radial_table(layer, rows, parts), pairs)
    o1, o2, o3 = layer.o_proj(out[:, 0]).split(channels, dim=1)
    if vec is None:
        return o3, None if last else out[:, 1:]
    w = F.linear(vec, layer.vec_proj.weight[: 2 * channels] if last else layer.vec_proj.weight).split(channels, dim=2)
    dx = o3 + (w[0] * w[1]).sum(1) * o2
    return dx, None if last else out[:, 1:] + w[2] * o1.unsqueeze(1)


def radial_table(layer: Any, rows: Tensor, parts: int) -> tuple[Tensor, Tensor]:
    """Table (G, parts, C) and bias (parts, C) of a layer's radial functions, from rows of splines (G, n_basis)."""
    value, along, across = _by_part(layer.dv_proj, layer.heads)
    weight, bias = _joined([*_by_part(layer.dk_proj, layer.heads), value, across, along][:parts])
    return F.linear(rows, weight).view(len(rows), parts, -1), bias.view(parts, -1)


def _by_part(linear: Any, heads: int) -> list[tuple[Tensor, Tensor]]:
    """Weights (heads, LANES, in) and biases of each part, of which every head's rows of a layer hold one or three."""
    weight = linear.weight.view(heads, -1, LANES, linear.in_features).unbind(1)
    return list(zip(weight, linear.bias.view(heads, -1, LANES).unbind(1), strict=True))


def _joined(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Weight (n * channels, in) and bias of parts below each other, in one copy."""
    weight, bias = (torch.cat(t) for t in zip(*parts, strict=True))
    return weight.flatten(0, 1), bias.flatten()


def messages(x: Tensor, table: Tensor, bias: Tensor, pairs: FastPairs) -> Tensor:
    """Sums of messages at their atoms: (N, 1, C), or scalar and vector ones (N, 4, C) from three parts on.

    ``x`` is ``q, k, v`` and, for vector messages, ``s`` and ``w`` (N, 3, 4 or 7, C); ``table`` (G, parts, C) and
    ``bias`` (parts, C) are the radial functions.
    """
    return _Messages.apply(x, table, bias, pairs.r, pairs.direction, pairs)


def messages_forward(x: Tensor, table: Tensor, bias: Tensor, pairs: FastPairs) -> Tensor:
    """:func:`messages` without a derivative."""
    arguments = [*pairs.arrays(), *arrays_of(x, table, bias)]
    sums = x.new_empty(len(x), 4 if len(bias) > 2 else 1, x.shape[2])
    return launch(forward, forward_shared, pairs.bounds(len(x)), arguments, [sums])[0]


def messages_backward(
    g: Tensor, x: Tensor, table: Tensor, bias: Tensor, pairs: FastPairs, *, with_table: bool
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor, Tensor]:
    """Gradients of ``x, table, bias``, distances and directions, given that of the messages."""
    dr, dn = torch.empty_like(pairs.r), torch.empty_like(pairs.direction)
    arguments = [*pairs.arrays(), *arrays_of(x, table, bias, g, dr, dn)]
    sums = (x, table if with_table else table[:0], bias)
    dx, dtable, dbias = launch(backward, backward_shared, pairs.bounds(len(x)), arguments, sums)
    return dx, dtable if with_table else None, dbias if with_table else None, dr, dn


class _Messages(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        x, table, bias, r, direction, pairs = arguments
        ctx.save_for_backward(x, table, bias, r, direction)
        ctx.pairs = pairs
        return messages_forward(x, table, bias, pairs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        gradients = _MessagesBackward.apply(
            g, *ctx.saved_tensors, ctx.pairs, needs_gradient(ctx, 1) or needs_gradient(ctx, 2)
        )
        return (*gradients, None)


class _MessagesBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor | None, ...]:
        g, x, table, bias, r, direction, pairs, with_table = arguments
        ctx.save_for_backward(g, x, table, bias, r, direction)
        ctx.pairs = pairs
        ctx.set_materialize_grads(False)
        return messages_backward(g, x, table, bias, pairs, with_table=with_table)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, ux: Tensor | None, ut: Tensor | None, ub: Tensor | None, ur: Tensor | None, un: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        if ut is not None or ub is not None:
            raise NotImplementedError("gradients with respect to the weights cannot be differentiated; set fast=False")
        pairs, with_table = ctx.pairs, any(ctx.needs_input_grad[2:4])
        g, x, table, bias, r, direction = ctx.saved_tensors
        along = [torch.zeros_like(v) if u is None else u for v, u in ((x, ux), (r, ur), (direction, un))]
        dr, dn = torch.empty_like(r), torch.empty_like(direction)
        arguments = [*pairs.arrays(), *arrays_of(x, table, bias, g, *along, dr, dn)]
        sums = (x, table if with_table else table[:0], bias, g)
        bounds = pairs.bounds(len(x))
        dx, dtable, dbias, dg = launch(second_backward, second_backward_shared, bounds, arguments, sums)
        return dg, dx, dtable if with_table else None, dbias if with_table else None, dr, dn, None, None
