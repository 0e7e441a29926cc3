"""Crystal graph convolutional network, native, with MatDeepLearn's parameters.

The convolution is that of T. Xie and J. C. Grossman, Phys. Rev. Lett. 120,
145301 (2018): ``x_i + agg_j sigmoid(W_f z_ij) softplus(W_s z_ij)`` with
``z_ij = [x_i, x_j, e_ij]``. The linear layers split exactly into node-sized
products for ``x_i`` and ``x_j`` and an edge-sized one for ``e_ij``: same
parameters, same numbers, a fraction of the work.

On CPUs in single precision the convolution is machine code
(:mod:`mdl_physpretrain.potentials.cgcnn.kernel`) that reads the distances' part
from a table; everywhere else, and as what the tests compare with, it is the
formula in :meth:`CGConv.forward <mdl_physpretrain.potentials.cgcnn.layers.CGConv.forward>`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from ase import Atoms
from torch import Tensor, nn

from mdl_physpretrain.compiled.cached_tables import IndexCache, WeightCache
from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.graphs.batch import AtomicBatch, build_batch
from mdl_physpretrain.graphs.subgraphs import select_edges
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.cgcnn import forces as cgcnn_forces
from mdl_physpretrain.potentials.cgcnn.autograd import Neighbours
from mdl_physpretrain.potentials.cgcnn.layers import CGConv, GaussianBasis, atom_rows, edge_parts
from mdl_physpretrain.potentials.registry import register_model
from mdl_physpretrain.potentials.switch import quintic_switch

__all__ = ["CGCNN"]

N_ELEMENTS = 100  # MatDeepLearn's one-hot node features
EDGE_GAIN, OUTPUT_GAIN = 10.0, 0.3  # of `CGCNN.initialise`


@register_model("cgcnn")
class CGCNN(EnergyModel):
    """CGCNN with Appendix C's hyper-parameters as defaults.

    Without ``smooth_cutoff`` the ``state_dict`` (but for
    ``reference_energies``) and the numbers are those of MatDeepLearn's
    ``CGCNN`` with additive late pooling.

    Parameters
    ----------
    cutoff
        Interaction range in Å.
    dim1, dim2
        Sizes of the convolutions and of the layers after them.
    pre_fc_count, gc_count, post_fc_count
        Numbers of layers before, in and after the graph network.
    edge_dim
        Number of Gaussians of the distance.
    width
        Their standard deviation in units of the cutoff (MatDeepLearn: 0.2,
        which blurs bonds; the default resolves about 0.2 Å at 5 Å).
    act
        Name of an activation in ``torch.nn.functional``.
    batch_norm
        Normalise node features after every convolution.
    fixed_norm
        Take the normalisation from the training set once, before training
        (:meth:`initialise`), and keep it: training and MD then see the same
        function, which small batches of unlike crystals break otherwise.
    pool_order
        ``"late"``: a sum of atomic energies; ``"early"``: atoms are summed
        before the last layers (not size-extensive; for old checkpoints).
    smooth_cutoff
        Weigh messages by the quintic switch, over ``switch_width`` Å before
        the cutoff, and divide by ``n_neighbours`` instead of the actual
        number: energy and forces become continuous at the cutoff, as MD needs.
    switch_width
        In Å; at most the cutoff.
    n_neighbours
        Typical number of neighbours (``train`` sets it from the data).
    images
        ``"all"`` periodic images of a neighbour, or the ``"nearest"`` only
        (MatDeepLearn's minimum-image graphs; forces jump where another image
        becomes the nearest).
    max_neighbours
        Longest list of neighbours, see :func:`~mdl_physpretrain.graphs.subgraphs.select_edges`
        (MatDeepLearn's ``n_neighbors``; forces jump where it cuts).

    Attributes
    ----------
    fast
        Use machine code where there is some (float32 on the CPU). What is
        given up is a third derivative, and the derivative of a gradient with
        respect to the weights.
    """

    reference_energies: Tensor

    def __init__(
        self,
        *,
        cutoff: float = 8.0,
        dim1: int = 100,
        dim2: int = 150,
        pre_fc_count: int = 1,
        gc_count: int = 4,
        post_fc_count: int = 3,
        edge_dim: int = 50,
        width: float = 0.04,
        act: str = "silu",
        batch_norm: bool = True,
        fixed_norm: bool = True,
        pool_order: str = "late",
        smooth_cutoff: bool = True,
        switch_width: float = 1.5,
        n_neighbours: float = 40.0,
        images: str = "all",
        max_neighbours: int | None = None,
    ) -> None:
        hparams = {k: v for k, v in locals().items() if k not in {"self", "__class__"}}
        super().__init__(cutoff, hparams, reference_energies=True)
        if pool_order not in {"late", "early"}:
            raise ConfigError(f"pool_order must be 'late' or 'early', not {pool_order!r}")
        if images not in {"all", "nearest"}:
            raise ConfigError(f"images must be 'all' or 'nearest', not {images!r}")
        if max_neighbours is not None and max_neighbours < 1:
            raise ConfigError(f"max_neighbours must be at least 1 or None, not {max_neighbours}")
        if gc_count < 1 or pre_fc_count < 0 or post_fc_count < 0:
            raise ConfigError("gc_count must be at least 1, pre_fc_count and post_fc_count at least 0")
        if not hasattr(F, act):
            raise ConfigError(f"torch.nn.functional has no activation {act!r}")
        if not 0 < switch_width <= cutoff:
            raise ConfigError(f"switch_width must lie in (0, {cutoff:g}] Å, not {switch_width}")
        self.act, self.pool_order, self.batch_norm = getattr(F, act), pool_order, batch_norm
        self.fixed_norm, self.images, self.max_neighbours = fixed_norm, images, max_neighbours
        self.smooth_cutoff, self.switch_width, self.n_neighbours = smooth_cutoff, switch_width, n_neighbours
        self.fades_at_cutoff = smooth_cutoff and images == "all" and max_neighbours is None
        self.distance_expansion = GaussianBasis(cutoff, edge_dim, width)
        node_dim = dim1 if pre_fc_count else N_ELEMENTS
        self.pre_lin_list = _stack(N_ELEMENTS, dim1, pre_fc_count)
        self.conv_list = nn.ModuleList([CGConv(node_dim, edge_dim) for _ in range(gc_count)])
        self.bn_list = nn.ModuleList([nn.BatchNorm1d(node_dim) for _ in range(gc_count)] if batch_norm else [])
        self.post_lin_list = _stack(node_dim, dim2, post_fc_count)
        self.lin_out = nn.Linear(dim2 if post_fc_count else node_dim, 1)
        self._known: IndexCache[bool] = IndexCache()
        self._rows: IndexCache[Tensor] = IndexCache()
        self._cached_layers: WeightCache[list[cgcnn_forces.FrozenLayer]] = WeightCache()
        self.train()  # a fixed normalisation is fixed from the start

    def train(self, mode: bool = True) -> CGCNN:
        """As ``nn.Module.train``; a fixed normalisation stays in evaluation mode."""
        super().train(mode)
        if self.fixed_norm:
            self.bn_list.eval()
        return self

    def data_arguments(self, structures: Sequence[Atoms]) -> dict[str, Any]:
        """``n_neighbours``, the mean number of neighbours of the atoms."""
        edges = [build_batch(a, self.cutoff).edge_index.shape[1] / len(a) for a in structures[:200]]
        return {"n_neighbours": round(max(1.0, sum(edges) / len(edges)), 2)}

    @torch.no_grad()
    def initialise(self, batch: AtomicBatch, generator: torch.Generator) -> None:
        """Scale the initial weights to the data.

        PyTorch's initial weights make elements and distances nearly
        indistinguishable: 600 steps later the network still predicts no
        forces. Embeddings of unit variance, edge weights ten times larger, a
        fixed normalisation measured on ``batch`` and a smaller output cure this.

        Parameters
        ----------
        batch
            Typical training structures, whose list reaches the cutoff.
        generator
            For the embeddings.
        """
        if len(self.pre_lin_list):
            weight: Any = self.pre_lin_list[0].weight
            weight.copy_(torch.randn(weight.shape, generator=generator))
        conv: Any
        for conv in self.conv_list:
            for layer in (conv.lin_f, conv.lin_s):
                layer.weight[:, 2 * conv.dim :] *= EDGE_GAIN
        self.lin_out.weight *= OUTPUT_GAIN
        if self.batch_norm and self.fixed_norm:
            norms: list[Any] = list(self.bn_list)
            momenta = [norm.momentum for norm in norms]
            for norm in norms:
                norm.train()
                norm.momentum = 1.0
            self(batch)
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
            self.train(self.training)

    def energies(self, batch: AtomicBatch, vectors: Tensor) -> Tensor:
        x = self.node_features(batch.numbers)
        r = torch.linalg.vector_norm(vectors, dim=1)
        if self.images == "nearest" or self.max_neighbours is not None:
            keep = select_edges(batch, r, images=self.images, limit=self.max_neighbours)
            if keep is not None:
                batch, r = batch.with_edges(keep), r[keep]
        layer = self._fast_layers(batch, r) if self.fast and _is_simple(r, x) else self._plain_layers(batch, r)
        for k, conv in enumerate(self.conv_list):
            x = layer(conv, x)
            if self.batch_norm:
                x = self.bn_list[k](x)
        return self.read_out(x, batch)

    def energy_and_gradient(
        self, batch: AtomicBatch, vectors: Tensor, *, create_graph: bool = False
    ) -> tuple[Tensor, Tensor]:
        simple = self.fast and self.images == "all" and self.max_neighbours is None and self.dtype == torch.float32
        constant = not create_graph and not any(norm.training for norm in self.bn_list)
        constant = constant and not torch.is_inference_mode_enabled()
        if not (simple and constant and _is_simple(vectors) and _is_sorted(batch.edge_index)):
            return super().energy_and_gradient(batch, vectors, create_graph=create_graph)
        layers = self._cached_layers.get(cgcnn_forces.sources(self), lambda: cgcnn_forces.freeze(self))
        return cgcnn_forces.energy_and_gradient(self, layers, batch, vectors)

    def _plain_layers(self, batch: AtomicBatch, r: Tensor) -> Callable[[Any, Tensor], Tensor]:
        weight, index = self.edge_weight(batch, r)[0].unsqueeze(1), batch.edge_index
        layers: Any = list(self.conv_list)
        of_edges = dict(zip(layers, edge_parts(layers, self.distance_expansion(r)), strict=True))
        rows = self._rows.get(index, lambda: atom_rows(index))
        return lambda conv, x: conv.add_messages(x, index[0], rows, of_edges[conv], weight)

    def _fast_layers(self, batch: AtomicBatch, r: Tensor) -> Callable[[Any, Tensor], Tensor]:
        weight, _ = self.edge_weight(batch, r)
        edge_index = batch.edge_index
        if not _is_sorted(edge_index):
            order = torch.argsort(edge_index[0], stable=True)
            edge_index, r, weight = edge_index[:, order], r[order], weight[order]
        edges = Neighbours.from_edges(edge_index, len(batch.numbers))
        rows, place = self.distance_expansion.table(), self.distance_expansion.place(r)
        return lambda conv, x: conv.fast(x, edges, rows, place, weight)

    def list_values(self, batch: AtomicBatch, vectors: Tensor) -> dict[str, Any] | None:
        self._check_elements(batch.numbers)
        index = batch.edge_index
        rows = self._rows.get(index, lambda: atom_rows(index))
        return {"_known": True, "_rows": rows} if self.fades_at_cutoff else None

    def _check_elements(self, numbers: Tensor) -> None:
        if not self._known.get(numbers, lambda: bool(((numbers >= 1) & (numbers <= N_ELEMENTS)).all())):
            raise StructureError(f"CGCNN knows the elements 1 to {N_ELEMENTS}", field="numbers")

    def node_features(self, numbers: Tensor) -> Tensor:
        """What the convolutions start from, shape (N, dim)."""
        self._check_elements(numbers)
        if not len(self.pre_lin_list):
            return F.one_hot(numbers - 1, N_ELEMENTS).to(self.dtype)
        first: Any = self.pre_lin_list[0]
        x = self.act(first.weight.T[numbers - 1] + first.bias)  # one-hot times matrix
        for layer in self.pre_lin_list[1:]:
            x = self.act(layer(x))
        return x

    def edge_weight(self, batch: AtomicBatch, r: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of the messages along edges of length ``r`` (E,), and their slopes (1/Å), shape (E,)."""
        if self.smooth_cutoff:
            switch, slope = quintic_switch(r, self.cutoff - self.switch_width, self.cutoff)
            return switch / self.n_neighbours, slope / self.n_neighbours
        i = batch.edge_index[0]
        degree = torch.bincount(i, minlength=len(batch.numbers)).clamp_min(1)
        return degree[i].to(r.dtype).reciprocal(), torch.zeros_like(r)

    def read_out(self, x: Tensor, batch: AtomicBatch) -> Tensor:
        """Energies (B,) in eV of the last features (N, dim)."""
        early = self.pool_order == "early"
        if early:
            x = x.new_zeros(batch.cells.shape[0], x.shape[1]).index_add(0, batch.structure, x)
        for layer in self.post_lin_list:
            x = self.act(layer(x))
        energy = self.lin_out(x).squeeze(-1)
        return self.reference_energy(batch) + energy if early else self.total_energy(energy, batch)


def _is_simple(*tensors: Tensor) -> bool:
    plain = all(x.device.type == "cpu" and x.dtype == torch.float32 for x in tensors)
    return plain and not torch.is_autocast_enabled("cpu")


def _is_sorted(edge_index: Tensor) -> bool:
    """Whether edges (2, E), on the CPU, come centre by centre."""
    centre = edge_index[0].numpy()
    return not (centre[1:] < centre[:-1]).any()


def _stack(first: int, dim: int, count: int) -> nn.ModuleList:
    return nn.ModuleList([nn.Linear(first if k == 0 else dim, dim) for k in range(count)])
