"""Examination of a teacher, without which it may not label.

For every pair of elements that meet in the data the *in-situ* pair energy is
looked at: the energy of one pair as a function of its distance while both
atoms keep what all their other neighbours give them in the data. For an EAM,
that is the density::

    U(r) = V(r) + core(r) + sum_{a in pair} [F_a(rho_a - rho(r0) + rho(r)) - F_a(rho_a - rho(r0))]

with ``r0`` the pair's typical distance. Four questions are asked: is it
repulsive all the way from contact to 0.3 Å, is the wall high where the
overlap criterion sits, is it finite and smooth, and is its well where the data
has its bonds? At last real close pairs are pulled together and must be
pushed back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from ase import Atoms
from ase.data import atomic_numbers
from rich.table import Table

from mdl_physpretrain.graphs.batch import build_batch
from mdl_physpretrain.graphs.bonds import PairDistances, nearest_distances
from mdl_physpretrain.graphs.neighbour_lists import neighbour_list
from mdl_physpretrain.potentials.base import EnergyModel, predict
from mdl_physpretrain.potentials.eam.model import EAM

__all__ = ["Examination", "PairCurve", "PairExamination", "curve_table", "examine", "examine_curves", "teacher_curves"]

#: Energy of a pair of elements with its parts and ``slope`` (eV, eV/Å), shape (R,) each: of two
#: symbols, their typical distance in the data (Å) and distances of shape (R,).
PairCurve: TypeAlias = Callable[[str, str, float, torch.Tensor], dict[str, torch.Tensor]]

INNERMOST = 0.3  # Å, where curves begin
REPULSIVE_BELOW = 0.75  # of the typical distance: the curve must fall from INNERMOST to here
WALL_AT = 0.5  # of the typical distance: the overlap criterion
WALL_ENERGY = 3.0  # eV above the typical distance that the wall must have there
WELL_TOLERANCE = 0.25  # relative deviation of the well from the typical distance
PULL_TO = 0.65  # real pairs are pulled to this share of their distance
PUSHED_BACK = 0.95  # share of pulled pairs that must feel repulsion


@dataclass(frozen=True)
class PairExamination:
    """Results for one pair of elements; distances in Å, energies in eV.

    ``well`` is ``None`` for pairs without bonds in the data; ``wall_energy`` is that at half the typical distance
    above that at the typical distance.
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


