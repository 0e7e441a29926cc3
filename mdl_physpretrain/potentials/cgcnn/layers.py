"""Layers of CGCNN: the expansion of distances and the convolution, with MatDeepLearn's parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdl_physpretrain.compiled.cached_tables import WeightCache
from mdl_physpretrain.compiled.splines import spline_coefficients
from mdl_physpretrain.potentials.cgcnn.autograd import Neighbours, convolution

__all__ = ["CGConv", "GaussianBasis", "atom_rows", "edge_parts"]

STEPS_PER_WIDTH = 8  # grid points of the table per standard deviation of the Gaussians


class GaussianBasis(nn.Module):
    """Gaussians of distance on a uniform grid from 0 to ``cutoff`` (Å).

    ``width`` in units of the cutoff (MatDeepLearn: 0.2).
    """

    offset: Tensor

    def __init__(self, cutoff: float, n_basis: int, width: float) -> None:
        super().__init__()
        self.coefficient = -0.5 / (cutoff * width) ** 2
        self.register_buffer("offset", torch.linspace(0.0, cutoff, n_basis))
        self.intervals = math.ceil(STEPS_PER_WIDTH / width)
        self.step = cutoff / self.intervals
        self._table: WeightCache[Tensor] = WeightCache()

    def forward(self, r: Tensor) -> Tensor:
        """Expand distances of shape (E,) to shape (E, n_basis)."""
        return torch.exp(self.coefficient * (r.unsqueeze(-1) - self.offset).square())

    def place(self, r: Tensor) -> Tensor:
        """Distances (E,) in units of the table's grid; those beyond the cutoff are at its end."""
        return (r / self.step).clamp_max(self.intervals)

    def table(self) -> Tensor:
        """The expansion in B-splines of spacing ``step``, shape (intervals + 5, n_basis), float32 on the CPU."""

        def rows() -> Tensor:
            offset = self.offset.numpy().astype(np.float64)
            values = spline_coefficients(
                lambda r: np.exp(self.coefficient * (r[:, None] - offset) ** 2), self.step, self.intervals
            )
            return torch.as_tensor(values.astype(np.float32))

        return self._table.get([self.offset], rows)


class CGConv(nn.Module):
    """One crystal-graph convolution with the split edge linear layer."""

    def __init__(self, dim: int, edge_dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.lin_f = nn.Linear(2 * dim + edge_dim, dim)
        self.lin_s = nn.Linear(2 * dim + edge_dim, dim)

    def forward(self, x: Tensor, edge_index: Tensor, edge_features: Tensor, edge_weight: Tensor) -> Tensor:
        """Features (N, dim) after the layer.

        ``edge_features`` are (E, edge_dim), ``edge_weight`` (E, 1) weighs messages.
        """
        (of_edges,) = edge_parts([self], edge_features)
        return self.add_messages(x, edge_index[0], atom_rows(edge_index), of_edges, edge_weight)

    def add_messages(self, x: Tensor, centre: Tensor, rows: Tensor, of_edges: Tensor, edge_weight: Tensor) -> Tensor:
        """:meth:`forward` with ``rows`` of :func:`atom_rows` and what :func:`edge_parts` makes of the edges for it."""
        joint = torch.cat([self.lin_f.weight[:, : 2 * self.dim], self.lin_s.weight[:, : 2 * self.dim]])
        by_end = joint.unflatten(1, (2, self.dim)).transpose(0, 1).flatten(0, 1)  # for the centre, for the neighbour
        of_atoms = F.linear(x, by_end).view(-1, 2 * self.dim)
        at_centre, at_neighbour = of_atoms.index_select(0, rows.flatten()).view(-1, 2, 2 * self.dim).unbind(1)
        gate, core = (at_centre + at_neighbour + of_edges).split(self.dim, dim=1)
        return x.index_add(0, centre, torch.sigmoid(gate) * F.softplus(core) * edge_weight)

    def fast(self, x: Tensor, edges: Neighbours, rows: Tensor, place: Tensor, edge_weight: Tensor) -> Tensor:
        """:meth:`forward` as machine code, float32 on the CPU, see :func:`convolution`."""
        gate, core = ((layer.weight, layer.bias) for layer in (self.lin_f, self.lin_s))
        return convolution(x, gate, core, rows, place, edge_weight, edges)


def edge_parts(layers: Sequence[CGConv], edge_features: Tensor) -> Sequence[Tensor]:
    """Of the gates, what comes from the distances and the bias, shape (E, 2 dim), for each of some layers."""
    gates = [gate for layer in layers for gate in (layer.lin_f, layer.lin_s)]
    weight = torch.cat([gate.weight[:, 2 * layers[0].dim :] for gate in gates])
    product = F.linear(edge_features, weight, torch.cat([gate.bias for gate in gates]))
    return product.split(2 * layers[0].dim, dim=1)


def atom_rows(edge_index: Tensor) -> Tensor:
    """Rows of centre and neighbour of the edges (2, E) in a table with two rows for every atom, shape (E, 2)."""
    return torch.stack([2 * edge_index[0], 2 * edge_index[1] + 1], dim=1)
