"""Autograd function of one CGCNN convolution, around :mod:`mdl_physpretrain.potentials.cgcnn.kernel`.

Products with weights and the kernel are one function, with its first and
second derivatives written out: for the few atoms of a usual cell the dozens of
small operations that autograd would record cost more than the kernel. It
can be differentiated twice, as training on forces needs. Centres are shared out
over as many threads as PyTorch uses.

With ``a = W_i x + b``, ``b = W_j x``, ``t = P W_e^T`` for each of two gates, the layer is
``x + K(a, b, t, u, w)``; ``K`` is the kernel, ``W = [W_i, W_j, W_e]`` the weights of a gate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mdl_physpretrain.compiled.tensors import arrays_of, needs_gradient
from mdl_physpretrain.compiled.threads import launch, threads_for
from mdl_physpretrain.potentials.cgcnn.kernel import (
    backward,
    backward_shared,
    forward,
    forward_shared,
    second_backward,
    second_backward_shared,
)

__all__ = ["LANES", "Gates", "Neighbours", "add_messages", "convolution", "joined", "parts", "pull_back"]

LANES = 16  # channels come in multiples of this
EDGES_PER_THREAD = 512  # fewer are not worth waking a thread up


@dataclass(frozen=True)
class Neighbours:
    """The neighbours of each centre, and ranges of centres with about as many edges each, one per thread."""

    start: np.ndarray  # first edge of each centre, (N + 1,), int64
    neighbour: np.ndarray  # (E,), int64
    bounds: np.ndarray  # of the ranges, int64

    @classmethod
    def from_edges(cls, edge_index: Tensor, n_atoms: int) -> Neighbours:
        """From edges sorted by centre, shape (2, E), on the CPU."""
        start = np.searchsorted(edge_index[0].numpy(), np.arange(n_atoms + 1))
        edges = edge_index.shape[1]
        threads = threads_for(edges, EDGES_PER_THREAD, n_atoms)
        bounds = np.searchsorted(start[:-1], np.arange(threads + 1) * (edges / threads))
        bounds[0], bounds[-1] = 0, n_atoms
        return cls(start, np.ascontiguousarray(edge_index[1].numpy()), bounds)


class Gates(NamedTuple):
    """Inputs of the kernel, float32: features of centres and neighbours, and rows of B-splines of the distance."""

    a: Tensor  # of centres for the two gates, (N, 2, C); C is a multiple of LANES
    b: Tensor  # of neighbours, (N, 2, C)
    table: Tensor  # (G, 2, C)


def add_messages(out: Tensor, gates: Gates, u: Tensor, w: Tensor, edges: Neighbours) -> None:
    """Add the sums of messages to ``out`` (N, C).

    ``u`` and ``w`` (E,) are places in the table and weights of the edges.
    """
    arguments = (edges.start, edges.neighbour, *arrays_of(u, w, *gates), out.numpy())
    launch(forward, forward_shared, edges.bounds, arguments)


def pull_back(
    g: Tensor,
    gates: Gates,
    u: Tensor,
    w: Tensor,
    edges: Neighbours,
    du: Tensor,
    dw: Tensor,
    *,
    with_nodes: bool = True,
    with_table: bool = False,
) -> Gates:
    """Derivatives of ``sum(g * messages)`` by the gates; those by ``u`` and ``w`` are added to ``du`` and ``dw``.

    What is returned without ``with_nodes`` (``a``, ``b``) or ``with_table`` means nothing.
    """
    a, b, table = gates
    da, sums = torch.zeros_like(a), [b if with_nodes else b[:0], table if with_table else table[:0]]
    arguments = (edges.start, edges.neighbour, *arrays_of(u, w, a, b, table, g), *arrays_of(da, du, dw))
    return Gates(da, *launch(backward, backward_shared, edges.bounds, arguments, sums))


def convolution(
    x: Tensor,
    gate: tuple[Tensor, Tensor],
    core: tuple[Tensor, Tensor],
    rows: Tensor,
    place: Tensor,
    edge_weight: Tensor,
    edges: Neighbours,
) -> Tensor:
    """Features (N, D) after one layer, float32 on the CPU.

    ``gate`` and ``core`` are weights (D, 2 D + F) and biases (D,); ``rows`` (G, F) is the expansion of distances in
    B-splines, without gradient; ``place`` (in units of the splines' grid) and ``edge_weight`` are (E,).
    """
    return _Layer.apply(x, *gate, *core, place, edge_weight, rows, edges)


def joined(first: Tensor, second: Tensor) -> Tensor:
    """Two tensors of the same shape as the halves of one, each padded to ``C`` rows: shape (2 C, ...)."""
    d = len(first)
    out = first.new_empty(2, -(-d // LANES) * LANES, *first.shape[1:])
    out[0, :d], out[1, :d], out[:, d:] = first, second, 0
    return out.flatten(0, 1)


def _gates(x: Tensor, weight: Tensor, bias: Tensor, rows: Tensor) -> Gates:
    """What the kernel reads, from joined weights (2 C, 2 D + F) and biases (2 C,)."""
    centre, neighbour, edge = parts(weight, x.shape[1])
    products = torch.addmm(bias, x, centre.T), torch.mm(x, neighbour.T), torch.mm(rows, edge.T)
    return Gates(*(product.view(len(product), 2, -1) for product in products))


def parts(weight: Tensor, d: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of joined weights (2 C, 2 D + F): what meets the features of centres and neighbours, and the distances."""
    return weight[:, :d], weight[:, d : 2 * d], weight[:, 2 * d :]


def _add_to_features(out: Tensor, gates: Gates, weight: Tensor) -> Tensor:
    """Add what derivatives by ``a`` and ``b`` mean for the features to ``out``, shape (N, D)."""
    centre, neighbour, _ = parts(weight, out.shape[1])
    return out.addmm_(gates.a.flatten(1), centre).addmm_(gates.b.flatten(1), neighbour)


def _to_weights(gates: Gates, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """What derivatives by the gates mean for the joined weights and biases."""
    d = x.shape[1]
    a, b, table = (part.flatten(1) for part in gates)
    weight = x.new_empty(a.shape[1], 2 * d + rows.shape[1])
    for part, left, right in zip(parts(weight, d), (a, b, table), (x, x, rows), strict=True):
        torch.mm(left.T, right, out=part)
    return weight, a.sum(0)


def _apart(weight: Tensor, bias: Tensor, d: int) -> tuple[Tensor, ...]:
    """Weights and biases of the two gates, ``D`` rows each, of joined ones."""
    second = len(bias) // 2
    return weight[:d], bias[:d], weight[second : second + d], bias[second : second + d]


def _padded(x: Tensor, channels: int) -> Tensor:
    out = x.new_zeros(len(x), channels)
    out[:, : x.shape[1]] = x
    return out


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        x, w1, b1, w2, b2, u, w, rows, edges = arguments
        weight = joined(w1, w2)
        gates = _gates(x, weight, joined(b1, b2), rows)
        out = _padded(x, gates.a.shape[2])
        add_messages(out, gates, u, w, edges)
        ctx.save_for_backward(x, w1, b1, w2, b2, u, w)
        ctx.constants = gates, weight, rows, edges
        return out[:, : x.shape[1]].contiguous()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        with_weights = any(needs_gradient(ctx, k) for k in range(1, 5))
        return (*_LayerBackward.apply(g, *ctx.saved_tensors, *ctx.constants, with_weights), None, None)


class _LayerBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor | None, ...]:
        g, x, *_, u, w, gates, weight, rows, edges, with_weights = arguments
        ctx.set_materialize_grads(False)
        padded = _padded(g, gates.a.shape[2])
        du, dw = torch.zeros_like(u), torch.zeros_like(w)
        slopes = pull_back(padded, gates, u, w, edges, du, dw, with_table=with_weights)
        ctx.save_for_backward(x, u, w)
        ctx.constants = padded, gates, slopes, weight, rows, edges
        dx = _add_to_features(g.clone(), slopes, weight)
        weights = _apart(*_to_weights(slopes, x, rows), x.shape[1]) if with_weights else [None] * 4
        return dx, *weights, du, dw

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, cx: Tensor | None, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if any(c is not None for c in gradients[:4]):
            raise NotImplementedError("gradients with respect to the weights cannot be differentiated; set fast=False")
        x, u, w = ctx.saved_tensors
        g, gates, slopes, weight, rows, edges = ctx.constants
        cx = torch.zeros_like(x) if cx is None else cx
        cu, cw = (torch.zeros_like(u) if c is None else c for c in gradients[4:])
        d = x.shape[1]
        centre, neighbour, _ = parts(weight, d)
        ca, cb = torch.mm(cx, centre.T), torch.mm(cx, neighbour.T)  # the direction in which the gates move
        da, dg, du, dw = torch.zeros_like(gates.a), _padded(cx, g.shape[1]), torch.empty_like(u), torch.empty_like(w)
        moved = ca.view_as(gates.a), cb.view_as(gates.b), cu, cw
        arguments = (edges.start, edges.neighbour, *arrays_of(u, w, *gates, g, *moved), *arrays_of(da, du, dw, dg))
        sums = (gates.b, gates.table)
        second = Gates(da, *launch(second_backward, second_backward_shared, edges.bounds, arguments, sums))
        dx = _add_to_features(torch.zeros_like(x), second, weight)
        dweight, dbias = _to_weights(second, x, rows)
        # the first derivative by `x` is a product with the weights, too
        for part, slope in zip(parts(dweight, d), slopes[:2], strict=False):
            part.addmm_(slope.flatten(1).T, cx)
        return dg[:, :d], dx, *_apart(dweight, dbias, d), du, dw, None, None, None, None, None
