"""Energies and forces of an equivariant transformer with constant weights, without autograd.

The steps of :func:`mdl_physpretrain.potentials.torchmd_et.autograd.attention` and their
derivatives, written out: for the few atoms of a usual cell, what autograd
records and PyTorch's many small operations take longer than the messages. What
depends on weights alone is computed once (:class:`~mdl_physpretrain.compiled.cached_tables.WeightCache`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mdl_physpretrain.graphs.batch import AtomicBatch
from mdl_physpretrain.potentials.torchmd_et import autograd as fast
from mdl_physpretrain.potentials.torchmd_et import layer_kernel as kernels
from mdl_physpretrain.potentials.torchmd_et.geometry_kernel import halve
from mdl_physpretrain.potentials.torchmd_et.layers import SMALLEST

__all__ = ["Tables", "energy_and_gradient", "sources", "tabulate"]


class Tables(NamedTuple):
    """Tables that depend on weights alone."""

    grid: fast.Grid
    layers: list[tuple[Tensor, Tensor]]  # table (G, parts, C) and bias (parts, C) of every layer
    neighbours: tuple[Tensor, Tensor] | None  # those of the neighbour embedding, (G, 1, C) and (C,)


def sources(model: Any) -> list[Tensor]:
    """The weights on which :func:`tabulate` depends."""
    linear = [x for layer in model.attention_layers for x in (layer.dk_proj, layer.dv_proj)]
    if model.neighbor_embedding is not None:
        linear.append(model.neighbor_embedding.distance_proj)
    basis = model.distance_expansion
    return [basis.means, basis.betas, *(w for x in linear for w in (x.weight, x.bias))]


def tabulate(model: Any) -> Tables | None:
    """Rows of the radial functions of all layers; ``None`` where no grid resolves the Gaussians."""
    basis, grid = model.distance_expansion, model.grid()
    if grid is None:
        return None
    rows = fast.gaussian_rows(basis.means, basis.betas, grid.intervals)
    last = len(model.attention_layers) - 1
    parts = [2 if k == last else 3 if k == 0 else 4 for k in range(last + 1)]
    layers = [fast.radial_table(layer, rows, n) for layer, n in zip(model.attention_layers, parts, strict=True)]
    if model.neighbor_embedding is None:
        return Tables(grid, layers, None)
    projection = model.neighbor_embedding.distance_proj
    return Tables(grid, layers, (F.linear(rows, projection.weight).unsqueeze(1), projection.bias.clone()))


class _Around:
    """The features of the elements and of the neighbours' elements, which the first layer starts from."""

    def __init__(self, model: Any, numbers: Tensor, pairs: fast.FastPairs, tables: Tables) -> None:
        self.embedding = model.embedding.weight[numbers]
        self.mixing = model.neighbor_embedding
        if self.mixing is not None and tables.neighbours is not None:
            mixed, (table, bias) = self.mixing.embedding.weight[numbers], tables.neighbours
            self.arrays = self.mixing.own_images, *pairs.arrays()[:5], *fast.arrays_of(table, bias, mixed)

    def features(self) -> Tensor:
        """Shape (N, C)."""
        if self.mixing is None:
            return self.embedding
        around = torch.zeros_like(self.embedding)
        kernels.neighbours(*self.arrays, around.numpy())
        return self.mixing.combine(torch.cat([self.embedding, around], dim=1))

    def backward(self, gx: Tensor, dr: Tensor) -> None:
        """Add to the derivatives by distance (M,) what the features' (N, C) give."""
        if self.mixing is not None:
            weight = self.mixing.combine.weight[:, gx.shape[1] :]
            kernels.neighbours_backward(*self.arrays, (gx @ weight).numpy(), dr.numpy())


class _Step(NamedTuple):
    """What a layer computed on its way to the energy."""

    x: Tensor
    mean: Tensor
    scale: Tensor
    v: Tensor
    vec: Tensor
    features: Tensor
    o: Tensor
    w: Tensor


