"""Bounded parameters that keep a fitted EAM physical.

The default fit does not search over ``D, alpha, ...`` themselves but over
unbounded numbers that are mapped into intervals in which the potential cannot
lose its core: a well (``D > 0``) near the distance the data has, a wall of at
least some steepness, densities that fall with distance (``A, beta > 0``) and a
convex embedding (``B >= 0``), which makes crowding repulsive.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mdl_physpretrain.graphs.bonds import PairDistances
from mdl_physpretrain.potentials.eam.model import EAM
from mdl_physpretrain.structures.elements import FEW_ELEMENTS

__all__ = ["PAIR_VARIABLES", "BoundedEAM", "Bounds"]


PAIR_VARIABLES = ("depth", "steepness", "well", "decay", "amplitude")
FLATTER = 0.1  # wells of pairs that are no bonds, in units of the others' lower limit
GENTLER = 6 / 7  # factor of the exponents of a pair that explodes where atoms come close


@dataclass(frozen=True)
class Bounds:
    """Intervals of the bounded parameters.

    The error of small forces near equilibrium is lowest for a potential that
    is nearly flat, and a flat teacher teaches nothing: hence the lower limits
    of depth and steepness. What they cost in error, anchored labels
    (:func:`mdl_physpretrain.teacher.label`) take back. In data of more than 8
    elements most pairs are neighbours because both bind to others: wells of
    pairs that are no bonds, or that the data never show, may be a tenth as deep.

    Attributes
    ----------
    depth
        Of the Morse well, eV.
    steepness
        Morse ``alpha``, 1/Å.
    well
        Morse ``r_m`` in units of the data's typical distance of the pair.
    decay
        Density exponents ``beta``, 1/Å.
    balance
        Density of lowest embedding energy ``rho_0``; about 1/6 comes from a
        neighbour at the typical distance. Far above the densities of the
        data the embedding would pull atoms together.
    """

    depth: tuple[float, float] = (0.3, 4.0)
    steepness: tuple[float, float] = (1.2, 2.2)
    well: tuple[float, float] = (0.95, 1.2)
    decay: tuple[float, float] = (0.8, 5.0)
    balance: tuple[float, float] = (0.1, 3.0)

    def tightened(self, times: int = 1) -> Bounds:
        """Bounds that leave less room for losing the core: deeper wells, less embedding."""
        if times == 0:
            return self
        low, high = self.depth
        lowest, highest = self.balance
        depth = (max(low, min(2 * low, 0.5 * high)), high)
        balance = (lowest, min(highest, max(0.5 * highest, 2 * lowest)))
        return replace(self, depth=depth, balance=balance).tightened(times - 1)

    def of_no_bond(self, times: int = 0) -> Bounds:
        """Bounds of a pair that is no bond: wells may be nearly flat, until it was tightened once."""
        if times > 0:
            return self.tightened(times - 1)
        low, high = self.depth
        return replace(self, depth=(FLATTER * low, high))


def _no_bonds(
    pairs: Sequence[tuple[str, str]], distances: Mapping[tuple[str, str], PairDistances]
) -> set[tuple[str, str]]:
    """Pairs without bonds in data of many elements; none in data of few, whose every pair must have a well."""
    if len({e for pair in distances for e in pair}) <= FEW_ELEMENTS:
        return set()
    found = {pair: distances.get(pair) or distances.get(pair[::-1]) for pair in pairs}
    return {pair for pair, measured in found.items() if measured is None or not measured.bonded}


def _inside(low: Tensor, high: Tensor, x: Tensor) -> Tensor:
    return low + (high - low) * torch.sigmoid(x)


def _logit(low: float, high: float, value: float) -> float:
    share = min(max((value - low) / (high - low), 1e-3), 1 - 1e-3)
    return math.log(share / (1 - share))


class BoundedEAM(nn.Module):
    """Unbounded search variables and the EAM parameters they stand for.

    Pairs that are missing in ``distances`` have the sum of covalent radii as typical distance; ``energies`` are the
    initial atomic ones in eV; the generator randomises the start a little, so that seeds explore. ``tightened``: how
    often the bounds of a pair, and of the embedding of its elements, are tightened; ``softened``: how often its
    exponents are made smaller by a seventh.
    """

    typical: Tensor
    scale: Tensor
    lowest_depth: Tensor  # log eV, by pair
    highest_balance: Tensor  # by element
    gentleness: Tensor  # factor of the exponents, by pair

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
        super().__init__()
        n_rows, n_basis, n = self.n_rows(eam), eam.hparams["n_basis"], len(eam.elements)
        dtype = energies.dtype
        self.bounds, self.tightened = bounds, dict(tightened or {})
        flat = _no_bonds(eam.pairs, distances)
        of_pairs = [
            (bounds.of_no_bond if pair in flat else bounds.tightened)(self.tightened.get(pair, 0)) for pair in eam.pairs
        ]
        times = {e: max((n for pair, n in self.tightened.items() if e in pair), default=0) for e in eam.elements}
        of_elements = [bounds.tightened(times[e]) for e in eam.elements]
        gentleness = [GENTLER ** (softened or {}).get(pair, 0) for pair in eam.pairs]
        self.register_buffer("gentleness", torch.tensor(gentleness, dtype=dtype))
        self.register_buffer("lowest_depth", torch.tensor([math.log(b.depth[0]) for b in of_pairs], dtype=dtype))
        self.register_buffer("highest_balance", torch.tensor([b.balance[1] for b in of_elements], dtype=dtype))
        self.register_buffer("typical", torch.tensor(self.typical_distances(eam, distances), dtype=dtype))

        def noise(*shape: int) -> Tensor:
            return 0.2 * torch.randn(*shape, generator=generator, dtype=dtype)

        high = math.log(bounds.depth[1])
        lows = (math.log(bounds.tightened(often).depth[0]) for often in self.times_tightened(eam))
        starts = torch.tensor([_logit(low, high, math.log(0.6)) for low in lows], dtype=dtype)
        self.depth = nn.Parameter(starts + noise(n_rows))
        self.steepness = nn.Parameter(_logit(*bounds.steepness, 1.6) + noise(n_rows))
        self.well = nn.Parameter(_logit(*bounds.well, 1.05) + noise(n_rows))
        spread = torch.linspace(-2.0, 2.0, n_basis, dtype=dtype) if n_basis > 1 else torch.zeros(1, dtype=dtype)
        self.decay = nn.Parameter(spread + noise(n_rows, n_basis))
        # amplitudes such that every exponential gives about 1 / n_basis at the typical distance
        beta = self.decays(spread)
        self.register_buffer("scale", torch.exp(beta * self.typical.unsqueeze(1)) / (6.0 * n_basis))
        self.amplitude = nn.Parameter(noise(n_rows, n_basis))
        self.curvature = nn.Parameter(torch.full((n,), -2.0, dtype=dtype) + noise(n))
        starts = torch.tensor([_logit(*b.balance, 1.0) for b in of_elements], dtype=dtype)
        self.balance = nn.Parameter(starts + noise(n))
        self.base_atomic_energy = nn.Parameter(energies.clone())

    def n_rows(self, eam: EAM) -> int:
        """For how many things there are variables of a pair: here pairs."""
        return len(eam.pairs)

    def times_tightened(self, eam: EAM) -> list[int]:
        """How often the bounds that a row starts in are tightened."""
        return [self.tightened.get(pair, 0) for pair in eam.pairs]

    def typical_distances(self, eam: EAM, distances: dict[tuple[str, str], PairDistances]) -> list[float]:
        """Distance of every pair that its well and density are measured in, Å."""
        contacts = eam.rm.tolist()
        measured = [distances.get(pair) or distances.get(pair[::-1]) for pair in eam.pairs]
        return [contact if m is None else m.typical for m, contact in zip(measured, contacts, strict=True)]

    def pair_variables(self) -> dict[str, Tensor]:
        """Search variables of every pair, shape (n_pairs,) or (n_pairs, n_basis)."""
        return {name: getattr(self, name) for name in PAIR_VARIABLES}

    def decays(self, x: Tensor) -> Tensor:
        """Exponents of the density of every pair, 1/Å, of search variables (n_basis,) or (n_pairs, n_basis)."""
        return self._bounded("decay", x) * self.gentleness.unsqueeze(1)

    def slopes(self, x: Tensor) -> Tensor:
        """Steepness of the wells, 1/Å, of search variables (n_pairs,)."""
        return self._bounded("steepness", x) * self.gentleness

    def _bounded(self, name: str, x: Tensor) -> Tensor:
        smallest, largest = torch.tensor(getattr(self.bounds, name), dtype=self.typical.dtype)
        return _inside(smallest, largest, x)

    def parameters_of_eam(self) -> dict[str, Tensor]:
        """The EAM parameters as differentiable functions of the search variables."""
        deepest = torch.tensor(math.log(self.bounds.depth[1]), dtype=self.typical.dtype)
        smallest = torch.tensor(self.bounds.balance[0], dtype=self.typical.dtype)
        of_pair = self.pair_variables()
        return {
            "D": torch.exp(_inside(self.lowest_depth, deepest, of_pair["depth"])),
            "alpha": self.slopes(of_pair["steepness"]),
            "rm": self.typical * self._bounded("well", of_pair["well"]),
            "A": self.scale * torch.exp(of_pair["amplitude"]),
            "beta": self.decays(of_pair["decay"]),
            "B": nn.functional.softplus(self.curvature),
            "rho0": _inside(smallest, self.highest_balance, self.balance),
            "base_atomic_energy": self.base_atomic_energy,
        }