@dataclass(frozen=True)
class Examination:
    """Whether a teacher may label, and why not."""

    passed: bool
    failures: list[str]
    pairs: list[PairExamination] = field(default_factory=list)
    pushed_back: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as stored in checkpoints and ``examination.json``."""
        return asdict(self)

    def table(self) -> Table:
        """The examination of each pair as a rich table."""
        table = Table(title="Teacher: " + ("passed" if self.passed else "FAILED"))
        for column in ("pair", "core", "wall (eV)", "smooth", "well (Å)", "data (Å)", "verdict", "notes"):
            table.add_column(column)
        for v in self.pairs:
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
    """Energies of every pair of elements in the data, with parts, at ``points`` distances from 0.3 Å to the cutoff."""
    r = torch.linspace(INNERMOST, model.cutoff, points, dtype=torch.float64)
    frames = []
    for (a, b), measured in nearest_distances(structures, model.cutoff).items():
        parts = curve(a, b, measured.typical, r)
        frames.append(pd.DataFrame({"pair": f"{a}-{b}", "r": r.numpy(), **{k: v.numpy() for k, v in parts.items()}}))
    return pd.concat(frames, ignore_index=True)


def _in_situ_curve(model: EAM, structures: Sequence[Atoms]) -> PairCurve:
    densities = _mean_densities(model, structures)
    return lambda a, b, typical, r: _in_situ(model, a, b, typical, densities, r)


def _mean_densities(model: EAM, structures: Sequence[Atoms], limit: int = 100) -> dict[str, float]:
    """Mean density at the atoms of each element."""
    collected: dict[int, list[np.ndarray]] = {}
    step = max(1, len(structures) // limit)
    with torch.no_grad():
        for atoms in structures[::step]:
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


def examine(model: EAM, structures: Sequence[Atoms]) -> Examination:
    """Ask an EAM the four questions, for every pair of elements in the data.

    Parameters
    ----------
    model
        The teacher.
    structures
        The data it was fitted to.

    Returns
    -------
    Examination
    """
    return examine_curves(model, structures, _in_situ_curve(model, structures))


def examine_curves(
    model: EnergyModel, structures: Sequence[Atoms], curve: PairCurve, *, wells: bool = True
) -> Examination:
    """Answer the four questions about any potential, for every pair of elements in the data it was fitted to.

    ``wells``: a bonded pair must have its well where the data have the bond; not so where bonds are made by the rest
    of the crystal, as by charges.
    """
    distances = nearest_distances(structures, model.cutoff)
    examined = [_examine_pair(model.cutoff, curve, pair, measured, wells) for pair, measured in distances.items()]
    pushed = _pushed_back(model, structures)
    failures = [f"{v.pair}: {v.notes}" for v in examined if not v.passed]
    if pushed < PUSHED_BACK:
        failures.append(f"only {pushed:.0%} of real pairs pulled to {PULL_TO:.0%} of their distance are pushed back")
    return Examination(not failures, failures, examined, pushed)


def _examine_pair(
    cutoff: float, curve: PairCurve, pair: tuple[str, str], measured: PairDistances, wells: bool
) -> PairExamination:
    r = torch.linspace(INNERMOST, cutoff, 1500, dtype=torch.float64)
    parts = curve(*pair, measured.typical, r)
    energy, slope, grid = parts["total"].numpy(), parts["slope"].numpy(), r.numpy()
    notes = []
    finite = bool(np.isfinite(energy).all() and np.isfinite(slope).all())
    inner = grid < REPULSIVE_BELOW * measured.typical
    attractive = grid[inner][slope[inner] >= 0] if finite else grid
    wall = float(np.interp(WALL_AT * measured.typical, grid, energy) - np.interp(measured.typical, grid, energy))
    if len(attractive):
        notes.append(f"attractive between {attractive.min():.2f} and {attractive.max():.2f} Å")
    if not wall > WALL_ENERGY:
        notes.append(f"wall of {wall:.2f} eV at half the typical distance (needs {WALL_ENERGY:g})")
    # between neighbouring grid points energy and slope must belong together: a step or a kink breaks this
    trapezoid = 0.5 * (slope[1:] + slope[:-1]) * np.diff(grid)
    smooth = finite and bool(np.all(np.abs(np.diff(energy) - trapezoid) < 0.02 * np.abs(trapezoid) + 1e-3))
    if not smooth:
        notes.append("not finite" if not finite else "not smooth")
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
        passed=core and smooth and well is not False,
        core=core,
        smooth=smooth,
        well=well,
        well_position=position,
        data_distance=measured.typical,
        wall_energy=wall,
        n_bonds=measured.count,
        notes="; ".join(notes),
    )


def _pushed_back(model: EnergyModel, structures: Sequence[Atoms], limit: int = 60) -> float:
    """Share of real close pairs that are repelled after being pulled together."""
    repelled = []
    step = max(1, len(structures) // limit)
    for atoms in structures[::step]:
        edges, shifts = neighbour_list(atoms.positions, atoms.cell.array, atoms.pbc, 4.0)
        vectors = atoms.positions[edges[1]] - atoms.positions[edges[0]] + shifts @ atoms.cell.array
        different = edges[0] != edges[1]
        if not different.any():
            continue
        r = np.where(different, np.linalg.norm(vectors, axis=1), np.inf)
        k = int(np.argmin(r))
        i, j = edges[:, k]
        pulled = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        pulled.positions[i] += 0.5 * (1 - PULL_TO) * vectors[k]
        pulled.positions[j] -= 0.5 * (1 - PULL_TO) * vectors[k]
        forces = predict(model, build_batch(pulled, model.cutoff, model.dtype)).forces.detach().double().numpy()
        repelled.append(float((forces[j] - forces[i]) @ vectors[k]) > 0)
    return float(np.mean(repelled)) if repelled else 1.0
