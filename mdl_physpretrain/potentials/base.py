"""Contract of every potential: energies of edge vectors, their derivatives, and hooks with defaults.

Teacher (EAM) and network (CGCNN, ...) are the same kind of thing, an
:class:`EnergyModel`. Forces and stress are derived in one place,
:func:`predict`, from the gradient of the energy with respect to the edge
vectors: one backward pass gives both. What training, labelling, MD and
checkpoints ask of a potential is declared in the base class and nowhere else.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from ase import Atoms
from torch import Tensor, nn

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.graphs.batch import AtomicBatch
from mdl_physpretrain.graphs.edge_kernel import add_forces, add_virials
from mdl_physpretrain.potentials.checkpoint_file import save_model
from mdl_physpretrain.structures.labels import Labels

__all__ = ["EnergyModel", "Labeller", "Prediction", "predict", "within_cutoff"]

MAX_CUTOFF = 100.0  # Å; a larger one is a mistake, and its neighbour lists fit into no memory


class Labeller(Protocol):
    """A fast way to label many structures, see :meth:`EnergyModel.labeller`."""

    def stream(self, structures: Iterable[Atoms], threads: int) -> Iterator[list[tuple[Atoms, Labels | None]]]:
        """Structures with their labels, in order, some at a time.

        ``None`` in place of labels leaves a structure to :func:`predict` and its errors.
        """


@dataclass
class Prediction:
    """Energies (B,) in eV, forces (N, 3) in eV/Å, stress (B, 3, 3) in eV/Å³.

    The stress has ASE's sign; it is zero where a structure has no volume.
    Energies with reference energies in them are float64.
    """

    energy: Tensor
    forces: Tensor
    stress: Tensor


class EnergyModel(nn.Module):
    """Base class of all potentials: the whole contract, of which only :meth:`energies` has no default.

    A new potential is one file: a subclass with a constructor of plain
    keyword arguments, which it hands to this one as ``hparams``, and
    :meth:`energies`. The rest of this package asks of it nothing but what is
    written here; ``docs/backbones.md`` has a recipe, ``examples/schnet`` an example.

    Parameters
    ----------
    cutoff
        Range of the model in Å.
    hparams
        Plain Python values with which ``type(model)(**hparams)`` rebuilds the
        architecture; checkpoints store them.
    reference_energies
        Keep a table :attr:`reference_energies` of an energy per element,
        which training sets from the data and :meth:`total_energy` adds.

    Attributes
    ----------
    registry_name
        What YAML and checkpoints call the model: the name of its entry point, or of
        :func:`~mdl_physpretrain.potentials.registry.register_model`.
    role
        ``"network"``: learns from a teacher; ``"teacher"``: may be the
        physical part of a sum with a network; ``"core"``: a fixed repulsion.
    fast
        Whether machine code is used where the model has any; without it the
        readable formula is.
    fades_at_cutoff
        Whether an edge of the length of the cutoff changes neither energy nor forces. On a GPU, MD then puts the longer
        edges of its lists there, instead of waiting for them to be sorted out.
    compiled_gradient
        What takes the place of the formula in :meth:`energy_and_gradient`, see
        :func:`mdl_physpretrain.potentials.compiled_graph.compiled`.
    metadata
        Plain values stored with a checkpoint. ``"elements"``, the symbols
        trained on, limits MD to them; ``"examination"`` says whether a
        teacher may label.
    reference_energies
        In eV by atomic number, shape (119,), if asked for; part of the
        ``state_dict``. In float64 whatever :attr:`dtype` is: those of
        all-electron codes are a million times larger than what forces come from.
    """

    registry_name: ClassVar[str] = ""
    role: ClassVar[str] = "network"
    fast: bool = True
    fades_at_cutoff: bool = False
    compiled_gradient: Callable[[EnergyModel, AtomicBatch, Tensor], tuple[Tensor, Tensor] | None] | None = None

    def __init__(self, cutoff: float, hparams: dict[str, Any], *, reference_energies: bool = False) -> None:
        super().__init__()
        if not 0 < cutoff <= MAX_CUTOFF:
            raise ConfigError(f"cutoff must lie in (0, {MAX_CUTOFF:g}] Å, not {cutoff}")
        self.cutoff = float(cutoff)
        self.hparams = hparams
        self.metadata: dict[str, Any] = {}
        if reference_energies:
            self.register_buffer("reference_energies", torch.zeros(119, dtype=torch.float64))

    def energies(self, batch: AtomicBatch, vectors: Tensor) -> Tensor:
        """Potential energies in eV, shape (B,): the formula, differentiable twice.

        With reference energies it ends with :meth:`total_energy`.

        Parameters
        ----------
        batch
            Its edges are all shorter than :attr:`cutoff`.
        vectors
            Edge vectors in Å, shape (E, 3), through which gradients flow.

        Raises
        ------
        StructureError
            On elements that the model does not know.
        """
        raise NotImplementedError

    def total_energy(self, atomic: Tensor, batch: AtomicBatch) -> Tensor:
        """Energies of the structures in eV, shape (B,), float64: of their atoms (N,), and the reference energies."""
        total = self.reference_energy(batch)
        return total.index_add(0, batch.structure, atomic.to(total.dtype))

    def reference_energy(self, batch: AtomicBatch) -> Tensor:
        """Sum of the reference energies of the atoms of each structure in eV, shape (B,), float64."""
        references = self.get_buffer("reference_energies")[batch.numbers]
        return references.new_zeros(batch.cells.shape[0]).index_add(0, batch.structure, references)

    def data_arguments(self, structures: Sequence[Atoms]) -> dict[str, Any]:
        """Constructor arguments that follow from the training structures; those a user gives win. None by default."""
        return {}

    def initialise(self, batch: AtomicBatch, generator: torch.Generator) -> None:
        """Scale fresh weights to data, before training; by default they stay what the constructor made them.

        Parameters
        ----------
        batch
            Labelled training structures, whose list reaches the cutoff.
        generator
            For random numbers, so that a seed gives the same network.
        """

    def known_elements(self) -> set[str] | None:
        """Symbols of the elements that the formula has parameters for; ``None`` (the default) leaves it to errors."""
        return None

    def untrained_elements(self, symbols: Iterable[str]) -> list[str]:
        """Those of the elements that it was not trained on, by its metadata; none where these do not say."""
        trained = self.metadata.get("elements")
        return sorted(set(symbols) - set(trained)) if trained else []

    def leaves(self) -> Iterator[EnergyModel]:
        """The models that this one is a sum of; by default itself alone."""
        yield self

    def labeller(self) -> Labeller | None:
        """Something that labels many structures faster than batches of :func:`predict`, with the same numbers."""
        return None

    def energy_and_gradient(
        self, batch: AtomicBatch, vectors: Tensor, *, create_graph: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Energies (B,) in eV and dE/d(vectors), shape (E, 3), in eV/Å.

        The default is reverse-mode differentiation; models with analytic
        derivatives override it. With ``create_graph`` the result can be
        differentiated by the parameters.
        """
        if torch.is_inference_mode_enabled():  # nothing can be differentiated there: forces would be zero
            with torch.inference_mode(False):
                return self.energy_and_gradient(_ordinary(batch), vectors.clone(), create_graph=create_graph)
        if self.compiled_gradient is not None and not create_graph:
            result = self.compiled_gradient(self, batch, vectors)
            if result is not None:
                return result
        return self.formula_gradient(batch, vectors, create_graph=create_graph)

    def formula_gradient(
        self, batch: AtomicBatch, vectors: Tensor, *, create_graph: bool = False
    ) -> tuple[Tensor, Tensor]:
        """:meth:`energy_and_gradient` of the formula, by reverse-mode differentiation."""
        with torch.enable_grad():
            leaf = vectors if create_graph and vectors.requires_grad else vectors.detach().requires_grad_(True)
            energy = self.energies(batch, leaf)
            if not energy.requires_grad:  # no edges, nothing to differentiate
                return energy, torch.zeros_like(vectors)
            (gradient,) = torch.autograd.grad(
                energy.sum(), leaf, create_graph=create_graph, allow_unused=True, materialize_grads=True
            )
        return (energy, gradient) if create_graph else (energy.detach(), gradient)

    def list_values(self, batch: AtomicBatch, vectors: Tensor) -> dict[str, Any] | None:
        """What :meth:`energies` takes from elements and neighbour list alone, by the names of its ``IndexCache``.

        Booleans, tensors and dataclasses of tensors; errors of elements are raised. A model with this can be compiled:
        the rest of its formula asks for no value and no unknown size of a tensor. ``None``, the default: it cannot.
        """
        return None

    def prediction(self, batch: AtomicBatch) -> Prediction | None:
        """Energies, forces and stress of a model that has no gradient by edge vector (another package's).

        ``None``, the default: :func:`predict` derives them from :meth:`energy_and_gradient`.
        """
        return None

    def forward(self, batch: AtomicBatch) -> Tensor:
        """Potential energies in eV, shape (B,)."""
        if _is_autocast(batch):
            with torch.autocast(batch.positions.device.type, enabled=False):
                return self(batch)
        batch, vectors, _ = within_cutoff(batch, batch.edge_vectors(), self.cutoff)
        return self.energies(batch, vectors)

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the parameters, or of the buffers without any."""
        tensors = itertools.chain(self.parameters(), self.buffers())
        return next((t.dtype for t in tensors if t.is_floating_point()), torch.get_default_dtype())

    @property
    def device(self) -> torch.device:
        """Device of the parameters, or of the buffers without any."""
        return next((t.device for t in itertools.chain(self.parameters(), self.buffers())), torch.device("cpu"))

    def _apply(self, fn, recurse=True):  # noqa: ANN001, ANN202
        exact = self._buffers.get("reference_energies")
        super()._apply(fn, recurse)
        moved = self._buffers.get("reference_energies")
        if exact is not None and moved is not None and moved.dtype != exact.dtype and moved.device.type != "mps":
            self._buffers["reference_energies"] = exact.to(moved.device)  # another precision is of the weights alone
        return self

    def _load_from_state_dict(self, state_dict, prefix, *args):  # noqa: ANN001, ANN002, ANN202
        if "reference_energies" in self._buffers:  # networks of other programs have none
            zeros = torch.zeros_like(self.get_buffer("reference_energies"))
            state_dict.setdefault(prefix + "reference_energies", zeros)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def save(self, path: str | Path, **metadata: Any) -> None:
        """Write a native checkpoint, see :func:`mdl_physpretrain.potentials.checkpoint.save_model`."""
        save_model(self, path, metadata=metadata)


def _ordinary(batch: AtomicBatch) -> AtomicBatch:
    """The batch with copies of tensors that were made in inference mode."""
    tensors = {f.name: getattr(batch, f.name) for f in fields(batch)}
    copies: dict[str, Any] = {k: v.clone() for k, v in tensors.items() if isinstance(v, Tensor) and v.is_inference()}
    return replace(batch, **copies)


def within_cutoff(batch: AtomicBatch, vectors: Tensor, cutoff: float) -> tuple[AtomicBatch, Tensor, Tensor | None]:
    """Batch, vectors and mask without edges longer than ``cutoff``.

    The mask, as indices (E',), is ``None`` when the list has no longer ones.
    """
    if batch.list_cutoff < cutoff - 1e-9:
        raise ConfigError(f"neighbour list of {batch.list_cutoff:g} Å is too short for a model of {cutoff:g} Å")
    if batch.list_cutoff <= cutoff + 1e-9:
        return batch, vectors, None
    keep = torch.nonzero(vectors.detach().square().sum(-1) < cutoff**2).squeeze(1)
    return batch.with_edges(keep), vectors[keep], keep


def predict(model: EnergyModel, batch: AtomicBatch, *, create_graph: bool = False) -> Prediction:
    """Energies, forces and stress of any model by one backward pass.

    With edge vectors ``r_e`` from ``i`` to ``j`` and ``g_e = dE/dr_e``,
    ``F_i = sum_{e from i} g_e - sum_{e to i} g_e`` and
    ``stress = sum_e sym(r_e g_e^T) / V``.

    Parameters
    ----------
    model, batch
        On the same device, of the same dtype. The neighbour list may be longer
        than the model's cutoff.
    create_graph
        Keep the graph, to train on forces and stress.

    Returns
    -------
    Prediction
        In the model's own precision, also under ``torch.autocast``: forces are small differences of energies, of which
        bfloat16 keeps two digits and float16 three.
    """
    if _is_autocast(batch):
        with torch.autocast(batch.positions.device.type, enabled=False):
            return predict(model, batch, create_graph=create_graph)
    if (whole := model.prediction(batch)) is not None:
        return whole
    vectors = batch.edge_vectors()
    inner, vectors, _ = within_cutoff(batch, vectors, model.cutoff)
    energy, gradient = model.energy_and_gradient(inner, vectors, create_graph=create_graph)
    forces, virial = _sums(inner, vectors, gradient)
    volumes = batch.volumes
    has_volume = volumes > 1e-9
    stress = 0.5 * (virial + virial.mT) / torch.where(has_volume, volumes, torch.ones_like(volumes)).view(-1, 1, 1)
    return Prediction(energy, forces, stress * has_volume.view(-1, 1, 1))


def _is_autocast(batch: AtomicBatch) -> bool:
    """Whether products on the batch's device would be in half precision."""
    device = batch.positions.device.type
    return device in ("cpu", "cuda", "mps", "xpu") and torch.is_autocast_enabled(device)


def _sums(batch: AtomicBatch, vectors: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Forces (N, 3) and virials (B, 3, 3) of the gradient of the edges."""
    forces = torch.zeros_like(batch.positions)
    if (
        not gradient.requires_grad
        and gradient.device.type == "cpu"
        and gradient.dtype in (torch.float32, torch.float64)
    ):
        virial = torch.zeros((len(batch), 3, 3), dtype=torch.float64)
        index, structure, r, g = (x.detach().numpy() for x in (batch.edge_index, batch.structure, vectors, gradient))
        add_forces(index, g, forces.numpy())
        add_virials(index, structure, r, g, virial.numpy())
        return forces, virial.to(gradient.dtype)
    i, j = batch.edge_index
    forces = forces.index_add(0, i, gradient).index_add(0, j, -gradient)
    products = (vectors.unsqueeze(2) * gradient.unsqueeze(1)).flatten(1)
    return forces, products.new_zeros(len(batch), 9).index_add(0, batch.edge_structure, products).view(-1, 3, 3)
