"""Graphs with nearest images or so many neighbours only, as other programs build them."""

from __future__ import annotations

import torch
from torch import Tensor

from mdl_physpretrain.graphs.batch import AtomicBatch

__all__ = ["select_edges"]


def select_edges(batch: AtomicBatch, r: Tensor, *, images: str = "all", limit: int | None = None) -> Tensor | None:
    """Indices (E',) of the edges that stay, sorted, or ``None`` when all do.

    ``images="nearest"`` keeps only the nearest periodic image of a neighbour, and none of the atom itself (the
    minimum-image graph, MatDeepLearn's ``edge_calc_method: mdl``). ``limit`` is the longest list of neighbours, the
    nearest stay; it counts the edges of a centre or, with ``"nearest"``, those an atom appears in as a neighbour:
    there MatDeepLearn shortens the rows of a matrix whose columns it sums over.
    """
    centre, neighbour = batch.edge_index
    r = r.detach()
    n_atoms = len(batch.numbers)
    keep = torch.arange(len(r), device=r.device)
    if images == "nearest":
        keep = keep[centre != neighbour]
        pair = centre[keep] * n_atoms + neighbour[keep]
        keep = keep[_rank(pair, r[keep]) == 0]
    if limit is not None:
        group = (neighbour if images == "nearest" else centre)[keep]
        if bool((torch.bincount(group, minlength=1) > limit).any()):
            keep = keep[_rank(group, r[keep]) < limit]
    return None if len(keep) == len(r) else keep


def _rank(group: Tensor, r: Tensor) -> Tensor:
    """Position of every edge in its group, in order of length, shape (E,)."""
    by_length = torch.argsort(r, stable=True)
    order = by_length[torch.argsort(group[by_length], stable=True)]
    ordered = group[order]
    index = torch.arange(len(r), device=r.device)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    start = torch.cummax(torch.where(first, index, torch.zeros_like(index)), dim=0).values
    rank = torch.empty_like(index)
    rank[order] = index - start
    return rank
