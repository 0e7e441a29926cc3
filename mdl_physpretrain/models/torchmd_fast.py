"""The messages of :mod:`mdl_physpretrain.models.torchmd_kernel` as a function that autograd knows.

It can be differentiated twice, as training on forces needs. Pairs are shared
out over as many threads as PyTorch uses.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mdl_physpretrain.models.radial_spline import spline_coefficients
from mdl_physpretrain.models.threads import Shared, arrays_of, share, wanted

__all__ = ["LANES", "FastPairs", "attention", "gaussian_rows", "intervals_for", "messages"]

LANES = 16  # channels of a head
PAIRS_PER_THREAD = 512  # fewer are not worth waking a thread up
STEPS_PER_WIDTH = 8  # grid points in one standard deviation: Gaussians are met to 5e-9
SHARPEST = 1e4  # exponent of a Gaussian; narrower ones would need tables of thousands of rows


@dataclass(frozen=True)
class FastPairs:
    """Unordered pairs, one for each image, and what depends on their distance alone.

    Attributes
    ----------
    centre, neighbour, row
        Atoms and first row of the table, shape (M,), int64.
    spline
        Weights of six rows and their first and second derivatives by distance, shape (3, M, 6).
    envelope
        Cutoffs of scalar and of vector messages and their derivatives, shape (3, M, 2).
    r, direction
        Distances (M,) and unit vectors (M, 3), with gradients.
    intervals
        Of the grid in ``exp(-alpha r)`` from 0 to 1.
    """

    centre: np.ndarray
    neighbour: np.ndarray
    row: np.ndarray
    spline: np.ndarray
    envelope: np.ndarray
    r: Tensor
    direction: Tensor
    intervals: int

    @classmethod
    def make(
        cls,
        centre: Tensor,
        neighbour: Tensor,
        r: Tensor,
        direction: Tensor,
        *,
        cutoff: float,
        alpha: float,
        intervals: int,
        smooth: bool,
    ) -> FastPairs:
        """From atoms (M,), distances and directions; ``smooth`` cuts vector messages off too."""
        distance = r.detach().numpy().astype(np.float64)
        k = math.pi / cutoff
        phi = np.stack(
            [
                0.5 * (np.cos(k * distance) + 1),
                -0.5 * k * np.sin(k * distance),
                -0.5 * k * k * np.cos(k * distance),
            ]
        )
        u = np.exp(-alpha * distance) * intervals
        row = np.nan_to_num(u).clip(0, intervals - 1).astype(np.int64)
        basis, slope, curvature = b_splines(u - row)
        first, second = (-alpha * u)[:, None], (alpha * alpha * u)[:, None]
        slope, curvature = slope * first, curvature * first * first + slope * second
        p0, p1, p2 = phi[:, :, None]
        spline = np.stack([p0 * basis, p1 * basis + p0 * slope, p2 * basis + 2 * p1 * slope + p0 * curvature])
        constant = np.zeros_like(phi)
        constant[0] = 1
        envelope = np.stack([phi, phi if smooth else constant], axis=2)
        return cls(
            centre=np.ascontiguousarray(centre.numpy()),
            neighbour=np.ascontiguousarray(neighbour.numpy()),
            row=row,
            spline=spline.astype(np.float32),
            envelope=envelope.astype(np.float32),
            r=r,
            direction=direction,
            intervals=intervals,
        )

    def arrays(self) -> tuple[np.ndarray, ...]:
        direction = np.ascontiguousarray(self.direction.detach().numpy())
        return self.centre, self.neighbour, self.row, self.spline, self.envelope, direction

    def shares(self) -> list[tuple[int, int]]:
        """Ranges of pairs, one per thread."""
        n = len(self.row)
        threads = max(1, min(torch.get_num_threads(), n // PAIRS_PER_THREAD))
        return list(itertools.pairwise(n * k // threads for k in range(threads + 1)))


def b_splines(t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Quintic B-splines of ``t`` (M,) in [0, 1]: values and two derivatives, shape (M, 6) each."""
    lower = [np.ones_like(t)]
    orders = [lower]
    for degree in range(1, 6):
        # of the splines that are not zero at t, number m starts degree - m intervals before
        padded = [np.zeros_like(t), *lower, np.zeros_like(t)]
        lower = [((t + degree - m) * padded[m] + (1 - t + m) * padded[m + 1]) / degree for m in range(degree + 1)]
        orders.append(lower)
    zero = np.zeros_like(t)
    value = np.stack(orders[5], axis=1)
    fourth = np.stack([zero, *orders[4], zero], axis=1)
    third = np.stack([zero, zero, *orders[3], zero, zero], axis=1)
    slope = fourth[:, :-1] - fourth[:, 1:]
    curvature = third[:, :-2] - 2 * third[:, 1:-1] + third[:, 2:]
    return value, slope, curvature


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


def gaussian_rows(means: Tensor, betas: Tensor, intervals: int) -> Tensor:
    """Rows (intervals + 5, n) of the splines of ``exp(-beta (s - mean)^2)``, differentiable in both arguments."""
    points, matrix = _solver(intervals)
    values = torch.exp(-betas.double() * (points.unsqueeze(1) - means.double()).square())
    return (matrix @ values).to(means.dtype)


