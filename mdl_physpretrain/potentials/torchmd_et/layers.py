"""Layers of the equivariant transformer, with the work done once per pair of atoms.

The formulas are those of P. Thölke and G. De Fabritiis, "TorchMD-NET:
Equivariant Transformers for Neural Network based Molecular Potentials", ICLR
2022. Three facts save most of the work and change no number:

- both directions of an edge share the distance, so all that depends on the
  distance alone is computed for half of the edges;
- features belong to atoms, not to periodic images: what all images of one pair
  contribute is summed before it meets the features;
- vector features are zero before the first layer and unused after the last.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "ACTIVATIONS", "BASES", "Attention", "ExpNormalBasis", "GaussianBasis", "Half", "NeighbourEmbedding", "Pairs",
]  # fmt: skip

SMALLEST = 1e-6  # Å; atoms closer than this have no direction


class _SiLUGradient(torch.autograd.Function):
    """``g * silu'(x)`` with its own derivative, in few passes over memory."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(g, x)
        return torch.ops.aten.silu_backward(g, x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gg: Tensor) -> tuple[Tensor, Tensor]:
        g, x = ctx.saved_tensors
        t = (0.5 * x).tanh_()  # silu'' = (1 - t^2) (2 - x t) / 4
        curvature = torch.addcmul(x.new_full((), 2.0), x, t, value=-1)
        curvature.mul_(torch.addcmul(x.new_full((), 0.25), t, t, value=-0.25)).mul_(g).mul_(gg)
        return torch.ops.aten.silu_backward(gg, x), curvature


