"""The embedded-atom teacher of the paper (Eq. 1-3), with analytic derivatives.

``E = sum_i F_i(rho_i) + 1/2 sum_{i != j} V_ij(r_ij) + sum_i E_atom,i`` with a
Morse pair term, a density of several exponentials and a quadratic embedding::

    V(r)   = D [(1 - exp(-alpha (r - r_m)))^2 - 1] f(r)
    rho(r) = sum_k A_k exp(-beta_k r) f(r)
    F(rho) = B (rho - rho_0)^2

``f`` is the quintic switch from ``0.66 r_c`` to ``r_c``. The shift by ``D`` (so
that ``V`` vanishes at infinity) and the switch are those of the authors'
implementation; the paper's Eq. 3 omits them. ``D, alpha, r_m, A_k, beta_k``
belong to an unordered pair of elements, ``B, rho_0, E_atom`` to an element.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols, covalent_radii
from torch import Tensor, nn

from mdl_physpretrain.compiled.cached_tables import IndexCache, WeightCache
from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.graphs.batch import AtomicBatch
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.eam import edge_kernel
from mdl_physpretrain.potentials.eam.labels import EAMKernel
from mdl_physpretrain.potentials.eam.parameters import (
    ELEMENT_PARAMETERS,
    PAIR_PARAMETERS,
    SWITCH_START,
    Tables,
    parameter_tables,
)
from mdl_physpretrain.potentials.registry import register_model
from mdl_physpretrain.potentials.switch import quintic_switch
from mdl_physpretrain.potentials.zbl import ZBL

__all__ = ["EAM"]

DTYPES = (torch.float32, torch.float64)  # that machine code is made for


@register_model("eam")
class EAM(EnergyModel):
    """Embedded-atom potential for any set of elements.

    Parameters
    ----------
    elements
        Chemical symbols; pairs are numbered ``combinations(elements, 2)``
        first, then the self pairs (the layout of the released checkpoints).
    cutoff
        Interaction range in Å.
    n_basis
        Number of exponentials in the density of a pair.
    core
        Add a ZBL repulsion below ``core_outer`` times the sum of covalent
        radii, at full strength below ``core_inner`` times it.
    core_ends
        Where the core of single pairs ends instead, see
        :class:`mdl_physpretrain.potentials.ZBL`.

    Attributes
    ----------
    D, alpha, rm
        Morse parameters, shape (n_pairs,): eV, 1/Å, Å.
    A, beta
        Density parameters, shape (n_pairs, n_basis): arbitrary units, 1/Å.
    B, rho0, base_atomic_energy
        Embedding and atomic energy (eV), shape (n_elements,).

    Notes
    -----
    Initial values are those of section 2.2.2: ones, except ``rm``, which is
    the sum of the covalent radii.
    """

    element_of: Tensor
    pair_of: Tensor
    role = "teacher"
    fades_at_cutoff = True

    def __init__(
        self,
        elements: Sequence[str],
        *,
        cutoff: float = 8.0,
        n_basis: int = 10,
        core: bool = True,
        core_inner: float = 0.5,
        core_outer: float = 0.95,
        core_ends: dict[str, float] | None = None,
    ) -> None:
        elements = [str(e) for e in elements]
        unknown = [e for e in elements if e not in atomic_numbers or e == "X"]
        if unknown or not elements or len(set(elements)) != len(elements):
            raise ConfigError(f"elements must be distinct chemical symbols, not {elements}")
        if n_basis < 1:
            raise ConfigError(f"n_basis must be at least 1, not {n_basis}")
        super().__init__(
            cutoff,
            {
                "elements": elements,
                "cutoff": float(cutoff),
                "n_basis": int(n_basis),
                "core": bool(core),
                "core_inner": float(core_inner),
                "core_outer": float(core_outer),
                "core_ends": core_ends,
            },
        )
        self.elements = elements
        n = len(elements)
        pairs = list(itertools.combinations(range(n), 2)) + [(a, a) for a in range(n)]
        self.pairs = [(elements[a], elements[b]) for a, b in pairs]
        z = torch.tensor([atomic_numbers[e] for e in elements])
        element_of = torch.full((119,), -1, dtype=torch.int64)
        element_of[z] = torch.arange(n)
        pair_of = torch.zeros(n, n, dtype=torch.int64)
        for p, (a, b) in enumerate(pairs):
            pair_of[a, b] = pair_of[b, a] = p
        self.register_buffer("element_of", element_of, persistent=False)
        self.register_buffer("pair_of", pair_of, persistent=False)
        radii = [float(covalent_radii[atomic_numbers[e]]) for e in elements]
        contact = torch.tensor([radii[a] + radii[b] for a, b in pairs], dtype=torch.float64)
        n_pairs = len(pairs)
        self.D = nn.Parameter(torch.ones(n_pairs))
        self.alpha = nn.Parameter(torch.ones(n_pairs))
        self.rm = nn.Parameter(contact.to(torch.get_default_dtype()))
        self.A = nn.Parameter(torch.ones(n_pairs, n_basis))
        self.beta = nn.Parameter(torch.ones(n_pairs, n_basis))
        self.B = nn.Parameter(torch.ones(n))
        self.rho0 = nn.Parameter(torch.ones(n))
        self.base_atomic_energy = nn.Parameter(torch.ones(n))
        self.core = ZBL(inner=core_inner, outer=core_outer, ends=core_ends) if core else None
        self._cached_tables: WeightCache[Tables] = WeightCache()
        self._elements: IndexCache[Tensor] = IndexCache()
        self._halves: IndexCache[Tensor] = IndexCache()

    def element_index(self, numbers: Tensor) -> Tensor:
        """Index into :attr:`elements` of atomic numbers, shape (N,).

        Raises
        ------
        StructureError
            If an element was not in the fit.
        """
        return self._elements.get(numbers, lambda: self._checked_index(numbers))

    def _checked_index(self, numbers: Tensor) -> Tensor:
        """See :meth:`element_index`."""
        index = self.element_of[numbers]
        if bool((index < 0).any()):
            strange = sorted({chemical_symbols[int(n)] for n in numbers[index < 0]})
            raise StructureError(
                f"element {', '.join(strange)} is unknown to this EAM ({', '.join(self.elements)})", field="numbers"
            )
        return index

    def pair_function(self, r: Tensor, pair: Tensor) -> tuple[Tensor, Tensor]:
        """Switched Morse energy (eV) and its derivative (eV/Å), shape (E,), without the core."""
        depth = self.D[pair]
        decay = torch.exp(-self.alpha[pair] * (r - self.rm[pair]))
        switch, switch_slope = quintic_switch(r, SWITCH_START * self.cutoff, self.cutoff)
        energy = depth * decay * (decay - 2)
        slope = 2 * depth * self.alpha[pair] * decay * (1 - decay)
        return energy * switch, slope * switch + energy * switch_slope

    def density_function(self, r: Tensor, pair: Tensor) -> tuple[Tensor, Tensor]:
        """Switched density of a neighbour at ``r`` and its derivative, shape (E,)."""
        beta = self.beta[pair]
        terms = self.A[pair] * torch.exp(-beta * r.unsqueeze(-1))
        density, slope = terms.sum(-1), -(beta * terms).sum(-1)
        switch, switch_slope = quintic_switch(r, SWITCH_START * self.cutoff, self.cutoff)
        return density * switch, slope * switch + density * switch_slope

    def embedding(self, density: Tensor, element: Tensor) -> tuple[Tensor, Tensor]:
        """Embedding energy (eV) and its derivative by the density, shape (N,)."""
        excess = density - self.rho0[element]
        return self.B[element] * excess.square(), 2 * self.B[element] * excess

    def densities(self, batch: AtomicBatch, vectors: Tensor) -> Tensor:
        """Electron density at every atom, shape (N,)."""
        i, j = batch.edge_index
        element = self.element_index(batch.numbers)
        r = torch.linalg.vector_norm(vectors, dim=1)
        density, _ = self.density_function(r, self.pair_of[element[i], element[j]])
        return r.new_zeros(len(batch.numbers)).index_add(0, i, density)

    def energies(self, batch: AtomicBatch, vectors: Tensor) -> Tensor:
        return self._evaluate(batch, vectors)[0]

    def energy_and_gradient(
        self, batch: AtomicBatch, vectors: Tensor, *, create_graph: bool = False
    ) -> tuple[Tensor, Tensor]:
        if self.fast and not create_graph and vectors.device.type == "cpu" and vectors.dtype in DTYPES:
            return self._compiled(batch, vectors)
        with torch.set_grad_enabled(create_graph):
            return self._evaluate(batch, vectors)

    def _compiled(self, batch: AtomicBatch, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`_evaluate`, in machine code, in double precision within."""
        sources = [getattr(self, name) for name in PAIR_PARAMETERS + ELEMENT_PARAMETERS]
        sources += [] if self.core is None else [self.core.end]
        parameters = self._cached_tables.get(sources, self._tables)
        element = self.element_index(batch.numbers)
        energy = torch.empty(len(batch), dtype=torch.float64)
        gradient = torch.empty_like(vectors, memory_format=torch.contiguous_format)
        of_edges = (batch.edge_index, vectors.detach(), batch.edge_shifts)
        arrays = [x.numpy() for x in (*of_edges, batch.structure, element, self.pair_of)]
        potential = (*parameters, self.cutoff, SWITCH_START * self.cutoff)
        edge_kernel.energy_and_gradient(*arrays, potential, energy.numpy(), gradient.numpy())
        return energy, gradient

    def _tables(self) -> Tables:
        # by attribute: a host holds the parameters itself and sets them before a call
        named = {name: getattr(self, name).detach().double().numpy() for name in PAIR_PARAMETERS + ELEMENT_PARAMETERS}
        return parameter_tables(named, self.core_table())

    def core_table(self) -> np.ndarray:
        """What :func:`~mdl_physpretrain.potentials.zbl_kernel.zbl` takes by pair, (n_pairs, 4), zero without a core."""
        if self.core is None:
            return np.zeros((len(self.pairs), 4))
        return np.array([self.core.core_of(atomic_numbers[a], atomic_numbers[b]) for a, b in self.pairs])

    def known_elements(self) -> set[str]:
        return set(self.elements)

    def restricted(self, elements: Sequence[str]) -> EAM:
        """The same potential for some of the elements, in this order; raises ConfigError for one that it has not."""
        unknown = [e for e in elements if e not in self.elements]
        if unknown:
            raise ConfigError(f"this EAM has no {', '.join(unknown)}, only {', '.join(self.elements)}")
        part = EAM(**{**self.hparams, "elements": list(elements)}).to(self.dtype)
        element = torch.tensor([self.elements.index(e) for e in elements])
        pair = torch.stack([self.pair_of[self.elements.index(a), self.elements.index(b)] for a, b in part.pairs])
        with torch.no_grad():
            for name in PAIR_PARAMETERS + ELEMENT_PARAMETERS:
                getattr(part, name).copy_(getattr(self, name)[element if name in ELEMENT_PARAMETERS else pair])
        part.metadata = dict(self.metadata)
        return part.train(self.training)

    def labeller(self) -> EAMKernel | None:
        """Machine code, in double precision on the CPU; not for subclasses, which may have another formula."""
        in_kernel = type(self) is EAM and self.dtype == torch.float64 and self.device.type == "cpu"
        return self.label_kernel() if in_kernel else None

    def label_kernel(self) -> EAMKernel:
        """Machine code for labels on the CPU, with copies of the parameters in double precision."""
        parameters = {name: value.detach().cpu().double().numpy() for name, value in self.named_parameters()}
        tables = (self.element_of.cpu().numpy(), self.pair_of.cpu().numpy(), self.core_table())
        return EAMKernel(self.cutoff, *tables, parameters)

    def _evaluate(self, batch: AtomicBatch, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Energies and analytic dE/d(vectors).

        Every pair is evaluated once, on the half of the directed edges that
        stands for it, and its whole gradient is written there.
        """
        element = self.element_index(batch.numbers)
        half = self._halves.get(batch.edge_index, lambda: one_direction(batch))
        i, j = batch.edge_index[:, half]
        half_vectors = vectors[half]
        r = torch.linalg.vector_norm(half_vectors, dim=1)
        pair = self.pair_of[element[i], element[j]]
        pair_energy, pair_slope = self.pair_function(r, pair)
        density, density_slope = self.density_function(r, pair)
        if self.core is not None:
            numbers_i, numbers_j = batch.numbers[i], batch.numbers[j]
            if r.device.type == "cpu":  # few pairs: spare the others the exponentials
                near = torch.nonzero(r.detach() < self.core.cutoff).squeeze(1)
                core_energy, core_slope = self.core.pair_terms(numbers_i[near], numbers_j[near], r[near])
                pair_energy = pair_energy.index_add(0, near, core_energy)
                pair_slope = pair_slope.index_add(0, near, core_slope)
            else:  # without waiting for their number
                core_energy, core_slope = self.core.pair_terms(numbers_i, numbers_j, r)
                pair_energy, pair_slope = pair_energy + core_energy, pair_slope + core_slope
        at_atom = r.new_zeros(len(batch.numbers)).index_add(0, i, density).index_add(0, j, density)
        embedding, embedding_slope = self.embedding(at_atom, element)
        # energies of atoms may be those of an all-electron code: in float32 their sum would swallow the others
        exact = torch.float32 if r.device.type == "mps" else torch.float64
        atomic = embedding.to(exact) + self.base_atomic_energy.to(exact)[element]
        energy = atomic.new_zeros(len(batch)).index_add(0, batch.structure, atomic)
        energy = energy.index_add(0, batch.structure[i], pair_energy.to(exact))
        slope = pair_slope + (embedding_slope[i] + embedding_slope[j]) * density_slope
        gradient = torch.zeros_like(vectors).index_put((half,), (slope / r.clamp_min(1e-6)).unsqueeze(1) * half_vectors)
        return energy, gradient


def one_direction(batch: AtomicBatch) -> Tensor:
    """Indices of one directed edge per pair of atoms, shape (E / 2,)."""
    i, j = batch.edge_index
    first, second, third = batch.edge_shifts.unbind(1)
    # among an atom's own images the shift S stands for -S too: the first non-zero component decides
    forward = (first > 0) | ((first == 0) & ((second > 0) | ((second == 0) & (third > 0))))
    return torch.nonzero((i < j) | ((i == j) & forward)).squeeze(1)
