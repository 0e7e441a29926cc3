"""Examination of a teacher, without which it may not label.

For every pair of elements that meet in the data the *in-situ* pair energy is
looked at: the energy of one pair as a function of its distance while both
atoms keep what all their other neighbours give them in the data. For an EAM,
that is the density::

    U(r) = V(r) + core(r) + sum_{a in pair} [F_a(rho_a - rho(r0) + rho(r)) - F_a(rho_a - rho(r0))]

with ``r0`` the pair's typical distance. Four questions are asked: is it
repulsive all the way from contact to 0.3 Å, is the wall high where the
overlap criterion sits, is it finite and smooth, and is its well where the data
has its bonds? Then real close pairs are pulled together and must be pushed
back. Pairs that the data never show together are *extrapolated*: they must
repel and stay bounded. At last forces on structures that the teacher has not
seen are compared with the data's (:mod:`mdl_physpretrain.teacher.held_out`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii
from rich.table import Table

from mdl_physpretrain.graphs.batch import build_batch
from mdl_physpretrain.graphs.bonds import PairDistances, nearest_distances
from mdl_physpretrain.potentials.base import EnergyModel, predict
from mdl_physpretrain.potentials.eam.model import EAM
from mdl_physpretrain.structures.elements import FEW_ELEMENTS, elements_of, spread_sample
from mdl_physpretrain.teacher.engines import LABEL_BOUND
from mdl_physpretrain.teacher.held_out import force_verdict, verdict_sentence
from mdl_physpretrain.teacher.pulled_pairs import PULL_TO, share_pushed_back

__all__ = [
    "Examination", "PairCurve", "PairExamination", "curve_table", "examine", "examine_curves", "extrapolated_pairs",
    "teacher_curves",
]  # fmt: skip

#: Energy of a pair of elements with its parts and ``slope`` (eV, eV/Å), shape (R,) each: of two
#: symbols, their typical distance in the data (Å) and distances of shape (R,).
PairCurve: TypeAlias = Callable[[str, str, float, torch.Tensor], dict[str, torch.Tensor]]

INNERMOST = 0.3  # Å, where curves begin
REPULSIVE_BELOW = 0.75  # of the typical distance: the curve must fall from INNERMOST to here
WALL_AT = 0.5  # of the typical distance: the overlap criterion
WALL_ENERGY = 3.0  # eV above the typical distance that the wall must have there
WELL_TOLERANCE = 0.25  # relative deviation of the well from the typical distance
MOST_PULLED = 60  # structures whose closest pair is pulled together
PUSHED_BACK = 0.95  # share of pulled pairs that must feel repulsion
SHORTEST = 0.6  # sums of covalent radii: pulls of Algorithm 1 stop there
MOST_CURVES = 36  # pairs, all of 8 elements: with more only those that the data show most
MOST_ROWS = 2 * MOST_CURVES  # of a table: a calculator has two of each pair


@dataclass(frozen=True)
class PairExamination:
    """Results for one pair of elements; distances in Å, energies in eV.

    ``well`` is ``None`` for pairs without bonds in the data; ``wall_energy`` is that at half the typical distance
    above that at the typical distance; ``data_distance`` of ``extrapolated`` pairs, which the data never show together,
    is the sum of the covalent radii. ``bounded``: no force above 1,000 eV/Å from 0.6 of that sum on, where it is asked.
    """

    pair: str
    passed: bool
    core: bool
    smooth: bool
    well: bool | None
    well_position: float | None
    data_distance: float
    wall_energy: float
    n_bonds: int
    notes: str
    extrapolated: bool = False
    bounded: bool = True


@dataclass(frozen=True)
class Examination:
    """Whether a teacher may label, and why not.

    ``forces`` is :func:`mdl_physpretrain.teacher.held_out.force_verdict`; of the ``extrapolated`` pairs only those that
    fail are among ``pairs``. ``max_force``: labels with a larger force (eV/Å) than this beyond the nuclear repulsion
    are refused.
    """

    passed: bool
    failures: list[str]
    pairs: list[PairExamination] = field(default_factory=list)
    pushed_back: float = 1.0
    extrapolated: list[str] = field(default_factory=list)
    forces: dict[str, Any] | None = None
    max_force: float | None = None

    def with_forces(self, verdict: dict[str, Any] | None) -> Examination:
        """The examination with another verdict on the teacher's forces."""
        before = None if self.forces is None else verdict_sentence(self.forces)
        failures = [failure for failure in self.failures if failure != before]
        if verdict is not None and verdict["teaches"] == "nothing":
            failures.append(verdict_sentence(verdict))
        return replace(self, passed=not failures, failures=failures, forces=verdict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as stored in checkpoints and ``examination.json``."""
        return asdict(self)

    def table(self) -> Table:
        """The examination of each pair as a rich table; of many those that failed and those that most atoms have."""
        words = [] if self.forces is None else [verdict_sentence(self.forces)]
        first = sorted(self.pairs, key=lambda v: (v.passed, -v.n_bonds))[:MOST_ROWS]
        shown = [v for v in self.pairs if not v.passed or v in first]
        if len(shown) < len(self.pairs):
            words.append(f"{len(self.pairs) - len(shown)} more pairs passed")
        if self.extrapolated:
            words.append(
                f"{len(self.extrapolated)} pairs of elements are extrapolated, the data never show them together"
            )
        table = Table(title="Teacher: " + ("passed" if self.passed else "FAILED"), caption="; ".join(words) or None)
        for column in ("pair", "core", "wall (eV)", "smooth", "well (Å)", "data (Å)", "verdict", "notes"):
            table.add_column(column)
        for v in shown:
            well = "-" if v.well_position is None else f"{v.well_position:.2f}"
            table.add_row(
                v.pair,
                "yes" if v.core else "NO",
                f"{v.wall_energy:.1f}",
                "yes" if v.smooth else "NO",
                well if v.well is not False else f"{well} NO",
                f"{v.data_distance:.2f}",
                "passed" if v.passed else "FAILED",
                v.notes,
            )
        return table


def teacher_curves(model: EAM, structures: Sequence[Atoms], *, points: int = 400) -> pd.DataFrame:
    """In-situ pair energies of an EAM and their parts, for every pair in the data.

    Parameters
    ----------
    model
        The EAM.
    structures
        Give densities and typical distances.
    points
        Distances per pair, from 0.3 Å to the cutoff.

    Returns
    -------
    pandas.DataFrame
        Columns ``pair, r, total, pair_term, embedding, core`` (Å, eV; zero at
        the cutoff) and ``slope`` (eV/Å).
    """
    return curve_table(model, structures, _in_situ_curve(model, structures), points)


def curve_table(model: EnergyModel, structures: Sequence[Atoms], curve: PairCurve, points: int = 400) -> pd.DataFrame:
    """Energies of pairs of elements, with parts, at ``points`` distances from 0.3 Å to the cutoff.

    Of every pair in the data, or of the 36 that most atoms of the data have.
    """
    r = torch.linspace(INNERMOST, model.cutoff, points, dtype=torch.float64)
    frames = []
    distances = nearest_distances(structures, model.cutoff)
    shown = set(sorted(distances, key=lambda pair: -distances[pair].count)[:MOST_CURVES])
    for a, b in (pair for pair in distances if pair in shown):
        measured = distances[a, b]
        parts = curve(a, b, measured.typical, r)
        frames.append(pd.DataFrame({"pair": f"{a}-{b}", "r": r.numpy(), **{k: v.numpy() for k, v in parts.items()}}))
    return pd.concat(frames, ignore_index=True)


def _in_situ_curve(model: EAM, structures: Sequence[Atoms]) -> PairCurve:
    densities = _mean_densities(model, structures)
    return lambda a, b, typical, r: _in_situ(model, a, b, typical, densities, r)


def _mean_densities(model: EAM, structures: Sequence[Atoms], limit: int = 100) -> dict[str, float]:
    """Mean density at the atoms of each element."""
    collected: dict[int, list[np.ndarray]] = {}
    with torch.no_grad():
        for atoms in spread_sample(structures, len(structures) // limit):
            batch = build_batch(atoms, model.cutoff, model.dtype)
            rho = model.densities(batch, batch.edge_vectors()).double().numpy()
            for z in set(atoms.numbers.tolist()):
                collected.setdefault(z, []).append(rho[atoms.numbers == z])
    return {
        e: float(np.mean(np.concatenate(collected[atomic_numbers[e]])))
        for e in model.elements
        if atomic_numbers[e] in collected
    }


def _in_situ(
    model: EAM, a: str, b: str, typical: float, densities: dict[str, float], r: torch.Tensor
) -> dict[str, torch.Tensor]:
    model = model.double() if model.dtype != torch.float64 else model
    index = {e: k for k, e in enumerate(model.elements)}
    pair = model.pair_of[index[a], index[b]].expand(len(r))
    with torch.no_grad():
        pair_term, slope = model.pair_function(r, pair)
        density, density_slope = model.density_function(r, pair)
        at_typical, _ = model.density_function(torch.tensor([typical], dtype=r.dtype), pair[:1])
        embedding = torch.zeros_like(r)
        for symbol in (a, b):
            element = torch.full((len(r),), index[symbol])
            surroundings = densities.get(symbol, float(at_typical)) - at_typical
            with_pair, with_slope = model.embedding(surroundings + density, element)
            without, _ = model.embedding(surroundings.expand(len(r)), element)
            embedding = embedding + with_pair - without
            slope = slope + with_slope * density_slope
        core = torch.zeros_like(r)
        if model.core is not None:
            za, zb = (torch.full((len(r),), atomic_numbers[s]) for s in (a, b))
            core, core_slope = model.core.pair_terms(za, zb, r)
            slope = slope + core_slope
    return {
        "total": pair_term + embedding + core,
        "pair_term": pair_term,
        "embedding": embedding,
        "core": core,
        "slope": slope,
    }


def examine(model: EAM, structures: Sequence[Atoms], *, held_out: Sequence[Atoms] | None = None) -> Examination:
    """Ask an EAM the four questions, for every pair of elements in the data, and how wrong its forces are.

    Parameters
    ----------
    model
        The teacher.
    structures
        The data it was fitted to.
    held_out
        Labelled structures that it was not fitted to; without them ``structures`` are asked for forces.

    Returns
    -------
    Examination
    """
    bound = None if model.core is None else LABEL_BOUND
    return examine_curves(model, structures, _in_situ_curve(model, structures), held_out=held_out, max_force=bound)


def examine_curves(
    model: EnergyModel,
    structures: Sequence[Atoms],
    curve: PairCurve,
    *,
    wells: bool = True,
    held_out: Sequence[Atoms] | None = None,
    max_force: float | None = None,
) -> Examination:
    """Answer the four questions about any potential, for every pair of elements in the data it was fitted to.

    ``wells``: a bonded pair must have its well where the data have the bond; not so where bonds are made by the rest
    of the crystal, as by charges. Where the data have more than 8 elements every pair is asked like an extrapolated
    one, and closer than the sum of the covalent radii if its atoms stand farther apart: most pairs are then no bonds
    but what bonds to others leave. It must repel where it is closer than 0.75 of that and closer than in the data.
    """
    distances = nearest_distances(structures, model.cutoff)
    known = sorted(model.known_elements() or {s for pair in distances for s in pair}, key=atomic_numbers.__getitem__)
    many = len(elements_of(structures)) > FEW_ELEMENTS
    examined = []
    for pair, measured in distances.items():
        result = _examine_pair(model.cutoff, curve, pair, measured, wells and not many, safety_only=many)
        examined.append(result)
    beyond = extrapolated_pairs(known, distances)
    for pair, expected in beyond.items():
        result = _examine_pair(model.cutoff, curve, pair, expected, False, safety_only=True)
        examined += [] if result.passed else [replace(result, extrapolated=True)]
    pushed = _pushed_back(model, structures)
    failures = [f"{v.pair}{' (extrapolated)' * v.extrapolated}: {v.notes}" for v in examined if not v.passed]
    if pushed < PUSHED_BACK:
        failures.append(f"only {pushed:.0%} of real pairs pulled to {PULL_TO:.0%} of their distance are pushed back")
    names = ["-".join(pair) for pair in beyond]
    examination = Examination(not failures, failures, examined, pushed, names, max_force=max_force)
    verdict = force_verdict(model, held_out, unseen=True) if held_out else None
    return examination.with_forces(verdict or force_verdict(model, structures, unseen=False))


def extrapolated_pairs(
    elements: Sequence[str], distances: Mapping[tuple[str, str], PairDistances]
) -> dict[tuple[str, str], PairDistances]:
    """Pairs of elements (by atomic number) that the data never show together, at the sum of their covalent radii."""
    pairs = {}
    for pair in itertools.combinations_with_replacement(elements, 2):
        if pair not in distances and pair[::-1] not in distances:
            contact = float(covalent_radii[[atomic_numbers[s] for s in pair]].sum())
            pairs[pair] = PairDistances(contact, contact, contact, 0)
    return pairs


def _examine_pair(
    cutoff: float,
    curve: PairCurve,
    pair: tuple[str, str],
    measured: PairDistances,
    wells: bool,
    *,
    safety_only: bool,
) -> PairExamination:
    judged_at = min(measured.typical, measured.contact) if safety_only else measured.typical
    r = torch.linspace(INNERMOST, cutoff, 1500, dtype=torch.float64)
    parts = curve(*pair, measured.typical, r)
    energy, slope, grid = parts["total"].numpy(), parts["slope"].numpy(), r.numpy()
    notes = []
    finite = bool(np.isfinite(energy).all() and np.isfinite(slope).all())
    # where many elements are compressed, pairs stand closer than that: there the data judge
    repels_below = min(REPULSIVE_BELOW * judged_at, measured.closest) if safety_only else REPULSIVE_BELOW * judged_at
    inner = grid < repels_below
    attractive = grid[inner][slope[inner] >= 0] if finite else grid
    wall = float(np.interp(WALL_AT * judged_at, grid, energy) - np.interp(judged_at, grid, energy))
    if len(attractive):
        notes.append(f"attractive between {attractive.min():.2f} and {attractive.max():.2f} Å")
    if not wall > WALL_ENERGY:
        notes.append(f"wall of {wall:.2f} eV at half the typical distance (needs {WALL_ENERGY:g})")
    # between neighbouring grid points energy and slope must belong together: a step or a kink breaks this
    trapezoid = 0.5 * (slope[1:] + slope[:-1]) * np.diff(grid)
    smooth = finite and bool(np.all(np.abs(np.diff(energy) - trapezoid) < 0.02 * np.abs(trapezoid) + 1e-3))
    if not smooth:
        notes.append("not finite" if not finite else "not smooth")
    steepest = float(np.abs(slope[grid >= SHORTEST * measured.contact]).max()) if finite else np.inf
    bounded = not safety_only or steepest < LABEL_BOUND
    if not bounded:
        notes.append(
            f"force of {steepest:.3g} eV/Å at {SHORTEST:g} of the sum of covalent radii (at most {LABEL_BOUND:g})"
        )
    core = not len(attractive) and wall > WALL_ENERGY
    well, position = None, None
    if wells and measured.bonded and finite:
        outside = grid >= 0.5 * measured.typical
        position = float(grid[outside][np.argmin(energy[outside])])
        well = abs(position / measured.typical - 1) < WELL_TOLERANCE
        if not well:
            notes.append(f"well at {position:.2f} Å, bonds at {measured.typical:.2f} Å")
    return PairExamination(
        pair="-".join(pair),
        passed=core and smooth and bounded and well is not False,
        core=core,
        smooth=smooth,
        well=well,
        well_position=position,
        data_distance=measured.typical,
        wall_energy=wall,
        n_bonds=measured.count,
        notes="; ".join(notes),
        bounded=bounded,
    )


def _pushed_back(model: EnergyModel, structures: Sequence[Atoms]) -> float:
    """Share of real close pairs that are repelled after being pulled together."""

    def forces(pulled: list[Atoms]) -> list[np.ndarray]:
        batches = (build_batch(atoms, model.cutoff, model.dtype) for atoms in pulled)
        return [predict(model, batch).forces.detach().double().numpy() for batch in batches]

    return share_pushed_back(structures, forces, MOST_PULLED)
