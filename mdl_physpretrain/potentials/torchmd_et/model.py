"""TorchMD-NET's equivariant transformer, native, with MatDeepLearn's parameters.

P. Thölke and G. De Fabritiis, "TorchMD-NET: Equivariant Transformers for
Neural Network based Molecular Potentials", ICLR 2022. How the layers compute
it is told in :mod:`mdl_physpretrain.potentials.torchmd_et.layers`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from mdl_physpretrain.compiled.cached_tables import IndexCache, WeightCache
from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.graphs.batch import AtomicBatch
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.registry import register_model
from mdl_physpretrain.potentials.torchmd_et import autograd as torchmd_fast
from mdl_physpretrain.potentials.torchmd_et import forces as torchmd_forces
from mdl_physpretrain.potentials.torchmd_et.layers import (
    ACTIVATIONS,
    BASES,
    Attention,
    ExpNormalBasis,
    Half,
    NeighbourEmbedding,
    Pairs,
    radial_parts,
)

__all__ = ["TorchMDET"]

MOST_POST_LAYERS = 1000


@register_model("torchmd_et")
class TorchMDET(EnergyModel):
    """Equivariant transformer with Appendix C's hyper-parameters as defaults.

    With ``smooth_cutoff=False, own_images=False`` the ``state_dict`` (but for
    ``reference_energies``) and the numbers are those of MatDeepLearn's
    ``torchmd_et``, and with ``pool_order="early"`` those of its
    ``torchmd_etEarly``, which has no other order.

    Parameters
    ----------
    cutoff
        Interaction range in Å.
    hidden_channels, num_layers, num_heads
        Sizes of the transformer; the heads divide the channels.
    num_rbf, rbf_type, trainable_rbf
        Number and kind (``"expnorm"``, ``"gauss"``) of the functions of the
        distance, and whether their centres and widths are trained.
    activation, attn_activation
        ``"silu"``, ``"ssp"``, ``"tanh"`` or ``"sigmoid"``.
    neighbor_embedding
        Mix the elements of the neighbours into the initial features.
    distance_influence
        Where distances enter attention: ``"keys"``, ``"values"``, ``"both"``
        or ``"none"``.
    max_z
        Atomic numbers are smaller than this.
    num_post_layers, post_hidden_channels
        Layers that turn features into an energy.
    pool
        ``"add"``, or ``"mean"`` over atoms (not size-extensive; for old
        checkpoints).
    pool_order
        ``"late"``: a sum of atomic energies; ``"early"``: atoms are summed
        before the last layers (not size-extensive; for old checkpoints).
    smooth_cutoff
        Multiply the messages between vector features by the cosine cutoff, as
        those between scalar ones are: energy and forces become continuous at
        the cutoff whatever the weights are, as MD needs.
    own_images
        Let the neighbour embedding see an atom's own periodic images. Without
        them a cell and its supercell have different energies.

    Attributes
    ----------
    fast
        Use machine code where there is some: float32 on the CPU, heads of 16
        channels, SiLU, ``"expnorm"``, distances in keys and values. What is
        given up is a third derivative, and the derivative of a gradient with
        respect to the weights.
    """

    reference_energies: Tensor

    def __init__(
        self,
        *,
        cutoff: float = 8.0,
        hidden_channels: int = 128,
        num_layers: int = 8,
        num_heads: int = 8,
        num_rbf: int = 50,
        rbf_type: str = "expnorm",
        trainable_rbf: bool = True,
        activation: str = "silu",
        attn_activation: str = "silu",
        neighbor_embedding: bool = True,
        distance_influence: str = "both",
        max_z: int = 100,
        num_post_layers: int = 2,
        post_hidden_channels: int = 128,
        pool: str = "add",
        pool_order: str = "late",
        smooth_cutoff: bool = True,
        own_images: bool = True,
    ) -> None:
        hparams = {k: v for k, v in locals().items() if k not in {"self", "__class__"}}
        super().__init__(cutoff, hparams, reference_energies=True)
        _check(hparams)
        self.pool, self.pool_order, self.max_z = pool, pool_order, max_z
        self.act, self.fades_at_cutoff = ACTIVATIONS[activation], smooth_cutoff
        self.embedding = nn.Embedding(max_z, hidden_channels)
        self.distance_expansion = BASES[rbf_type](cutoff, num_rbf, trainable_rbf)
        self.neighbor_embedding = (
            NeighbourEmbedding(hidden_channels, num_rbf, max_z, own_images) if neighbor_embedding else None
        )
        options = (distance_influence, activation, attn_activation, smooth_cutoff)
        layers = [Attention(hidden_channels, num_rbf, num_heads, *options) for _ in range(num_layers)]
        self.attention_layers = nn.ModuleList(layers)
        first = self.attention_layers[0]
        assert isinstance(first, Attention)
        first.vec_proj.requires_grad_(False)  # its input is zero: it has no effect and no gradient
        self.out_norm = nn.LayerNorm(hidden_channels)
        sizes = [hidden_channels, *[post_hidden_channels] * num_post_layers, 1]
        self.post_lin_list = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self._tables: WeightCache[torchmd_forces.Tables | None] = WeightCache()
        self._halves: IndexCache[Half] = IndexCache()
        self._known: IndexCache[bool] = IndexCache()

    def energies(self, batch: AtomicBatch, vectors: Tensor) -> Tensor:
        self._check_elements(batch)
        pairs = Pairs.of_half(self._half(batch, vectors), vectors, self.cutoff)
        basis = self.distance_expansion(pairs.r, pairs.cutoff)
        x = self.embedding(batch.numbers)
        if self.neighbor_embedding is not None:
            x = self.neighbor_embedding(batch.numbers, x, pairs, basis)
        vec: Tensor | None = None
        apply = self._fast_layers(pairs) or self._plain_layers(pairs, basis)
        for k, layer in enumerate(self.attention_layers):
            dx, dvec = apply(layer, x, vec, last=k == len(self.attention_layers) - 1)
            x = x + dx
            vec = dvec if vec is None or dvec is None else vec + dvec
        return self.read_out(x, batch)

    def energy_and_gradient(
        self, batch: AtomicBatch, vectors: Tensor, *, create_graph: bool = False
    ) -> tuple[Tensor, Tensor]:
        if not create_graph and self._has_machine_code(vectors) and not torch.is_inference_mode_enabled():
            self._check_elements(batch)
            tables = self._tables.get(torchmd_forces.sources(self), lambda: torchmd_forces.tabulate(self))
            if tables is not None:
                return torchmd_forces.energy_and_gradient(self, tables, batch, vectors)
        return super().energy_and_gradient(batch, vectors, create_graph=create_graph)

    def list_values(self, batch: AtomicBatch, vectors: Tensor) -> dict[str, Any] | None:
        self._check_elements(batch)
        return None if self.pool == "mean" else {"_known": True, "_halves": self._half(batch, vectors)}

    def _half(self, batch: AtomicBatch, vectors: Tensor) -> Half:
        index = batch.edge_index
        return self._halves.get(index, lambda: Half.of_edges(index, vectors, len(batch.numbers)))

    def read_out(self, x: Tensor, batch: AtomicBatch) -> Tensor:
        """Energies (B,) in eV from the features (N, hidden_channels) after the last layer."""
        return self.reference_energy(batch) + self._last_layers(self.out_norm(x), batch)

    def _check_elements(self, batch: AtomicBatch) -> None:
        numbers = batch.numbers
        if not self._known.get(numbers, lambda: bool(((numbers >= 1) & (numbers < self.max_z)).all())):
            raise StructureError(f"this model knows the elements 1 to {self.max_z - 1}", field="numbers")

    def _has_machine_code(self, vectors: Tensor) -> bool:
        """Whether there is machine code for this model and these vectors, shape (E, 3)."""
        if not self.fast:  # first: the length of vectors in a traced graph is no number
            return False
        simple = vectors.device.type == "cpu" and vectors.dtype == self.dtype == torch.float32 and len(vectors) > 0
        first = cast(Attention, self.attention_layers[0])
        simple = simple and not torch.is_autocast_enabled("cpu")
        return simple and isinstance(self.distance_expansion, ExpNormalBasis) and first.has_machine_code()

    def grid(self) -> torchmd_fast.Grid | None:
        """Where machine code tabulates the radial functions; ``None`` where no grid resolves the Gaussians."""
        basis, first = cast(ExpNormalBasis, self.distance_expansion), cast(Attention, self.attention_layers[0])
        intervals = torchmd_fast.intervals_for(basis.betas)
        if intervals is None:
            return None
        return torchmd_fast.Grid(self.cutoff, basis.alpha, intervals, first.smooth_cutoff)

    def _plain_layers(self, pairs: Pairs, basis: Tensor) -> Callable[..., tuple[Tensor, Tensor | None]]:
        layers = [cast(Attention, layer) for layer in self.attention_layers]
        radial = dict(zip(layers, radial_parts(layers, basis), strict=True))
        return lambda layer, x, vec, *, last: layer(x, vec, pairs, radial[layer], last=last)

    def _fast_layers(self, pairs: Pairs) -> Callable[..., tuple[Tensor, Tensor | None]] | None:
        """How layers are applied in machine code, or ``None`` where there is none for this model and these tensors."""
        grid = self.grid() if self._has_machine_code(pairs.direction) else None
        if grid is None:
            return None
        basis = cast(ExpNormalBasis, self.distance_expansion)
        atoms = (pairs.spread(pairs.first), pairs.spread(pairs.second))
        confined, where = torchmd_fast.FastPairs.make(*atoms, pairs.r, pairs.direction, grid).confined()
        rows = torchmd_fast.gaussian_rows(basis.means, basis.betas, grid.intervals, where)
        return lambda layer, x, vec, *, last: torchmd_fast.attention(layer, x, vec, confined, rows, last=last)

    def _last_layers(self, x: Tensor, batch: AtomicBatch) -> Tensor:
        if self.pool_order == "early":
            x = self._pooled(x, batch)
        for layer in self.post_lin_list[:-1]:
            x = self.act(layer(x))
        x = self.post_lin_list[-1](x).to(self.reference_energies.dtype)
        return (x if self.pool_order == "early" else self._pooled(x, batch)).squeeze(1)

    def _pooled(self, x: Tensor, batch: AtomicBatch) -> Tensor:
        total = x.new_zeros(batch.cells.shape[0], x.shape[1]).index_add(0, batch.structure, x)
        return total / batch.n_atoms.unsqueeze(1) if self.pool == "mean" else total


def _check(options: dict) -> None:
    """Refuse options out of range, by name."""
    choices = {
        "rbf_type": set(BASES),
        "activation": set(ACTIVATIONS),
        "attn_activation": set(ACTIVATIONS),
        "distance_influence": {"keys", "values", "both", "none"},
        "pool": {"add", "mean"},
        "pool_order": {"late", "early"},
    }
    for name, allowed in choices.items():
        if options[name] not in allowed:
            raise ConfigError(f"{name} must be one of {', '.join(sorted(allowed))}, not {options[name]!r}")
    least = {"num_layers": 1, "num_heads": 1, "hidden_channels": 1, "num_rbf": 2, "max_z": 2, "num_post_layers": 0}
    for name, bound in {**least, "post_hidden_channels": 1}.items():
        if options[name] < bound:
            raise ConfigError(f"{name} must be at least {bound}, not {options[name]}")
    if options["num_post_layers"] > MOST_POST_LAYERS:
        raise ConfigError(f"num_post_layers must be at most {MOST_POST_LAYERS}, not {options['num_post_layers']}")
    if options["hidden_channels"] % options["num_heads"]:
        raise ConfigError(
            f"hidden_channels ({options['hidden_channels']}) must be a multiple of num_heads ({options['num_heads']})"
        )