def attention(
    layer: Any, x: Tensor, vec: Tensor | None, pairs: FastPairs, rows: Tensor, *, last: bool
) -> tuple[Tensor, Tensor | None]:
    """What :meth:`Attention.forward` computes, from rows of splines (G, n_basis); vectors are (N, 3, C) here."""
    channels, n = layer.channels, len(x)
    parts = 2 if last else 3 if vec is None else 4
    x = layer.layernorm(x)
    value, gate, strength = _by_part(layer.v_proj, layer.heads)
    nodes = [(layer.q_proj.weight, layer.q_proj.bias), (layer.k_proj.weight, layer.k_proj.bias), value, strength, gate]
    weight, bias = (torch.cat(t) for t in zip(*nodes[: parts + 1], strict=True))
    features = F.linear(x, weight, bias).view(n, parts + 1, channels)
    if parts == 4 and vec is not None:
        features = torch.cat([features[:, :4], vec * features[:, 4:]], dim=1)
    value, along, across = _by_part(layer.dv_proj, layer.heads)
    radial = [(layer.dk_proj.weight, layer.dk_proj.bias), value, across, along][:parts]
    table = torch.stack([w for w, _ in radial]).matmul(rows.T).mT
    out = messages(features, table, torch.stack([b for _, b in radial]), pairs)
    o1, o2, o3 = layer.o_proj(out[:, 0]).split(channels, dim=1)
    if vec is None:
        return o3, None if last else out[:, 1:]
    w = F.linear(vec, layer.vec_proj.weight[: 2 * channels] if last else layer.vec_proj.weight).split(channels, dim=2)
    dx = o3 + (w[0] * w[1]).sum(1) * o2
    return dx, None if last else out[:, 1:] + w[2] * o1.unsqueeze(1)


def _by_part(linear: Any, heads: int) -> list[tuple[Tensor, Tensor]]:
    """Weights and biases of the three parts that each head's rows of a layer consist of."""
    weight = linear.weight.view(heads, 3, -1, linear.in_features).unbind(1)
    bias = linear.bias.view(heads, 3, -1).unbind(1)
    return [(w.flatten(0, 1), b.flatten()) for w, b in zip(weight, bias, strict=True)]


def messages(x: Tensor, table: Tensor, bias: Tensor, pairs: FastPairs) -> Tensor:
    """Sums of messages at their atoms.

    Parameters
    ----------
    x
        ``q, k, v`` and, for vector messages, ``s`` and ``w``: shape (N, 3, 4 or 7, C).
    table, bias
        Rows of the radial functions (parts, G, C) and their constants (parts, C);
        two, three or four parts.
    pairs
        The graph.

    Returns
    -------
    Tensor
        Shape (N, 1, C), or (N, 4, C) from three parts on: scalar, then vector messages.
    """
    return _Messages.apply(x, table, bias, pairs.r, pairs.direction, pairs)


class _Messages(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, table: Tensor, bias: Tensor, r: Tensor, direction: Tensor, pairs: FastPairs
    ) -> Tensor:
        from mdl_physpretrain.models.torchmd_kernel import forward

        ctx.save_for_backward(x, table, bias, r, direction)
        ctx.pairs = pairs
        arrays = (*pairs.arrays(), *arrays_of(x, table, bias))
        shared = Shared(x.new_empty(len(x), 4 if len(table) > 2 else 1, x.shape[2]))
        share(pairs.shares(), lambda first, last: forward(first, last, *arrays, *shared.own((first, last))))
        return shared.sums()[0]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        gradients = _MessagesBackward.apply(g, *ctx.saved_tensors, ctx.pairs, wanted(ctx, 1))
        return (*gradients, None)


class _MessagesBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        g: Tensor,
        x: Tensor,
        table: Tensor,
        bias: Tensor,
        r: Tensor,
        direction: Tensor,
        pairs: FastPairs,
        with_table: bool,
    ) -> tuple[Tensor | None, ...]:
        from mdl_physpretrain.models.torchmd_kernel import backward

        ctx.save_for_backward(g, x, table, bias, r, direction)
        ctx.pairs = pairs
        ctx.set_materialize_grads(False)
        dr, dn = torch.empty_like(r), direction.new_empty(direction.shape)
        arrays, targets = (*pairs.arrays(), *arrays_of(x, table, bias, g)), (dr.numpy(), dn.numpy())
        shared = Shared(x, table if with_table else table[:, :0], bias)
        share(pairs.shares(), lambda first, last: backward(first, last, *arrays, *shared.own((first, last)), *targets))
        dx, dtable, dbias = shared.sums()
        return dx, dtable if with_table else None, dbias if with_table else None, dr, dn

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, ux: Tensor | None, ut: Tensor | None, ub: Tensor | None, ur: Tensor | None, un: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        from mdl_physpretrain.models.torchmd_second import second_backward

        if ut is not None or ub is not None:
            raise NotImplementedError("gradients with respect to the weights cannot be differentiated; set fast=False")
        pairs = ctx.pairs
        g, x, table, bias, r, direction = ctx.saved_tensors
        along = [torch.zeros_like(v) if u is None else u for v, u in ((x, ux), (r, ur), (direction, un))]
        dr, dn = torch.empty_like(r), direction.new_empty(direction.shape)
        with_table = ctx.needs_input_grad[2]
        arrays, targets = (*pairs.arrays(), *arrays_of(x, table, bias, g, *along)), (dr.numpy(), dn.numpy())
        shared = Shared(x, table if with_table else table[:, :0], bias, g)

        def work(first: int, last: int) -> None:
            *own, dg = shared.own((first, last))
            second_backward(first, last, *arrays, *own, *targets, dg)

        share(pairs.shares(), work)
        dx, dtable, dbias, dg = shared.sums()
        return dg, dx, dtable if with_table else None, dbias if with_table else None, dr, dn, None, None
