"""The convolution of :mod:`mdl_physpretrain.models.cgcnn_kernel` as a function that autograd knows.

It can be differentiated twice, as training on forces needs. Centres are shared
out over as many threads as PyTorch uses.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mdl_physpretrain.models.threads import Shared, arrays_of, share, wanted

__all__ = ["LANES", "Neighbours", "convolve"]

LANES = 16  # channels come in multiples of this
EDGES_PER_THREAD = 1024  # fewer are not worth waking a thread up


@dataclass(frozen=True)
class Neighbours:
    """Who the neighbours of each centre are.

    Attributes
    ----------
    start
        Where the edges of each centre begin, shape (N + 1,), int64.
    neighbour
        Neighbour of each edge, shape (E,), int64.
    """

    start: np.ndarray
    neighbour: np.ndarray

    @classmethod
    def from_edges(cls, edge_index: Tensor, n_atoms: int) -> Neighbours:
        """From edges sorted by centre, shape (2, E), on the CPU."""
        start = np.zeros(n_atoms + 1, dtype=np.int64)
        np.cumsum(np.bincount(edge_index[0].numpy(), minlength=n_atoms), out=start[1:])
        return cls(start, np.ascontiguousarray(edge_index[1].numpy()))

    def shares(self) -> list[tuple[int, int]]:
        """Ranges of centres with about as many edges each, one per thread."""
        n, edges = len(self.start) - 1, len(self.neighbour)
        threads = max(1, min(torch.get_num_threads(), edges // EDGES_PER_THREAD))
        cuts = np.searchsorted(self.start, np.arange(1, threads) * (edges / threads)).tolist()
        bounds = [0, *cuts, n]
        return list(itertools.pairwise(bounds))


def convolve(a: Tensor, b: Tensor, table: Tensor, u: Tensor, w: Tensor, edges: Neighbours) -> Tensor:
    """Sums of messages at their centres.

    Parameters
    ----------
    a, b
        What centres and neighbours give to the two gates, shape (N, 2, C),
        float32, ``C`` a multiple of :data:`LANES`.
    table
        What distances give: rows of B-splines, shape (G, 2, C).
    u, w
        Place in the table and weight of each edge, shape (E,).
    edges
        The graph.

    Returns
    -------
    Tensor
        Shape (N, C).
    """
    return _Convolve.apply(a, b, table, u, w, edges)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, table: Tensor, u: Tensor, w: Tensor, edges: Neighbours) -> Tensor:
        from mdl_physpretrain.models.cgcnn_kernel import forward

        ctx.save_for_backward(a, b, table, u, w)
        ctx.edges = edges
        out = a.new_zeros(len(a), a.shape[2])
        arrays = arrays_of(u, w, a, b, table)
        target = out.numpy()
        share(edges.shares(), lambda first, last: forward(first, last, edges.start, edges.neighbour, *arrays, target))
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        gradients = _ConvolveBackward.apply(g, *ctx.saved_tensors, ctx.edges, wanted(ctx, 2))
        return (*gradients, None)


class _ConvolveBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        g: Tensor,
        a: Tensor,
        b: Tensor,
        table: Tensor,
        u: Tensor,
        w: Tensor,
        edges: Neighbours,
        with_table: bool,
    ) -> tuple[Tensor | None, ...]:
        from mdl_physpretrain.models.cgcnn_kernel import backward

        ctx.save_for_backward(g, a, b, table, u, w)
        ctx.edges = edges
        ctx.set_materialize_grads(False)
        da, du, dw = torch.zeros_like(a), torch.empty_like(u), torch.empty_like(w)
        shared = Shared(b, table if with_table else table[:0])
        arrays, targets = arrays_of(u, w, a, b, table, g), arrays_of(du, dw)

        def work(first: int, last: int) -> None:
            backward(
                first, last, edges.start, edges.neighbour, *arrays, da.numpy(), *shared.own((first, last)), *targets
            )

        share(edges.shares(), work)
        db, dtable = shared.sums()
        return da, db, dtable if with_table else None, du, dw

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, ca: Tensor | None, cb: Tensor | None, ct: Tensor | None, cu: Tensor | None, cw: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        from mdl_physpretrain.models.cgcnn_kernel import second_backward

        if ct is not None:
            raise NotImplementedError("gradients with respect to the weights cannot be differentiated; set fast=False")
        edges = ctx.edges
        g, a, b, table, u, w = ctx.saved_tensors
        along = [torch.zeros_like(x) if c is None else c for x, c in ((a, ca), (b, cb), (u, cu), (w, cw))]
        da, dg, du, dw = torch.zeros_like(a), torch.zeros_like(g), torch.empty_like(u), torch.empty_like(w)
        with_table = ctx.needs_input_grad[3]
        shared = Shared(b, table if with_table else table[:0])
        arrays, targets = arrays_of(u, w, a, b, table, g, *along), arrays_of(du, dw, dg)

        def work(first: int, last: int) -> None:
            second_backward(
                first, last, edges.start, edges.neighbour, *arrays, da.numpy(), *shared.own((first, last)), *targets
            )

        share(edges.shares(), work)
        db, dtable = shared.sums()
        return dg, da, db, dtable if with_table else None, du, dw, None, None
