"""Flags of a diatomic energy curve: holes, missing walls, jumps, spurious minima."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ase.data import atomic_numbers, covalent_radii
from scipy.signal import find_peaks

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.probes.pairs import symbols_of
from mdl_physpretrain.stability.energy_curves import deepest_fall, lasting_jump, standing_out, unexplained_jump

__all__ = ["diatomic_flags"]

# distances in units of the sum of the covalent radii
WELL_FROM = 0.55  # the shortest bonds there are (Cr2: 0.60, Mo2: 0.63) lie outside; inside, atoms only repel
WALL_AT = 0.5  # of a bond length: where the paper's overlap criterion sits
BEGINS_BELOW = 0.75  # a curve that begins further out does not show the wall
WALL_ENERGY = 3.0  # eV above the well: over 100 kT at 300 K, 10 kT at 3500 K; the teacher's examination asks the same
OUT_OF_REACH = 15.0  # eV above the well: 35 kT at 5000 K; what lies behind such a wall no trajectory sees
HOLE_DEPTH = 0.05  # eV, twice kT at 300 K: an atom would notice
MINIMUM_PROMINENCE = 0.05  # eV, the same
ENERGY_JUMP = 0.01  # eV: a hundred times the rounding of float32 networks, and what crossing it once adds to an atom
FORCE_JUMP = 0.5  # eV/Å: several times the force error of a good network
MIN_POINTS = 20


def diatomic_flags(
    pair: tuple[str, str] | str,
    r: Sequence[float] | np.ndarray,
    energy: Sequence[float] | np.ndarray,
    force: Sequence[float] | np.ndarray,
    forces_at: Callable[[np.ndarray], np.ndarray] | None = None,
) -> dict[str, Any]:
    """Judge the curve of a pair of atoms.

    Parameters
    ----------
    pair
        Two symbols, ``("Mn", "O")`` or ``"Mn-O"``.
    r, energy, force
        Distances (Å, any order), energies (eV) and forces (eV/Å, positive
        means repulsion) of :func:`diatomic_curve`, shape (n,). NaN, where the
        potential failed, is left out and makes the curve not ``ok``.
    forces_at
        Forces (eV/Å) at other distances (Å), with which a force that changes fast between two points is told from one
        that jumps (:func:`mdl_physpretrain.stability.energy_curves.lasting_jump`).

    Returns
    -------
    dict
        The *well* is the lowest energy at more than 0.55 times the sum of the
        covalent radii (for a pair that only repels, the far end).

        What lies inside the first distance at which the energy is 15 eV above
        the well is left out: no trajectory gets there.

        ``hole`` (bool): on the way in from the well the energy rises, and
        then falls again by more than 0.05 eV. ``spurious_minima`` (int): local
        minima with a prominence above 0.05 eV beyond the first.
        ``discontinuity`` (bool): between two neighbouring distances the energy
        changes by 0.01 eV more than the forces there explain, or the force by
        more than 0.5 eV/Å, and in both cases by more than twice what it
        changes before and after. ``missing_repulsion`` (bool): at half the sum
        of the covalent radii (or at the shortest distance, where the curve
        does not get there) the energy is less than 3 eV above the well, or it
        falls all the way from the well. ``ok`` (bool): none of these, and
        finite everywhere.

        Numbers behind them: ``well_r`` (Å), ``well_energy`` (eV, relative to
        the largest distance), ``wall_r, wall_energy`` (eV above the well),
        ``hole_r, hole_depth`` (deepest fall; ``hole_r`` is NaN without one),
        ``energy_jump`` (eV), ``force_jump`` (eV/Å): the largest that stands
        out, 0 without; ``failed_points`` (int).

    Raises
    ------
    ConfigError
        If the arrays do not belong together, a distance occurs twice, the
        curve has fewer than 20 points, or begins outside 0.75 times the sum of
        the covalent radii.

    References
    ----------
    Fig. 1, 3 and 6a of the paper show missing cores and holes. Counting minima
    follows the homonuclear diatomics of MLIP Arena (Y. Chiang et al., 2025,
    arXiv:2509.20630); the thresholds are ours.
    """
    a, b = symbols_of(pair)
    contact = float(covalent_radii[atomic_numbers[a]] + covalent_radii[atomic_numbers[b]])
    r, energy, force, failed = _ordered(r, energy, force)
    if r[0] > BEGINS_BELOW * contact:
        raise ConfigError(
            f"the curve of {a}-{b} begins at {r[0]:.2f} Å; it has to begin below {BEGINS_BELOW * contact:.2f} Å"
        )

    outside = np.flatnonzero(r >= WELL_FROM * contact)
    well = int(outside[np.argmin(energy[outside])]) if len(outside) else len(r) - 1
    wall_r = max(WALL_AT * contact, float(r[0]))
    wall_energy = float(np.interp(wall_r, r, energy) - energy[well])
    behind = np.flatnonzero(energy[:well] > energy[well] + OUT_OF_REACH)
    first = int(behind[-1]) if len(behind) else 0
    r, energy, force, well = r[first:], energy[first:], force[first:], well - first
    inwards = energy[well::-1]
    depth, at = deepest_fall(inwards, HOLE_DEPTH)
    energy_jump = unexplained_jump(r, energy, force)
    force_jump = standing_out(np.diff(force))
    if forces_at is not None:
        force_jump = lasting_jump(force, r, FORCE_JUMP, forces_at)
    never_rises = well > 0 and float(inwards.max() - inwards[0]) <= HOLE_DEPTH
    flags: dict[str, Any] = {
        "hole": depth > HOLE_DEPTH,
        "spurious_minima": max(0, _minima(energy) - 1),
        "discontinuity": energy_jump > ENERGY_JUMP or force_jump > FORCE_JUMP,
        "missing_repulsion": wall_energy < WALL_ENERGY or never_rises,
    }
    return {
        **flags,
        "ok": not any(flags.values()) and failed == 0,
        "well_r": float(r[well]),
        "well_energy": float(energy[well] - energy[-1]),
        "wall_r": wall_r,
        "wall_energy": wall_energy,
        "hole_r": float(r[well - at]) if depth > HOLE_DEPTH else float("nan"),
        "hole_depth": depth,
        "energy_jump": energy_jump,
        "force_jump": force_jump,
        "failed_points": failed,
    }


def _minima(energy: np.ndarray) -> int:
    return len(find_peaks(-energy, prominence=MINIMUM_PROMINENCE)[0])


def _ordered(r: Any, energy: Any, force: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Float arrays by distance, without points at which the potential failed, and their number."""
    arrays = [np.asarray(x, dtype=np.float64) for x in (r, energy, force)]
    if arrays[0].ndim != 1 or any(x.shape != arrays[0].shape for x in arrays):
        raise ConfigError(f"r, energy and force must have one shape (n,), not {[x.shape for x in arrays]}")
    if not np.isfinite(arrays[0]).all() or len(np.unique(arrays[0])) < len(arrays[0]):
        raise ConfigError("distances of a diatomic curve must be finite and differ from each other")
    finite = np.isfinite(arrays[1]) & np.isfinite(arrays[2])
    if finite.sum() < MIN_POINTS:
        raise ConfigError(f"a diatomic curve needs {MIN_POINTS} points to be judged; {int(finite.sum())} are finite")
    order = np.argsort(arrays[0][finite])
    distances, energies, forces = (x[finite][order] for x in arrays)
    return distances, energies, forces, int((~finite).sum())
