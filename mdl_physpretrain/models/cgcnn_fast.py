"""The convolution of :mod:`mdl_physpretrain.models.cgcnn_kernel` as a function that autograd knows.

It can be differentiated twice, as training on forces needs. Centres are shared
out over as many threads as PyTorch uses.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["LANES", "Neighbours", "convolve"]

LANES = 16  # channels come in multiples of this
EDGES_PER_THREAD = 1024  # fewer are not worth waking a thread up
_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


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
        arrays = _arrays(u, w, a, b, table)
        target = out.numpy()
        _share(edges, lambda first, last: forward(first, last, edges.start, edges.neighbour, *arrays, target))
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        gradients = _ConvolveBackward.apply(g, *ctx.saved_tensors, ctx.edges, _wanted(ctx, 2))
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
        shared = _Shared(b, table if with_table else table[:0])
        arrays, targets = _arrays(u, w, a, b, table, g), _arrays(du, dw)

        def work(first: int, last: int) -> None:
            backward(first, last, edges.start, edges.neighbour, *arrays, da.numpy(), *shared.own(), *targets)

        _share(edges, work)
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
        shared = _Shared(b, table if with_table else table[:0])
        arrays, targets = _arrays(u, w, a, b, table, g, *along), _arrays(du, dw, dg)

        def work(first: int, last: int) -> None:
            second_backward(first, last, edges.start, edges.neighbour, *arrays, da.numpy(), *shared.own(), *targets)

        _share(edges, work)
        db, dtable = shared.sums()
        return dg, da, db, dtable if with_table else None, du, dw, None, None


def _wanted(ctx: Any, argument: int) -> bool:
    """Whether the backward pass that is running goes on to this argument: for forces, not to the weights."""
    if not ctx.needs_input_grad[argument]:
        return False
    try:
        return torch._C._will_engine_execute_node(ctx.next_functions[argument][0])
    except (AttributeError, RuntimeError):  # another version of PyTorch; a leaf
        return True


class _Shared:
    """Sums to which every thread adds: each has arrays of its own."""

    def __init__(self, *like: Tensor) -> None:
        self.like = like
        self.parts: list[list[Tensor]] = []

    def own(self) -> list[np.ndarray]:
        part = [torch.zeros_like(x) for x in self.like]
        self.parts.append(part)
        return [x.numpy() for x in part]

    def sums(self) -> list[Tensor]:
        first, *rest = self.parts
        for part in rest:
            for total, x in zip(first, part, strict=True):
                total.add_(x)
        return first


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [x.detach().contiguous().numpy() for x in tensors]


def _share(edges: Neighbours, work: Callable[[int, int], None]) -> None:
    """Do the work for all centres, the first share of it in this thread."""
    (first, last), *others = edges.shares()
    if not others:
        work(first, last)
        return
    key = (os.getpid(), len(others))  # a forked process has no threads of its parent's
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(len(others), thread_name_prefix="convolve")
    waiting = [_pools[key].submit(work, *share) for share in others]
    work(first, last)
    for future in waiting:
        future.result()
