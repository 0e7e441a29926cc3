"""A classical force field: damped Coulomb, Born-Mayer repulsion, dispersion, angles. A native teacher.

Its parameters enter linearly but for the charges, so that it is fitted in
seconds (:func:`mdl_physpretrain.teacher.kinds.classical.fit_classical`), and its signs are those
of physics: repulsion repels at every distance, dispersion attracts.

References
----------
C. J. Fennell and J. D. Gezelter, J. Chem. Phys. 124, 234104 (2006): the
damped, shifted-force Coulomb sum. Angles: :mod:`mdl_physpretrain.potentials.bond_angles`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from ase.data import atomic_numbers, chemical_symbols
from torch import Tensor

from mdl_physpretrain.compiled.cached_tables import IndexCache
from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.graphs.batch import AtomicBatch
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.bond_angles import COSINES, REACHES, Moments, angle_sums, bond_moments
from mdl_physpretrain.potentials.registry import register_model
from mdl_physpretrain.potentials.switch import quintic_switch
from mdl_physpretrain.potentials.zbl import ZBL

__all__ = ["ClassicalForceField", "radial_terms"]

COULOMB = 14.399645478  # e^2 / (4 pi eps0) in eV Å
LENGTHS = (0.18, 0.25, 0.34, 0.48)  # Å: decay of the repulsion
DAMPING = 0.2  # 1/Å, of the Coulomb sum
UNIT_AT = 2.0  # Å: where repulsion and dispersion of unit strength are 1 eV, about where neighbours are
SOFTENING = 2.0  # Å: dispersion is finite at contact
SWITCH_FROM = 0.8  # of the cutoff: repulsion and dispersion go to zero from here


def radial_terms(r: Tensor, cutoff: float, lengths: Sequence[float] = LENGTHS) -> tuple[Tensor, Tensor]:
    """Functions of the distance (Å) that a pair's energy is a sum of, and their derivatives: eV and eV/Å, (L + 2, E).

    The first is the Coulomb energy of two unit charges, then one repulsion per decay length, the last is the dispersion
    (negative).
    """

    def bare(x: Tensor) -> tuple[Tensor, Tensor]:
        screened = torch.erfc(DAMPING * x) / x
        gaussian = 2 * DAMPING / math.sqrt(math.pi) * torch.exp(-((DAMPING * x) ** 2))
        return screened, -(screened + gaussian) / x

    value, slope = bare(r)
    end, end_slope = bare(torch.full((), cutoff, dtype=r.dtype, device=r.device))
    values = [COULOMB * (value - end - end_slope * (r - cutoff))]
    slopes = [COULOMB * (slope - end_slope)]
    inner = torch.full_like(r, SWITCH_FROM * cutoff)
    switch, switch_slope = quintic_switch(r, inner, torch.full_like(r, cutoff))
    for length in lengths:
        decay = torch.exp((UNIT_AT - r) / length)
        values.append(decay * switch)
        slopes.append(decay * (switch_slope - switch / length))
    inverse = 1 / (r**6 + SOFTENING**6)
    unit = UNIT_AT**6 + SOFTENING**6
    values.append(-unit * inverse * switch)
    slopes.append(unit * (6 * r**5 * inverse**2 * switch - inverse * switch_slope))
    return torch.stack(values), torch.stack(slopes)


@register_model("classical")
class ClassicalForceField(EnergyModel):
    """``E = sum_{i<j} [q_i q_j C(r) + (sum_k A_k exp((r_1-r)/l_k) - D (r_1^6+d^6)/(r^6+d^6)) s(r)] + sum_i e_i``.

    ``r_1`` is 2 Å, ``d`` too. With ``angles``,
    ``sum_i sum_{j<k} sum_mc S_mc f_m(r_ij) f_m(r_ik) (cos jik - c)^2`` is added.

    Parameters
    ----------
    elements
        Symbols.
    cutoff
        In Å.
    lengths
        Decay lengths of the repulsion, Å.
    core
        Where a ZBL core of each pair, such as ``"O-Mg"``, ends, Å; ``None``: no core.
    angles
        Add the angular terms.

    Attributes
    ----------
    charges, base_energies
        Of every element, in units of e and eV.
    strengths
        Of repulsions (A_k) and dispersion (D, last) of every pair of elements
        at 2 Å in eV, shape (P, L + 1), pairs in the order of :attr:`pairs`.
    angle_strengths
        S in eV of every element at the centre, pair of neighbours, reach and cosine; ``None`` without angles.
    """

    pair_of: Tensor
    index_of: Tensor
    role = "teacher"
    fades_at_cutoff = True

    def __init__(
        self,
        elements: Sequence[str],
        *,
        cutoff: float = 8.0,
        lengths: Sequence[float] = LENGTHS,
        core: dict[str, float] | None = None,
        angles: bool = False,
    ) -> None:
        elements = list(elements)
        strange = any(e not in atomic_numbers or e == "X" for e in elements)
        if strange or not elements or len(set(elements)) != len(elements):
            raise ConfigError(f"elements must be different symbols, not {elements}")
        if not all(isinstance(length, int | float) and 0 < length < float("inf") for length in lengths):
            raise ConfigError(f"lengths must be positive numbers (Å), not {list(lengths)}")
        super().__init__(cutoff, {"elements": elements, "cutoff": cutoff, "lengths": list(lengths), "core": core})
        if angles:
            self.hparams["angles"] = True
        self.elements, self.lengths = elements, tuple(lengths)
        self.core = None if core is None else ZBL(ends=core)
        self.pairs = list(itertools.combinations_with_replacement(elements, 2))
        index_of = torch.full((119,), -1, dtype=torch.long)
        index_of[[atomic_numbers[e] for e in elements]] = torch.arange(len(elements))
        pair_of = torch.zeros(len(elements), len(elements), dtype=torch.long)
        for k, (a, b) in enumerate(itertools.combinations_with_replacement(range(len(elements)), 2)):
            pair_of[a, b] = pair_of[b, a] = k
        self.register_buffer("index_of", index_of, persistent=False)
        self.register_buffer("pair_of", pair_of, persistent=False)
        self._elements: IndexCache[Tensor] = IndexCache()
        self.charges = torch.nn.Parameter(torch.zeros(len(elements)))
        self.strengths = torch.nn.Parameter(torch.zeros(len(self.pairs), len(self.lengths) + 1))
        self.base_energies = torch.nn.Parameter(torch.zeros(len(elements)))
        shape = (len(elements), len(self.pairs), len(REACHES), len(COSINES))
        self.angle_strengths = torch.nn.Parameter(torch.zeros(shape)) if angles else None

    def known_elements(self) -> set[str]:
        return set(self.elements)

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
        index = self.index_of[numbers]
        if (index < 0).any():
            strange = sorted({chemical_symbols[z] for z in numbers[index < 0].tolist()})
            raise StructureError(
                f"element {', '.join(strange)} is unknown to this potential ({', '.join(self.elements)})",
                field="numbers",
            )
        return index

    def edge_kinds(self, batch: AtomicBatch) -> Tensor:
        """Pair of elements of every edge, shape (E,)."""
        i, j = self.element_index(batch.numbers)[batch.edge_index]
        return self.pair_of[i, j]

    def bonds(self, batch: AtomicBatch, vectors: Tensor) -> tuple[Tensor, Tensor, Moments]:
        """Edges that make angles (E'), the elements at their other ends, and the moments of all atoms."""
        short = torch.nonzero(torch.linalg.vector_norm(vectors.detach(), dim=1) < max(REACHES)).squeeze(1)
        kinds = self.element_index(batch.numbers)
        centre, neighbour = batch.edge_index[:, short]
        moments = bond_moments(centre, kinds[neighbour], vectors[short], len(kinds), len(self.elements))
        return short, kinds[neighbour], moments

    def angle_sums(self, batch: AtomicBatch, vectors: Tensor) -> Tensor:
        """Angular sums of every atom, shape (N, P, reaches, cosines)."""
        sums = angle_sums(self.bonds(batch, vectors)[2])
        first, second = torch.triu_indices(len(self.elements), len(self.elements), device=sums.device)
        return sums[:, first, second]

    def pair_curve(self, first: str, second: str, r: Tensor) -> dict[str, Tensor]:
        """Energy of two atoms alone, its parts and its derivative.

        Parameters
        ----------
        first, second
            Symbols.
        r
            Distances in Å, shape (R,), in the model's precision.

        Returns
        -------
        dict
            ``total``, ``coulomb``, ``repulsion``, ``dispersion``, ``core`` (eV) and ``slope`` (eV/Å), shape (R,).
        """
        a, b = self.elements.index(first), self.elements.index(second)
        values, slopes = radial_terms(r, self.cutoff, self.lengths)
        core = core_slope = torch.zeros_like(r)
        if self.core is not None:
            numbers = [torch.full((len(r),), atomic_numbers[s]) for s in (first, second)]
            core, core_slope = self.core.pair_terms(numbers[0], numbers[1], r)
        with torch.no_grad():
            strengths = torch.cat([(self.charges[a] * self.charges[b])[None], self.strengths[self.pair_of[a, b]]])
            parts = strengths[:, None] * values
            return {
                "total": parts.sum(dim=0) + core,
                "coulomb": parts[0],
                "repulsion": parts[1:-1].sum(dim=0),
                "dispersion": parts[-1],
                "core": core,
                "slope": strengths @ slopes + core_slope,
            }

    def energies(self, batch: AtomicBatch, vectors: Tensor) -> Tensor:
        kinds = self.element_index(batch.numbers)
        i, j = kinds[batch.edge_index]
        values, _ = radial_terms(torch.linalg.vector_norm(vectors, dim=1), self.cutoff, self.lengths)
        strengths = self.strengths[self.pair_of[i, j]].T
        energy = self.charges[i] * self.charges[j] * values[0] + (strengths * values[1:]).sum(dim=0)
        total = self._total(batch, kinds, energy)
        if self.angle_strengths is not None:
            total = total + self._angle_energies(batch, vectors)
        return total if self.core is None else total + self.core.energies(batch, vectors)

    def energy_and_gradient(
        self, batch: AtomicBatch, vectors: Tensor, *, create_graph: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Slopes of the pairs by hand where nothing learns: their chain of exponentials is most of the work."""
        if create_graph or not self.fast or torch.is_inference_mode_enabled():
            return super().energy_and_gradient(batch, vectors, create_graph=create_graph)
        vectors = vectors.detach()
        with torch.no_grad():
            kinds = self.element_index(batch.numbers)
            i, j = kinds[batch.edge_index]
            r = torch.linalg.vector_norm(vectors, dim=1)
            values, slopes = radial_terms(r, self.cutoff, self.lengths)
            strengths = torch.cat([(self.charges[i] * self.charges[j])[None], self.strengths[self.pair_of[i, j]].T])
            total = self._total(batch, kinds, (strengths * values).sum(dim=0))
            gradient = (0.5 * (strengths * slopes).sum(dim=0) / r)[:, None] * vectors
        if self.angle_strengths is not None:
            short = torch.nonzero(r < max(REACHES)).squeeze(1)
            with torch.enable_grad():
                bonds = vectors[short].requires_grad_(True)
                angles = self._angle_energies(replace(batch, edge_index=batch.edge_index[:, short]), bonds)
                if angles.requires_grad:
                    gradient.index_add_(0, short, torch.autograd.grad(angles.sum(), bonds)[0])
            total = total + angles.detach()
        if self.core is not None:
            energy, slope = self.core.energy_and_gradient(batch, vectors)
            total, gradient = total + energy, gradient + slope
        return total, gradient

    def _total(self, batch: AtomicBatch, kinds: Tensor, pair_energies: Tensor) -> Tensor:
        """Energies (B,) of the atoms and of the pairs, shape (E,) each direction once, in eV."""
        exact = torch.float32 if pair_energies.device.type == "mps" else torch.float64
        base = self.base_energies.to(exact)[kinds]
        total = base.new_zeros(len(batch)).index_add(0, batch.structure, base)
        return total.index_add(0, batch.edge_structure, 0.5 * pair_energies.to(exact))

    def _angle_energies(self, batch: AtomicBatch, vectors: Tensor) -> Tensor:
        """Energies of the angles, shape (B,), in eV."""
        assert self.angle_strengths is not None
        kinds = self.element_index(batch.numbers)
        angles = (self.angle_sums(batch, vectors) * self.angle_strengths[kinds]).sum(dim=(1, 2, 3))
        exact = torch.float32 if angles.device.type == "mps" else torch.float64
        return angles.new_zeros(len(batch), dtype=exact).index_add(0, batch.structure, angles.to(exact))
