"""Energies and forces of a CGCNN with constant weights, without autograd.

In MD nobody asks for gradients of the weights. The derivative of the energy
with respect to the distances is then a dozen matrix products and the kernels,
called in reverse order: what autograd spends on a graph, which for a small
cell is as much as the kernels take, is saved, and what depends on the weights
alone is computed once (:class:`~mdl_physpretrain.compiled.cached_tables.WeightCache`).
:meth:`CGCNN.energies` with autograd is the reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdl_physpretrain.graphs.batch import AtomicBatch
from mdl_physpretrain.potentials.cgcnn.autograd import (
    LANES,
    Gates,
    Neighbours,
    add_messages,
    joined,
    parts,
    pull_back,
)
from mdl_physpretrain.potentials.cgcnn.layers import GaussianBasis

__all__ = ["FrozenLayer", "Network", "energy_and_gradient", "freeze", "sources"]


class Network(Protocol):
    """What is taken from a :class:`~mdl_physpretrain.potentials.cgcnn.model.CGCNN`."""

    distance_expansion: GaussianBasis
    conv_list: nn.ModuleList
    bn_list: nn.ModuleList  # empty without normalisation

    def node_features(self, numbers: Tensor) -> Tensor:
        """What the convolutions start from, shape (N, dim)."""

    def edge_weight(self, batch: AtomicBatch, r: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of the messages along edges of length ``r`` (E,), and their slopes (1/Å), shape (E,)."""

    def read_out(self, x: Tensor, batch: AtomicBatch) -> Tensor:
        """Energies (B,) in eV of the last features (N, dim)."""


@dataclass(frozen=True)
class FrozenLayer:
    """A convolution and the normalisation behind it; features are padded to ``C`` channels."""

    centre: Tensor  # (C, 2 C), from features to gates
    neighbour: Tensor  # (C, 2 C)
    bias: Tensor  # (2 C,)
    table: Tensor  # B-splines of the distance, (G, 2, C)
    scale: Tensor  # of the normalisation, (C,)
    shift: Tensor  # (C,)


def sources(model: Network) -> list[Tensor]:
    """The tensors on which :func:`freeze` depends."""
    tensors: list[Any] = [model.distance_expansion.offset]
    layer: Any
    for layer in model.conv_list:
        gate, core = layer.lin_f, layer.lin_s
        tensors += [gate.weight, gate.bias, core.weight, core.bias]
    for layer in model.bn_list:
        tensors += [layer.weight, layer.bias, layer.running_mean, layer.running_var]
    return tensors


def freeze(model: Network) -> list[FrozenLayer]:
    """The layers of a network in evaluation mode, float32 on the CPU."""
    rows, layers = model.distance_expansion.table(), []
    conv: Any
    for k, conv in enumerate(model.conv_list):
        d, missing = conv.dim, -conv.dim % LANES
        weight, bias = joined(conv.lin_f.weight, conv.lin_s.weight), joined(conv.lin_f.bias, conv.lin_s.bias)
        to_centre, to_neighbour, to_edge = parts(weight, d)
        centre, neighbour = (F.pad(part.T, (0, 0, 0, missing)).contiguous() for part in (to_centre, to_neighbour))
        scale, shift = weight.new_ones(d), weight.new_zeros(d)
        if len(model.bn_list):
            norm: Any = model.bn_list[k]
            scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
            shift = norm.bias - norm.running_mean * scale
        table = (rows @ to_edge.T).unflatten(1, (2, d + missing))
        layers.append(FrozenLayer(centre, neighbour, bias, table, *(F.pad(x, (0, missing)) for x in (scale, shift))))
    return layers


@torch.no_grad()
def energy_and_gradient(
    model: Network, layers: list[FrozenLayer], batch: AtomicBatch, vectors: Tensor
) -> tuple[Tensor, Tensor]:
    """Energies (B,) in eV and their derivatives by the edge vectors (E, 3), in eV/Å.

    Parameters
    ----------
    model, layers
        The network, and :func:`freeze` of it.
    batch, vectors
        Edges sorted by centre, and their vectors in Å, shape (E, 3).
    """
    r = torch.linalg.vector_norm(vectors, dim=1)
    weight, slope = model.edge_weight(batch, r)
    edges = Neighbours.from_edges(batch.edge_index, len(batch.numbers))
    step = model.distance_expansion.step
    place = model.distance_expansion.place(r)
    x = model.node_features(batch.numbers)
    d = x.shape[1]
    x = F.pad(x, (0, -d % LANES))
    gates: list[Gates] = []
    for layer in layers:
        a = torch.addmm(layer.bias, x, layer.centre).unflatten(1, (2, -1))
        b = torch.mm(x, layer.neighbour).unflatten(1, (2, -1))
        gates.append(Gates(a, b, layer.table))
        x = x.clone()
        add_messages(x, gates[-1], place, weight, edges)
        x = torch.addcmul(layer.shift, x, layer.scale)
    with torch.enable_grad():
        last = x[:, :d].requires_grad_(True)
        energy = model.read_out(last, batch)
        (g,) = torch.autograd.grad(energy.sum(), last)
    g = F.pad(g, (0, -d % LANES))
    along_place, along_weight = torch.zeros_like(r), torch.zeros_like(r)
    for k, layer in reversed(list(enumerate(layers))):
        g = g * layer.scale
        da, db, _ = pull_back(g, gates[k], place, weight, edges, along_place, along_weight, with_nodes=k > 0)
        if k > 0:  # the first features depend on the elements alone
            g = g.addmm_(da.flatten(1), layer.centre.T).addmm_(db.flatten(1), layer.neighbour.T)
    along_r = along_place / step + along_weight * slope
    return energy.detach(), vectors * torch.where(r > 0, along_r / r, 0.0).unsqueeze(1)
