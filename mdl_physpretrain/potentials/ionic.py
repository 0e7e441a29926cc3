"""Pairs with charges: damped Coulomb, Born-Mayer repulsion, dispersion. A native teacher for ionic materials.

Its parameters enter linearly but for the charges, so that it is fitted in
seconds (:func:`mdl_physpretrain.teacher.fit_ionic`), and its signs are those
of physics: repulsion repels at every distance, dispersion attracts.

References
----------
C. J. Fennell and J. D. Gezelter, J. Chem. Phys. 124, 234104 (2006): the
damped, shifted-force Coulomb sum.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from ase.data import atomic_numbers
from torch import Tensor

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.graphs.batch import AtomicBatch
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.registry import register_model
from mdl_physpretrain.potentials.switch import quintic_switch
from mdl_physpretrain.potentials.zbl import ZBL

__all__ = ["IonicPair", "radial_terms"]

COULOMB = 14.399645478  # e^2 / (4 pi eps0) in eV Å
LENGTHS = (0.18, 0.25, 0.34, 0.48)  # Å: decay of the repulsion
DAMPING = 0.2  # 1/Å, of the Coulomb sum
SOFTENING = 2.0  # Å: dispersion is finite at contact
SWITCH_FROM = 0.8  # of the cutoff: repulsion and dispersion go to zero from here


def radial_terms(r: Tensor, cutoff: float, lengths: Sequence[float] = LENGTHS) -> tuple[Tensor, Tensor]:
    """Functions of the distance that the energy of a pair is a sum of, and their derivatives.

    The first is the Coulomb energy of two unit charges, then one repulsion per
    length, the last is the dispersion (negative).

    Parameters
    ----------
    r
        Distances in Å, shape (E,).
    cutoff
        In Å.
    lengths
        Decay lengths of the repulsion in Å, L of them.

    Returns
    -------
    values, slopes
        eV and eV/Å, shape (L + 2, E).
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
        decay = torch.exp(-r / length)
        values.append(decay * switch)
        slopes.append(decay * (switch_slope - switch / length))
    inverse = 1 / (r**6 + SOFTENING**6)
    values.append(-inverse * switch)
    slopes.append(6 * r**5 * inverse**2 * switch - inverse * switch_slope)
    return torch.stack(values), torch.stack(slopes)


@register_model("ionic")
class IonicPair(EnergyModel):
    """``E = sum_{i<j} [q_i q_j C(r) + sum_k A_k exp(-r/l_k) s(r) - D s(r)/(r^6 + d^6)] + sum_i e_i``.

    Parameters
    ----------
    elements
        Symbols.
    cutoff
        In Å.
    lengths
        Decay lengths of the repulsion, Å.
    core
        Where a ZBL core of each pair, such as ``"Li-O"``, ends, Å; ``None``: no core.

    Attributes
    ----------
    charges, base_energies
        Of every element, in units of e and eV.
    amplitudes
        Of repulsions (A_k, eV) and dispersion (D, eV Å^6, last) of every pair
        of elements, shape (P, L + 1), pairs in the order of :attr:`pairs`.
    """

    pair_of: Tensor
    index_of: Tensor

    def __init__(
        self,
        elements: Sequence[str],
        *,
        cutoff: float = 8.0,
        lengths: Sequence[float] = LENGTHS,
        core: dict[str, float] | None = None,
    ) -> None:
        elements = list(elements)
        if not elements or len(set(elements)) != len(elements):
            raise ConfigError(f"elements must be different symbols, not {elements}")
        super().__init__(cutoff, {"elements": elements, "cutoff": cutoff, "lengths": list(lengths), "core": core})
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
        self.charges = torch.nn.Parameter(torch.zeros(len(elements)))
        self.amplitudes = torch.nn.Parameter(torch.zeros(len(self.pairs), len(self.lengths) + 1))
        self.base_energies = torch.nn.Parameter(torch.zeros(len(elements)))

    def edge_kinds(self, batch: AtomicBatch) -> Tensor:
        """Pair of elements of every edge, shape (E,)."""
        i, j = self.index_of[batch.numbers[batch.edge_index]]
        return self.pair_of[i, j]

    def pair_function(self, r: Tensor, pair: Tensor) -> tuple[Tensor, Tensor]:
        """Energy (eV) and slope (eV/Å) of pairs of kind ``pair`` at ``r``, without the core."""
        values, slopes = radial_terms(r, self.cutoff, self.lengths)
        first, second = torch.triu_indices(len(self.elements), len(self.elements), device=r.device)[:, pair]
        strengths = torch.cat([(self.charges[first] * self.charges[second])[None], self.amplitudes[pair].T])
        return (strengths * values).sum(dim=0), (strengths * slopes).sum(dim=0)

    def energies(self, batch: AtomicBatch, vectors: Tensor) -> Tensor:
        kinds = self.index_of[batch.numbers]
        i, j = kinds[batch.edge_index]
        energy, _ = self.pair_function(torch.linalg.vector_norm(vectors, dim=1), self.pair_of[i, j])
        total = self.base_energies.new_zeros(len(batch)).index_add(0, batch.structure, self.base_energies[kinds])
        total = total.index_add(0, batch.edge_structure, 0.5 * energy)
        return total if self.core is None else total + self.core.energies(batch, vectors)
