"""ASE calculators that teach: with a short-range core where one is asked for, and examined as any teacher is.

Every pair of elements that meet in the data is looked at twice: alone, and in the data's surroundings (a real pair is
pulled together while all other atoms stay). Both must repel from three quarters of the typical distance inwards (alone:
from 0.9 of the distance of their own well, as two O bind nearer than in an oxide), until the energy is 15 eV above that
or down to 0.3 Å; the wall must be high where the overlap criterion sits (alone: at half the sum of the covalent radii),
and the curve finite and smooth. At last real close pairs are pulled together and must be pushed back.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from ase.calculators.mixing import SumCalculator

from mdl_physpretrain import recipe
from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.graphs.bonds import PairDistances, core_ends, nearest_distances, with_images
from mdl_physpretrain.potentials.calculator import ASECalculator
from mdl_physpretrain.potentials.zbl import ZBL
from mdl_physpretrain.stability.energy_curves import lasting_jump, unexplained_jump
from mdl_physpretrain.teacher.engines import Teacher, refuse_examined
from mdl_physpretrain.teacher.examine import (
    INNERMOST,
    PUSHED_BACK,
    REPULSIVE_BELOW,
    WALL_AT,
    WALL_ENERGY,
    Examination,
    PairExamination,
)
from mdl_physpretrain.teacher.pulled_pairs import PULL_TO, at_distance, pairs_within, share_pushed_back
from mdl_physpretrain.teacher.values import energies_and_forces

__all__ = ["WithCore", "calculator_teacher", "examine_calculator", "examined_calculator"]

REACH = 5.0  # Å, within which pairs of the data meet
POINTS = 60  # of a curve
OUTERMOST = 1.1  # of the typical distance, where curves end
OUT_OF_REACH = 15.0  # eV above the typical distance: what lies behind, no trajectory and no label sees
ENERGY_JUMP, FORCE_JUMP = 0.05, 2.0  # eV, eV/Å
WELL_FROM, INSIDE_WELL = 0.55, 0.9  # of the radii's sum: no bond is shorter; of the distance of a pair's own well
BOX = 20.0  # Å between a pair alone and its images
Curve: TypeAlias = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # energies and forces at distances
MOST = 30  # structures whose closest pair is pulled together


class WithCore:
    """Makes a calculator with a ZBL core added; has a name like a function, and travels to other processes.

    Parameters
    ----------
    factory
        Makes the calculator.
    ends
        Where the core of each pair of elements (``"Li-O"``) ends, Å: below the closest distance in the data, so that
        the calculator alone describes the data.
    """

    def __init__(self, factory: Callable[[], BaseCalculator], ends: Mapping[str, float]) -> None:
        self.factory, self.ends = factory, dict(ends)
        words = ", ".join(f"{pair} {end:g}" for pair, end in sorted(self.ends.items()))
        self.__qualname__ = self.__name__ = f"{getattr(factory, '__qualname__', 'calculator')} + zbl({words})"
        self.options = getattr(factory, "options", {})

    def __call__(self) -> BaseCalculator:
        calculator = self.factory()
        return _Sum(calculator, ASECalculator(ZBL(ends=self.ends)))


class _Sum(SumCalculator):
    """A calculator and its core, named after both."""

    def __init__(self, calculator: BaseCalculator, core: BaseCalculator) -> None:
        self.words = f"{getattr(calculator, 'name', None) or type(calculator).__name__.lower()}+zbl"
        super().__init__([calculator, core])

    def _get_name(self) -> str:
        return self.words


def calculator_teacher(
    options: recipe.Teacher, factory: Callable[[], BaseCalculator], structures: Sequence[Atoms]
) -> Callable[[], BaseCalculator]:
    """The factory of section ``teacher``, with the core that it asks for, whose ends ``structures`` give."""
    if options.core == "none":
        return factory
    return WithCore(factory, core_ends(nearest_distances(structures, REACH)))


def examined_calculator(
    teacher: Callable[[], BaseCalculator], structures: Sequence[Atoms], *, force: bool, section: str = "teacher"
) -> Examination | None:
    """Examine a calculator before it labels.

    Parameters
    ----------
    teacher
        Makes it.
    structures
        The data.
    force
        Do not: of a calculator that takes hours for a structure.
    section
        For messages.

    Returns
    -------
    Examination or None
        ``None`` where it was not examined.

    Raises
    ------
    TeacherRefused
        If it fails; a core (``teacher.core: zbl``) may help.
    """
    if force:
        return None
    examination = examine_calculator(teacher, structures)
    failures = list(examination.failures)
    if not isinstance(teacher, WithCore):
        failures.append(f"'{section}.core: zbl' adds a repulsive core below the closest distances")
    refuse_examined({"passed": examination.passed, "failures": failures}, force, section)
    return examination


def examine_calculator(teacher: Teacher, structures: Sequence[Atoms]) -> Examination:
    """Ask any potential whether pairs of elements of the data repel, alone and in the data.

    Parameters
    ----------
    teacher
        An ASE calculator, a function that makes one, or a model.
    structures
        The data. For every pair of elements 120 energies and forces are calculated, and some
        more where a force seems to jump.

    Returns
    -------
    Examination
        With two entries for every pair, ``"Li-O"`` and ``"Li-O alone"``.
    """
    examined: list[PairExamination] = []
    for pair, measured in nearest_distances(structures, REACH).items():
        r = np.linspace(INNERMOST, OUTERMOST * measured.typical, POINTS)
        name = "-".join(pair)
        found = _typical_pair(structures, pair, measured)
        if found is not None:
            atoms, i, j, vector = found
            bring = partial(at_distance, atoms, i, j, vector)
            examined.append(_judged(name, r, partial(_curve, teacher, bring, i, j, vector), measured))
        bring = partial(_two_atoms, pair, float(r[-1] + BOX))
        curve = partial(_curve, teacher, bring, 0, 1, np.array([1.0, 0.0, 0.0]))
        examined.append(_judged(f"{name} alone", r, curve, measured, alone=True))
    pushed = share_pushed_back(structures, lambda pulled: [f for _, f in _values(teacher, pulled)], MOST)
    failures = [f"{v.pair}: {v.notes}" for v in examined if not v.passed]
    if pushed < PUSHED_BACK:
        failures.append(f"only {pushed:.0%} of real pairs pulled to {PULL_TO:.0%} of their distance are pushed back")
    return Examination(not failures, failures, examined, pushed)


def _typical_pair(
    structures: Sequence[Atoms], pair: tuple[str, str], measured: PairDistances
) -> tuple[Atoms, int, int, np.ndarray] | None:
    """The real pair whose distance is nearest to the typical one, in the smallest of the structures that have it."""
    smallest = sorted(structures, key=len)
    # the second time with images as atoms of their own: a primitive cell has no other pair of one element
    for atoms in itertools.chain(smallest, map(with_images, smallest)):
        i, j, vectors, r = pairs_within(atoms, REACH)
        symbols = np.array(atoms.get_chemical_symbols())
        fits = np.flatnonzero((symbols[i] == pair[0]) & (symbols[j] == pair[1]))
        if len(fits) and np.abs(r[fits] - measured.typical).min() < 0.1 * measured.typical:
            k = fits[np.argmin(np.abs(r[fits] - measured.typical))]
            return atoms, int(i[k]), int(j[k]), vectors[k]
    return None


def _values(teacher: Teacher, structures: Sequence[Atoms]) -> list[tuple[float, np.ndarray]]:
    """Energies (eV) and forces (eV/Å); NaN where the teacher fails."""
    try:
        energies, forces = energies_and_forces(teacher, structures, bare=False)
    except StructureError:
        return [(float("nan"), np.full((len(atoms), 3), np.nan)) for atoms in structures]
    return list(zip(energies.tolist(), forces, strict=True))


def _two_atoms(pair: tuple[str, str], size: float, distance: float) -> Atoms:
    return Atoms(pair, [[0, 0, 0], [distance, 0, 0]], cell=[size] * 3, pbc=True)


def _curve(
    teacher: Teacher, bring: Callable[[float], Atoms], i: int, j: int, vector: np.ndarray, distances: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Energy and force along the distance of two atoms, positive means repulsion; ``bring`` puts them there."""
    direction = vector / np.linalg.norm(vector)
    values = _values(teacher, [bring(float(d)) for d in distances])
    force = np.array([0.5 * (f[j] - f[i]) @ direction for _, f in values])
    return np.array([e for e, _ in values]), force


