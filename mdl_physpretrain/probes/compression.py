"""Energy of a structure squeezed evenly, which shows whether it could collapse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from ase import Atoms

from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.probes.diatomic_flags import deepest_fall, standing_out
from mdl_physpretrain.probes.single_points import Potential, energies_and_forces
from mdl_physpretrain.stability.overlap import closest_pair
from mdl_physpretrain.structures.labels import structure_id

__all__ = ["SCALES", "compression_curve", "compression_flags"]

SCALES = np.round(np.linspace(1.05, 0.70, 36), 4)
MINIMUM_FROM = 0.9  # a potential's own cell is within 10 % of the structure's; what lies lower further in is a collapse
COLLAPSE_DEPTH = 0.01  # eV/atom: far above rounding, and a third of kT at 300 K for every atom at once
ENERGY_JUMP = 0.01  # eV/atom, the same
MIN_POINTS = 8


def compression_curve(
    potential: Potential, atoms: Atoms, scales: Sequence[float] | np.ndarray | None = None
) -> pd.DataFrame:
    """Energy of a structure whose cell and atoms are scaled evenly.

    Parameters
    ----------
    potential
        An :class:`EnergyModel`, an ASE calculator, or a function that makes
        one.
    atoms
        Periodic or not; scaled positions are not relaxed.
    scales
        Lengths relative to those of ``atoms``; default: 36 from 1.05 to 0.70
        (about a third of the volume).

    Returns
    -------
    DataFrame
        ``scale, energy_per_atom`` (eV, relative to scale 1), ``max_force``
        (largest force on an atom, eV/Å), ``min_distance`` (Å; infinite for a
        single atom), in the order of ``scales``. NaN where the potential
        fails.

    Raises
    ------
    ConfigError
        If a scale is not positive, or there is none.
    StructureError
        If the potential fails on the structure as it is.

    References
    ----------
    The equation of state under strong compression is among the tests of
    MLIP Arena (Y. Chiang et al., 2025, arXiv:2509.20630); the paper's Fig. 6b
    and section 3.5 name compressed cells as what training data lack.
    """
    lengths = np.asarray(SCALES if scales is None else scales, dtype=np.float64)
    if lengths.ndim != 1 or not len(lengths) or not np.isfinite(lengths).all() or lengths.min() <= 0:
        raise ConfigError("scales of a compression curve must be positive and finite numbers")
    name = structure_id(atoms)
    if not len(atoms):
        raise StructureError("has no atoms", structure=name)
    energy, forces = energies_and_forces(potential, [_scaled(atoms, s) for s in (1.0, *lengths)])
    if not np.isfinite(energy[0]):
        raise StructureError("the potential fails on the structure as it is", structure=name)
    closest = closest_pair(atoms.positions, atoms.cell.array, atoms.pbc).distance
    return pd.DataFrame(
        {
            "scale": lengths,
            "energy_per_atom": (energy[1:] - energy[0]) / len(atoms),
            "max_force": [float(np.linalg.norm(f, axis=1).max()) for f in forces[1:]],
            "min_distance": closest * lengths,
        }
    )


def compression_flags(curve: pd.DataFrame) -> dict[str, Any]:
    """Judge a compression curve: squeezed below its minimum a structure's energy only rises.

    Parameters
    ----------
    curve
        Of :func:`compression_curve`.

    Returns
    -------
    dict
        ``collapse`` (bool): below the minimum (the lowest energy at a scale of
        0.9 or more) the energy falls by more than 0.01 eV/atom somewhere.
        ``discontinuity`` (bool): between two neighbouring scales it changes by
        more than 0.01 eV/atom and by more than twice what it changes before
        and after. ``ok`` (bool): neither, and finite everywhere. Numbers:
        ``minimum_scale``; ``collapse_depth`` (deepest fall, eV/atom),
        ``collapse_scale`` (where that fall begins; NaN without collapse),
        ``energy_jump`` (eV/atom, 0 without), ``end_energy`` (eV/atom at the
        smallest scale, above the minimum), ``failed_points``.

    Raises
    ------
    ConfigError
        If the curve has fewer than 8 finite points, or none at a scale of 0.9
        or more.
    """
    ordered = curve.sort_values("scale", ascending=False)
    scale, energy = ordered["scale"].to_numpy(float), ordered["energy_per_atom"].to_numpy(float)
    there = np.isfinite(energy)
    failed = int((~there).sum())
    scale, energy = scale[there], energy[there]
    near = np.flatnonzero(scale >= MINIMUM_FROM)
    if len(scale) < MIN_POINTS or not len(near):
        raise ConfigError(
            f"a compression curve needs {MIN_POINTS} finite points to be judged, some at a scale of {MINIMUM_FROM:g} "
            f"or more; this has {len(scale)}"
        )
    minimum = int(near[np.argmin(energy[near])])
    inwards = energy[minimum:]
    depth, at = deepest_fall(inwards, -1.0)
    begins = int(np.argmax(inwards[: at + 1]))
    jump = standing_out(np.diff(energy))
    collapse, discontinuity = depth > COLLAPSE_DEPTH, jump > ENERGY_JUMP
    return {
        "collapse": collapse,
        "discontinuity": discontinuity,
        "ok": not collapse and not discontinuity and failed == 0,
        "minimum_scale": float(scale[minimum]),
        "collapse_depth": depth,
        "collapse_scale": float(scale[minimum + begins]) if collapse else float("nan"),
        "energy_jump": jump,
        "end_energy": float(energy[-1] - energy[minimum]),
        "failed_points": failed,
    }


def _scaled(atoms: Atoms, scale: float) -> Atoms:
    scaled = Atoms(atoms.numbers, atoms.positions * scale, cell=atoms.cell.array * scale, pbc=atoms.pbc)
    scaled.info["structure_id"] = f"{structure_id(atoms)} at scale {scale:g}"
    return scaled
