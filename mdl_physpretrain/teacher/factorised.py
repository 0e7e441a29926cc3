"""Search variables of an EAM by element, mixed for pairs: for more elements than their pairs can be seen.

The pairwise fit has 23 numbers for every pair of elements, 85 elements have
3,655 pairs, and what the data never show together keeps what the start gave
it. Here an element ``a`` has the variables ``x_a`` that a pair ``a-a`` has in
:class:`~mdl_physpretrain.teacher.parametrisation.BoundedEAM`, and a pair gets

    x_ab = (x_a + x_b) / 2 + sum_k w_k (u_a,k - u_b,k)^2

in the space of the search, where the mean is near a geometric one (depths, amplitudes) and the second term is how
unlike elements bind: four features ``u`` of an element and their weights ``w`` for the depth, steepness, place of the
well and size of the density. Like Pauling's bond energies it vanishes between equals. Distances are sums of radii,
fitted to the data, where the data show a pair rarely, and the data's own where they show it often. Exponents of
long pairs are smaller in proportion to their length, as those of metals are (Girifalco and Weizer, Phys. Rev. 114, 687
(1959): alpha r_0 is 3 to 4.5 from Cs to W): else two large atoms that come closer than the data would explode. The ZBL
core is that of every pair. The result is expanded to the pairs of an :class:`~mdl_physpretrain.potentials.EAM`.

Starts: depths in proportion to the cohesive energies of the elements (C. Kittel, Introduction to Solid State Physics,
8th ed., 2005, as tabulated in ASE), radii from covalent ones (Cordero et al., Dalton Trans. 2832 (2008), in ASE),
features from Pauling electronegativities, radii and cohesive energies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from ase.data import atomic_numbers, covalent_radii
from ase.data.cohesive_energies import cohesive_energy_kittel2005
from torch import Tensor, nn

from mdl_physpretrain.graphs.bonds import PairDistances
from mdl_physpretrain.potentials.eam.model import EAM
from mdl_physpretrain.teacher.electronegativity import PAULING
from mdl_physpretrain.teacher.parametrisation import PAIR_VARIABLES, BoundedEAM, Bounds

__all__ = ["CorrectedEAM", "FactorisedEAM", "additive_radii"]

MIXED = ("depth", "steepness", "well", "amplitude")  # what unlike elements change
FEATURES = 4
FULL_TRUST = 50  # atoms whose nearest neighbours outweigh the sum of radii
PRIOR = 5.0  # atoms that a covalent radius counts as
MOST = 100  # atoms that a pair counts as, at most
LONG_WELL, LONG_DENSITY = 2.6, 1.6  # Å: pairs that are longer have smaller exponents


class FactorisedEAM(BoundedEAM):
    """Unbounded search variables of elements, and the EAM parameters of pairs that they stand for.

    Parameters are those of :class:`~mdl_physpretrain.teacher.parametrisation.BoundedEAM`, which it equals, the start
    and random numbers included, for one element.
    """

    softness: Tensor  # of wells and densities, shape (n_pairs, 2)

    def __init__(
        self,
        eam: EAM,
        distances: dict[tuple[str, str], PairDistances],
        bounds: Bounds,
        energies: Tensor,
        generator: torch.Generator,
        tightened: Mapping[tuple[str, str], int] | None = None,
        softened: Mapping[tuple[str, str], int] | None = None,
    ) -> None:
        super().__init__(eam, distances, bounds, energies, generator, tightened, softened)
        index = {e: k for k, e in enumerate(eam.elements)}
        self.first, self.second = (torch.tensor([index[pair[k]] for pair in eam.pairs]) for k in (0, 1))
        logs = _filled(_log_cohesive(eam.elements))
        slope = (math.log(bounds.depth[1]) - math.log(bounds.depth[0])) / 4  # of a logistic function, at its middle
        with torch.no_grad():
            self.depth += torch.tensor(logs - logs.mean(), dtype=self.depth.dtype) / slope
            self.depth.clamp_(-3.0, 3.0)
        pauling = _filled(np.array([PAULING.get(e, math.nan) for e in eam.elements]))
        radii = covalent_radii[[atomic_numbers[e] for e in eam.elements]]
        features = np.stack([_standard(x) for x in (pauling, radii, logs)], axis=1)
        start = torch.zeros(len(eam.elements), FEATURES, dtype=self.depth.dtype)
        start[:, : features.shape[1]] = torch.tensor(features)
        start[:, features.shape[1] :] = torch.linspace(-0.5, 0.5, len(start)).unsqueeze(1) if len(start) > 1 else 0.0
        self.features = nn.Parameter(start)
        self.weights = nn.Parameter(torch.zeros(FEATURES, len(MIXED), dtype=self.depth.dtype))

    def n_rows(self, eam: EAM) -> int:
        """For how many things there are variables of a pair: here elements."""
        return len(eam.elements)

    def times_tightened(self, eam: EAM) -> list[int]:
        """How often the bounds that a row starts in are tightened: as those of its loosest pair."""
        return [min(self.tightened.get(pair, 0) for pair in eam.pairs if e in pair) for e in eam.elements]

    def typical_distances(self, eam: EAM, distances: dict[tuple[str, str], PairDistances]) -> list[float]:
        """Those of the data for pairs that are often there, sums of radii for the others."""
        measured = super().typical_distances(eam, distances)
        counts = [getattr(distances.get(p) or distances.get(p[::-1]), "count", 0) for p in eam.pairs]
        typical, softness = list(measured), [(1.0, 1.0)] * len(measured)
        if len(eam.elements) > 1:
            radii = additive_radii(eam.elements, distances)
            for k, (a, b) in enumerate(eam.pairs):
                weight = counts[k] / (counts[k] + FULL_TRUST)
                typical[k] = weight * measured[k] + (1 - weight) * (radii[a] + radii[b])
                softness[k] = (min(1.0, LONG_WELL / typical[k]), min(1.0, LONG_DENSITY / typical[k]))
        for k in self.corrected_pairs(eam, counts):
            typical[k], softness[k] = measured[k], (1.0, 1.0)
        self.register_buffer("softness", torch.tensor(softness))
        return typical

    def corrected_pairs(self, eam: EAM, counts: list[int]) -> list[int]:
        """Indices of pairs that are as free as in the pairwise fit: here none."""
        return []

    def decays(self, x: Tensor) -> Tensor:
        return super().decays(x) * self.softness[:, 1:]

    def slopes(self, x: Tensor) -> Tensor:
        return super().slopes(x) * self.softness[:, 0]

    def pair_variables(self) -> dict[str, Tensor]:
        unlike = (self.features[self.first] - self.features[self.second]).square() @ self.weights
        shift = dict(zip(MIXED, unlike.unbind(1), strict=True))
        values = {}
        for name in PAIR_VARIABLES:
            of_element = getattr(self, name)
            value = 0.5 * (of_element[self.first] + of_element[self.second])
            if name in shift:
                value = value + (shift[name] if value.dim() == 1 else shift[name].unsqueeze(1))
            values[name] = value
        return values


class CorrectedEAM(FactorisedEAM):
    """As :class:`FactorisedEAM`, with a free correction of every variable of pairs that the data show often.

    Where they show all pairs often, every pairwise EAM can be reached.
    """

    shown: Tensor

    def __init__(
        self,
        eam: EAM,
        distances: dict[tuple[str, str], PairDistances],
        bounds: Bounds,
        energies: Tensor,
        generator: torch.Generator,
        tightened: Mapping[tuple[str, str], int] | None = None,
        softened: Mapping[tuple[str, str], int] | None = None,
    ) -> None:
        super().__init__(eam, distances, bounds, energies, generator, tightened, softened)
        shapes = {name: getattr(self, name).shape[1:] for name in PAIR_VARIABLES}
        zeros = {name: torch.zeros(len(self.shown), *rest, dtype=energies.dtype) for name, rest in shapes.items()}
        self.corrections = nn.ParameterDict(zeros)

    def corrected_pairs(self, eam: EAM, counts: list[int]) -> list[int]:
        pairs = [k for k, count in enumerate(counts) if count >= FULL_TRUST]
        unlike = [k for k in pairs if eam.pairs[k][0] != eam.pairs[k][1]]  # equals have their element's variables
        self.register_buffer("shown", torch.tensor(unlike, dtype=torch.int64))
        return pairs

    def pair_variables(self) -> dict[str, Tensor]:
        mixed = super().pair_variables()
        return {name: value.index_add(0, self.shown, self.corrections[name]) for name, value in mixed.items()}


def additive_radii(elements: list[str], distances: dict[tuple[str, str], PairDistances]) -> dict[str, float]:
    """Radii in Å whose sums are nearest to the bond lengths of the data; covalent ones where the data have no bonds."""
    index = {e: k for k, e in enumerate(elements)}
    covalent = np.array([covalent_radii[atomic_numbers[e]] for e in elements])
    bonds = [(index[a], index[b], d) for (a, b), d in distances.items() if d.bonded and a in index and b in index]
    rows, right = [np.diag(np.full(len(elements), PRIOR**0.5))], [PRIOR**0.5 * covalent]
    for a, b, measured in bonds:
        row = np.zeros(len(elements))
        row[a] += 1
        row[b] += 1
        weight = min(measured.count, MOST) ** 0.5
        rows.append(weight * row[None])
        right.append(np.array([weight * measured.typical]))
    radii = np.linalg.lstsq(np.concatenate(rows), np.concatenate(right), rcond=None)[0]
    return dict(zip(elements, np.clip(radii, 0.7 * covalent, 1.5 * covalent).tolist(), strict=True))


def _log_cohesive(elements: list[str]) -> np.ndarray:
    """Logarithms of cohesive energies (eV/atom), NaN where there is none."""
    table = dict(enumerate(cohesive_energy_kittel2005))
    return np.log(np.array([table.get(atomic_numbers[e]) or math.nan for e in elements], dtype=np.float64))


def _filled(values: np.ndarray) -> np.ndarray:
    """NaN replaced by the mean of the others."""
    finite = np.isfinite(values)
    return np.where(finite, values, values[finite].mean() if finite.any() else 0.0)


def _standard(values: np.ndarray) -> np.ndarray:
    """Mean zero, and a standard deviation of one half."""
    spread = values.std()
    return 0.5 * (values - values.mean()) / spread if spread > 0 else np.zeros_like(values)