class _SiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return F.silu(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return _SiLUGradient.apply(g, *ctx.saved_tensors)


def _silu(x: Tensor) -> Tensor:
    return _SiLU.apply(x)


def _shifted_softplus(x: Tensor) -> Tensor:
    return F.softplus(x) - math.log(2.0)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": _silu,
    "ssp": _shifted_softplus,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


@dataclass
class Half:
    """Which edges stand for the ``P`` unordered pairs of a list (2, E) that has each in both directions."""

    edges: Tensor  # (M,): ordered by pair
    first: Tensor  # (P,)
    second: Tensor  # (P,)
    image: Tensor | None  # pair of each edge, (M,); None when each pair has exactly one

    @classmethod
    def of_edges(cls, edge_index: Tensor, vectors: Tensor, n_atoms: int) -> Half:
        """Halve a list; of the images of one atom, those whose vectors (E, 3) point upwards stay."""
        i, j = edge_index
        x, y, z = vectors.detach().unbind(1)
        upper = (x > 0) | ((x == 0) & ((y > 0) | ((y == 0) & (z > 0))))
        keep = ((i < j) | ((i == j) & upper)).nonzero().squeeze(1)
        key, order = torch.sort(i.index_select(0, keep) * n_atoms + j.index_select(0, keep))
        key, image = torch.unique_consecutive(key, return_inverse=True)
        edges = keep.index_select(0, order)
        return cls(edges, key // n_atoms, key % n_atoms, None if len(key) == len(edges) else image)


@dataclass
class Pairs:
    """The edges of a batch as ``P`` unordered pairs with ``M`` vectors in all."""

    first: Tensor  # (P,)
    second: Tensor  # (P,)
    centre: Tensor  # both directions, (2 P,): ``first`` is the centre of the forward ones, which come first
    neighbour: Tensor  # (2 P,)
    image: Tensor | None  # pair of each vector, (M,); None when each pair has exactly one
    r: Tensor  # Å, (M,)
    direction: Tensor  # unit vectors of the forward direction, (M, 3)
    cutoff: Tensor  # cosine cutoff, (M, 1)

    @classmethod
    def from_edges(cls, edge_index: Tensor, vectors: Tensor, n_atoms: int, cutoff: float) -> Pairs:
        """The pairs of a list (2, E) in which every pair has both directions."""
        return cls.of_half(Half.of_edges(edge_index, vectors, n_atoms), vectors, cutoff)

    @classmethod
    def of_half(cls, half: Half, vectors: Tensor, cutoff: float) -> Pairs:
        """Pairs with their vectors, taken from (E, 3): only those of one direction get a gradient."""
        kept = vectors.index_select(0, half.edges)
        r = torch.linalg.vector_norm(kept, dim=1)
        value = 0.5 * (torch.cos(r * (math.pi / cutoff)) + 1)
        i, j = half.first, half.second
        return cls(
            first=i,
            second=j,
            centre=torch.cat([i, j]),
            neighbour=torch.cat([j, i]),
            image=half.image,
            r=r,
            direction=kept / r.clamp_min(SMALLEST).unsqueeze(1),
            cutoff=value.unsqueeze(1),
        )

    def __len__(self) -> int:
        return len(self.first)

    def sum_images(self, value: Tensor) -> Tensor:
        """Sum values (M, ...) of images to those of pairs (P, ...)."""
        if self.image is None:
            return value
        return value.new_zeros(len(self), *value.shape[1:]).index_add(0, self.image, value)

    def spread(self, value: Tensor) -> Tensor:
        """Give each image the value (P, ...) of its pair: (M, ...)."""
        return value if self.image is None else value.index_select(0, self.image)


class ExpNormalBasis(nn.Module):
    """Exponential normal basis of PhysNet, times the cosine cutoff; centres and widths may be trainable."""

    means: Tensor
    betas: Tensor

    def __init__(self, cutoff: float, n_basis: int, trainable: bool) -> None:
        super().__init__()
        self.alpha = 5.0 / cutoff
        first = math.exp(-cutoff)
        _hold(self, "means", torch.linspace(first, 1.0, n_basis), trainable)
        _hold(self, "betas", torch.full((n_basis,), (2 / n_basis * (1 - first)) ** -2), trainable)

    def forward(self, r: Tensor, cutoff: Tensor) -> Tensor:
        """Expand distances of shape (M,), cutoff of shape (M, 1), to (M, n_basis)."""
        distance = torch.exp(-self.alpha * r).unsqueeze(1) - self.means
        return cutoff * torch.exp(-self.betas * distance.square())


class GaussianBasis(nn.Module):
    """Gaussians on a uniform grid, one spacing wide. Parameters as in :class:`ExpNormalBasis`."""

    offset: Tensor
    coeff: Tensor

    def __init__(self, cutoff: float, n_basis: int, trainable: bool) -> None:
        super().__init__()
        offset = torch.linspace(0.0, cutoff, n_basis)
        _hold(self, "coeff", -0.5 / (offset[1] - offset[0]) ** 2, trainable)
        _hold(self, "offset", offset, trainable)

    def forward(self, r: Tensor, cutoff: Tensor) -> Tensor:
        """Expand distances of shape (M,) to (M, n_basis)."""
        return torch.exp(self.coeff * (r.unsqueeze(1) - self.offset).square())


BASES: dict[str, Callable[[float, int, bool], nn.Module]] = {"expnorm": ExpNormalBasis, "gauss": GaussianBasis}


def _hold(module: nn.Module, name: str, value: Tensor, trainable: bool) -> None:
    if trainable:
        module.register_parameter(name, nn.Parameter(value))
    else:
        module.register_buffer(name, value)


class NeighbourEmbedding(nn.Module):
    """Mixes the elements of the neighbours into the initial features.

    Without ``own_images`` an atom's periodic images are no neighbours of it: a cell and its supercell differ in energy.
    """

    def __init__(self, channels: int, n_basis: int, max_z: int, own_images: bool) -> None:
        super().__init__()
        self.own_images = own_images
        self.embedding = nn.Embedding(max_z, channels)
        self.distance_proj = glorot(nn.Linear(n_basis, channels))
        self.combine = glorot(nn.Linear(2 * channels, channels))

    def forward(self, numbers: Tensor, x: Tensor, pairs: Pairs, basis: Tensor) -> Tensor:
        """Features (N, channels) from those of the elements, ``x`` of the same shape."""
        # a linear layer of sums over images, the bias being the weight of their cutoffs
        summed = pairs.sum_images(torch.cat([basis * pairs.cutoff, pairs.cutoff], dim=1))
        projection = self.distance_proj
        weight = F.linear(summed, torch.cat([projection.weight, projection.bias.unsqueeze(1)], dim=1))
        if not self.own_images:
            weight = weight * (pairs.first != pairs.second).unsqueeze(1)
        of_neighbour = self.embedding(numbers.index_select(0, pairs.neighbour)).view(2, *weight.shape)
        message = (of_neighbour * weight).flatten(0, 1)
        around = torch.zeros_like(x).index_add(0, pairs.centre, message)
        return self.combine(torch.cat([x, around], dim=1))


def glorot(layer: nn.Linear) -> nn.Linear:
    """Xavier-uniform weights and no bias, as the reference implementation starts from."""
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class Attention(nn.Module):
    """One equivariant attention layer.

    Distances enter by ``influence``: ``"keys"``, ``"values"``, ``"both"``, ``"none"``. With ``smooth_cutoff`` vector
    messages are multiplied by the cutoff, as scalar ones are.
    """

    def __init__(
        self,
        channels: int,
        n_basis: int,
        heads: int,
        influence: str,
        activation: str,
        attention_activation: str,
        smooth_cutoff: bool,
    ) -> None:
        super().__init__()
        self.channels, self.heads, self.smooth_cutoff = channels, heads, smooth_cutoff
        self.act, self.attention_act = ACTIVATIONS[activation], ACTIVATIONS[attention_activation]
        self.layernorm = nn.LayerNorm(channels)
        self.q_proj = glorot(nn.Linear(channels, channels))
        self.k_proj = glorot(nn.Linear(channels, channels))
        self.v_proj = glorot(nn.Linear(channels, 3 * channels))
        self.o_proj = glorot(nn.Linear(channels, 3 * channels))
        self.vec_proj = glorot(nn.Linear(channels, 3 * channels, bias=False))
        self.dk_proj = glorot(nn.Linear(n_basis, channels)) if influence in {"keys", "both"} else None
        self.dv_proj = glorot(nn.Linear(n_basis, 3 * channels)) if influence in {"values", "both"} else None

    def has_machine_code(self) -> bool:
        """Whether :mod:`mdl_physpretrain.potentials.torchmd_et.autograd` computes a layer of this kind."""
        simple = self.act is _silu and self.attention_act is _silu
        both = self.dk_proj is not None and self.dv_proj is not None
        return simple and both and self.channels == 16 * self.heads

    def forward(
        self, x: Tensor, vec: Tensor | None, pairs: Pairs, basis: Tensor, *, last: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Updates of scalar (N, channels) and vector features (3, N, channels; ``None`` while they are zero).

        ``basis`` (M, n_basis) is the expansion of distances. ``last``: leave out what only a next layer would read
        (``dvec``).
        """
        x = self.layernorm(x)
        by_part = (len(x), 3, self.channels)
        v = self.v_proj(x).view(len(x), self.heads, 3, -1).transpose(1, 2).reshape(by_part).unbind(1)
        update = self._scalar_messages(x, v[0], pairs, basis)
        o1, o2, o3 = self._blocks(self.o_proj)
        dx = F.linear(update, *o3)
        vec3 = None
        if vec is not None:
            w1, w2, w3 = self.vec_proj.weight.split(self.channels)
            dx = dx + (F.linear(vec, w1) * F.linear(vec, w2)).sum(0) * F.linear(update, *o2)
            vec3 = None if last else F.linear(vec, w3)
        if last:
            return dx, None
        dvec = self._vector_messages(v[1], v[2], vec, pairs, basis)
        if vec3 is not None:
            dvec = dvec + vec3 * F.linear(update, *o1)
        return dx, dvec

    def _scalar_messages(self, x: Tensor, v: Tensor, pairs: Pairs, basis: Tensor) -> Tensor:
        m, by_head = len(pairs.r), (self.heads, self.channels // self.heads)
        q, k = self.q_proj(x), self.k_proj(x)
        distance = None if self.dk_proj is None else self.act(self.dk_proj(basis))
        value = self._radial(basis, 0)
        value = (basis.new_ones(1, self.channels) if value is None else value).unflatten(1, by_head)
        total = torch.zeros_like(x)
        # one direction at a time: tensors twice as large fall out of the caches
        for here, there in ((pairs.first, pairs.second), (pairs.second, pairs.first)):
            score = pairs.spread(q.index_select(0, here) * k.index_select(0, there))
            score = score if distance is None else score * distance
            attention = self.attention_act(score.view(m, *by_head).sum(-1)) * pairs.cutoff
            weighted = pairs.sum_images((attention.unsqueeze(-1) * value).view(m, self.channels))
            total = total.index_add(0, here, weighted * v.index_select(0, there))
        return total

    def _vector_messages(
        self, gate: Tensor, strength: Tensor, vec: Tensor | None, pairs: Pairs, basis: Tensor
    ) -> Tensor:
        p = len(pairs)
        direction = pairs.direction * pairs.cutoff if self.smooth_cutoff else pairs.direction
        radial = self._radial(basis, 2)
        zero = torch.zeros_like(strength)
        strength = torch.cat([strength.index_select(0, pairs.second), -strength.index_select(0, pairs.first)])
        strength = strength.view(2, p, self.channels)  # signed: the backward direction is the opposite one
        factor, carried = None, None
        if vec is not None:
            along = self._radial(basis, 1)
            factor = torch.ones_like(pairs.cutoff) if along is None else along
            factor = pairs.sum_images(factor * pairs.cutoff if self.smooth_cutoff else factor)
            carried = (vec * gate).unbind(0)
        components = []  # one at a time, for the same reason
        for axis, unit in enumerate(direction.unsqueeze(2).unbind(1)):
            message = strength * pairs.sum_images(unit if radial is None else unit * radial)
            if carried is not None and factor is not None:
                message = message + carried[axis].index_select(0, pairs.neighbour).view_as(message) * factor
            components.append(zero.index_add(0, pairs.centre, message.flatten(0, 1)))
        return torch.stack(components)

    def _radial(self, basis: Tensor, part: int) -> Tensor | None:
        """One of the three parts that each head's rows of ``dv_proj`` consist of, shape (M, channels)."""
        if self.dv_proj is None:
            return None
        by_head = (self.heads, 3, self.channels // self.heads)
        weight = self.dv_proj.weight.view(*by_head, -1)[:, part].flatten(0, 1)
        return self.act(F.linear(basis, weight, self.dv_proj.bias.view(by_head)[:, part].flatten()))

    def _blocks(self, layer: nn.Linear) -> list[tuple[Tensor, Tensor]]:
        return list(zip(layer.weight.split(self.channels), layer.bias.split(self.channels), strict=True))