def _judged(name: str, r: np.ndarray, curve: Curve, measured: PairDistances, *, alone: bool = False) -> PairExamination:
    """The three questions to one curve, as of native teachers; two atoms alone may bind nearer than in the data."""
    energy, force = curve(r)
    finite = np.isfinite(energy) & np.isfinite(force)
    notes, wall, core, smooth = [], float("nan"), False, bool(finite.all())
    if not smooth:
        notes.append(f"fails between {r[~finite].min():.2f} and {r[~finite].max():.2f} Å")
    if finite.sum() > 5:
        r, energy, force = r[finite], energy[finite], force[finite]
        origin, wall_at, inside = (share * measured.typical for share in (1.0, WALL_AT, REPULSIVE_BELOW))
        outside = np.flatnonzero(r >= WELL_FROM * measured.contact)
        if alone and len(outside):
            origin = float(r[outside[np.argmin(energy[outside])]])  # O2 is no hole
            wall_at, inside = WALL_AT * measured.contact, INSIDE_WELL * origin
        energy = energy - np.interp(origin, r, energy)
        wall = float(np.interp(wall_at, r, energy))
        behind = np.flatnonzero((energy > OUT_OF_REACH) & (r < origin))
        seen = slice(int(behind[-1]) if len(behind) else 0, None)
        r, energy, force = r[seen], energy[seen], force[seen]
        attractive = r[(r < inside) & (force <= 0)]
        core = not len(attractive) and wall > WALL_ENERGY
        if len(attractive):
            notes.append(f"attractive between {attractive.min():.2f} and {attractive.max():.2f} Å")
        if not wall > WALL_ENERGY:
            notes.append(f"wall of {wall:.2f} eV at {wall_at:.2f} Å (needs {WALL_ENERGY:g})")
        if (
            unexplained_jump(r, energy, force) > ENERGY_JUMP
            or lasting_jump(force, r, FORCE_JUMP, lambda near: curve(near)[1]) > FORCE_JUMP
        ):
            smooth = False
            notes.append("not smooth")
    return PairExamination(
        pair=name,
        passed=core and smooth,
        core=core,
        smooth=smooth,
        well=None,
        well_position=None,
        data_distance=measured.typical,
        wall_energy=wall,
        n_bonds=measured.count,
        notes="; ".join(notes),
    )
