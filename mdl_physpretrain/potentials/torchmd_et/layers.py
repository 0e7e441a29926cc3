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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "ACTIVATIONS", "BASES", "Attention", "ExpNormalBasis", "GaussianBasis", "Half", "NeighbourEmbedding", "Pairs",
    "radial_parts",
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

    def sum_images(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Sum values (M, channels) of images to those of pairs (P, channels)."""
        if self.image is None:
            return values
        joint = values[0] if len(values) == 1 else torch.cat(values, dim=1)
        total = joint.new_zeros(self.first.shape[0], joint.shape[1]).index_add(0, self.image, joint)
        return total.split([value.shape[1] for value in values], dim=1)

    def spread(self, value: Tensor, dim: int = 0) -> Tensor:
        """Give each image the value (P in dimension ``dim``) of its pair."""
        return value if self.image is None else value.index_select(dim, self.image)


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
        (summed,) = pairs.sum_images(torch.cat([basis * pairs.cutoff, pairs.cutoff], dim=1))
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
        self, x: Tensor, vec: Tensor | None, pairs: Pairs, radial: Radial, *, last: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Updates of scalar (N, channels) and vector features (3, N, channels; ``None`` while they are zero).

        ``last``: leave out what only a next layer would read (``dvec``).
        """
        c, n, p = self.channels, x.shape[0], pairs.first.shape[0]
        used = _used_values(first=vec is None, last=last)
        q, k, *values = F.linear(self.layernorm(x), *self._projections(used)).split(c, dim=1)
        carried = [] if vec is None or last else (vec * values[1]).unbind(0)
        sources = [k, values[0], *([] if last else values[-1:]), *carried]
        at_neighbour = torch.cat(sources, dim=1).index_select(0, pairs.neighbour).unflatten(0, (2, p))
        of_key, of_value, *of_vectors = at_neighbour.split(c, dim=2)
        at_centre = q.index_select(0, pairs.centre).unflatten(0, (2, p))
        weights, units, factor = self._of_pairs(at_centre * of_key, pairs, radial, used)
        messages = [weights * of_value]
        if not last:
            strength, *images = of_vectors
            signed = torch.cat([strength[:1], -strength[1:]])  # the backward direction is the opposite one
            messages += [signed * unit for unit in units]
            if factor is not None:
                messages[1:] = [m + image * factor for m, image in zip(messages[1:], images, strict=True)]
        joint = torch.cat(messages, dim=2).flatten(0, 1)
        total = joint.new_zeros(n, joint.shape[1]).index_add(0, pairs.centre, joint)
        update, dvec = total[:, :c], None if last else total[:, c:].unflatten(1, (3, c)).transpose(0, 1)
        if vec is None:
            return F.linear(update, self.o_proj.weight[2 * c :], self.o_proj.bias[2 * c :]), dvec
        skipped = c if last else 0
        *o1, o2, o3 = F.linear(update, self.o_proj.weight[skipped:], self.o_proj.bias[skipped:]).split(c, dim=1)
        vec1, vec2, *vec3 = F.linear(vec, self.vec_proj.weight[: 3 * c - skipped]).split(c, dim=2)
        dx = o3 + (vec1 * vec2).sum(0) * o2
        return dx, None if dvec is None else dvec + vec3[0] * o1[0]

    def _of_pairs(
        self, products: Tensor, pairs: Pairs, radial: Radial, used: slice
    ) -> tuple[Tensor, Sequence[Tensor], Tensor | None]:
        """Of each pair, summed over its images: weights of values (2, P, channels), three components, and a factor.

        ``products`` (2, P, channels) are those of queries and keys.
        """
        m, by_head = pairs.r.shape[0], (self.heads, self.channels // self.heads)
        score = pairs.spread(products, dim=1)
        score = score if radial.keys is None else score * radial.keys
        attention = (self.attention_act(score.unflatten(2, by_head).sum(-1)) * pairs.cutoff).unsqueeze(-1)
        value, *others = radial.values or [pairs.cutoff.new_ones(1, self.channels).expand(m, -1)] * 3
        of_images = list((attention * value.view(m, *by_head)).flatten(2).unbind(0))
        if used != ONLY_SCALAR:
            direction = pairs.direction * pairs.cutoff if self.smooth_cutoff else pairs.direction
            of_images += [unit * others[-1] for unit in direction.split(1, dim=1)]
        if used == ALL_VALUES:
            of_images.append(others[0] * pairs.cutoff if self.smooth_cutoff else others[0])
        forward, backward, *vectors = pairs.sum_images(*of_images)
        return torch.stack([forward, backward]), vectors[:3], vectors[3] if len(vectors) > 3 else None

    def _projections(self, used: slice) -> tuple[Tensor, Tensor]:
        """Weight and bias of queries, keys and some of the values as one layer."""
        by_head = (self.heads, 3, self.channels // self.heads)
        value = [x.view(*by_head, *x.shape[1:]).transpose(0, 1)[used].flatten(0, 2)
                 for x in (self.v_proj.weight, self.v_proj.bias)]  # fmt: skip
        weight = torch.cat([self.q_proj.weight, self.k_proj.weight, value[0]])
        return weight, torch.cat([self.q_proj.bias, self.k_proj.bias, value[1]])

    def radial_projections(self, used: slice) -> list[tuple[Tensor, Tensor]]:
        """Weights and biases of what distances do to keys and to some of the three values of each head."""
        found = [] if self.dk_proj is None else [(self.dk_proj.weight, self.dk_proj.bias)]
        if self.dv_proj is not None:
            by_head = (self.heads, 3, self.channels // self.heads)
            weight = self.dv_proj.weight.view(*by_head, -1).transpose(0, 1)[used].flatten(0, 2)
            found.append((weight, self.dv_proj.bias.view(by_head).transpose(0, 1)[used].flatten()))
        return found


@dataclass
class Radial:
    """What distances do to the keys and values of a layer, shapes (M, channels); ``None`` where they do nothing."""

    keys: Tensor | None
    values: Sequence[Tensor] | None  # of scalars, of vectors that are carried over, of directions; those that are used


ONLY_SCALAR, NO_VECTORS, ALL_VALUES = slice(0, 1), slice(0, 3, 2), slice(0, 3)


def _used_values(*, first: bool, last: bool) -> slice:
    """Which of the three values of a head a layer uses."""
    return ONLY_SCALAR if last else NO_VECTORS if first else ALL_VALUES


def radial_parts(layers: Sequence[Attention], basis: Tensor) -> list[Radial]:
    """What distances, expanded in ``basis`` (M, n_basis), do in each of some layers: one product for all."""
    used = [_used_values(first=k == 0, last=k == len(layers) - 1) for k in range(len(layers))]
    projections = [p for layer, which in zip(layers, used, strict=True) for p in layer.radial_projections(which)]
    parts: list[Tensor] = []
    if projections:
        weight, bias = (torch.cat(x) for x in zip(*projections, strict=True))
        parts = list(layers[0].act(F.linear(basis, weight, bias)).split(layers[0].channels, dim=1))
    found = []
    for layer, which in zip(layers, used, strict=True):
        keys = None if layer.dk_proj is None else parts.pop(0)
        count = 0 if layer.dv_proj is None else len(range(3)[which])
        found.append(Radial(keys, [parts.pop(0) for _ in range(count)] or None))
    return found