def _forward(
    layer: Any, x: Tensor, vec: Tensor, pairs: fast.FastPairs, table: Tensor, bias: Tensor
) -> tuple[_Step, Tensor, Tensor]:
    """New features of a layer and what its backward pass needs."""
    n, channels, parts = len(x), layer.channels, len(bias)
    norm = layer.layernorm
    y, mean, scale = torch.native_layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    v = layer.v_proj(y).view(n, layer.heads, 3, fast.LANES)
    features = x.new_empty(n, fast.BLOCKS[parts], channels)
    kernels.join(*fast.arrays_of(layer.q_proj(y), layer.k_proj(y), v, vec, features))
    out = fast.messages_forward(features, table, bias, pairs)
    o = layer.o_proj(out[:, 0]).view(n, 3, channels)
    w = F.linear(vec, _vector_weight(layer, parts)).unflatten(2, (2 if parts == 2 else 3, channels))
    new_x, new_vec = torch.empty_like(x), x.new_empty(n if parts > 2 else 0, 3, channels)
    kernels.update(*fast.arrays_of(o, w, out, x, vec, new_x, new_vec))
    return _Step(x, mean, scale, v, vec, features, o, w), new_x, new_vec


def _backward(
    layer: Any, step: _Step, gx: Tensor, gvec: Tensor, pairs: fast.FastPairs, table: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the features before a layer, of distances and of directions, from those of the features after it."""
    n, parts = len(gx), len(bias)
    go, gw = torch.empty_like(step.o), torch.empty_like(step.w)
    kernels.update_backward(*fast.arrays_of(gx, gvec, step.o, step.w, go, gw))
    scalar = (go.flatten(1) @ layer.o_proj.weight).unsqueeze(1)
    g = torch.cat([scalar, gvec], dim=1) if parts > 2 else scalar
    dx, _, _, dr, dn = fast.messages_backward(g, step.features, table, bias, pairs, with_table=False)
    before = gw.flatten(2) @ _vector_weight(layer, parts)
    if parts > 3:
        before += gvec
    gv = torch.empty_like(step.v)
    kernels.join_backward(*fast.arrays_of(dx, step.v, step.vec, gv, before))
    gy = dx[:, 0] @ layer.q_proj.weight
    gy.addmm_(dx[:, 1], layer.k_proj.weight).addmm_(gv.view(n, -1), layer.v_proj.weight)
    norm = layer.layernorm
    through, _, _ = torch.ops.aten.native_layer_norm_backward(
        gy, step.x, norm.normalized_shape, step.mean, step.scale, norm.weight, norm.bias, (True, False, False)
    )
    return gx + through, before, dr, dn


def _vector_weight(layer: Any, parts: int) -> Tensor:
    """The last layer makes no vectors, so it needs two thirds of the products with them."""
    return layer.vec_proj.weight[: 2 * layer.channels] if parts == 2 else layer.vec_proj.weight


@torch.no_grad()
def energy_and_gradient(model: Any, tables: Tables, batch: AtomicBatch, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Energies (B,) in eV and their derivatives by ``vectors``, shape (E, 3), in eV/Å.

    Parameters
    ----------
    model
        A :class:`~mdl_physpretrain.potentials.torchmd_et.model.TorchMDET` in single
        precision on the CPU whose layers have machine code.
    tables
        Of these weights.
    batch, vectors
        With at least one edge.
    """
    i, j = batch.edge_index
    order = torch.from_numpy(halve(i.numpy(), j.numpy(), vectors.detach().contiguous().numpy(), len(batch.numbers)))
    half = vectors.index_select(0, order)
    r = torch.linalg.vector_norm(half, dim=1)
    inverse = r.clamp_min(SMALLEST).reciprocal().unsqueeze(1)
    atoms = (i.index_select(0, order), j.index_select(0, order))
    pairs = fast.FastPairs.make(*atoms, r, half * inverse, tables.grid, derivatives=1)
    around = _Around(model, batch.numbers, pairs, tables)
    x, vec = around.features(), r.new_empty(0, 3, model.embedding.embedding_dim)
    steps = []
    for layer, (table, bias) in zip(model.attention_layers, tables.layers, strict=True):
        step, x, vec = _forward(layer, x, vec, pairs, table, bias)
        steps.append(step)
    with torch.enable_grad():
        x.requires_grad_(True)
        energy = model.read_out(x, batch)
        (gx,) = torch.autograd.grad(energy.sum(), x)
    gvec, dr, dn = vec, torch.zeros_like(r), torch.zeros_like(half)
    for layer, step, (table, bias) in zip(
        reversed(model.attention_layers), reversed(steps), reversed(tables.layers), strict=True
    ):
        gx, gvec, slope, turn = _backward(layer, step, gx, gvec, pairs, table, bias)
        dr += slope
        dn += turn
    around.backward(gx, dr)
    gradient = torch.zeros_like(vectors)
    dn *= inverse
    gradient[order] = pairs.direction * (dr - (dn * pairs.direction).sum(1)).unsqueeze(1) + dn
    return energy.detach(), gradient
