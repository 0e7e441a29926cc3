"""Does the total energy stay? Drift of constant-energy MD."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from ase import units

from mdl_physpretrain.errors import ConfigError

if TYPE_CHECKING:
    from mdl_physpretrain.dynamics.records import RunRecord, Runs

__all__ = ["nve_drift"]

MIN_POINTS = 10  # of a trace: with fewer the slope says nothing


def nve_drift(runs: Runs) -> pd.DataFrame:
    """Slope of the total energy of every trajectory of an ensemble ``"nve"``.

    Parameters
    ----------
    runs
        Of :func:`mdl_physpretrain.dynamics.simulate`. The total energy is the
        potential energy of the trace and ``3/2 n k_B T`` of its temperature,
        which is exactly the kinetic energy (records know how many degrees of
        freedom their temperatures are of; 3n without constraints).

    Returns
    -------
    DataFrame
        ``structure_id, n_atoms, drift`` (meV/atom/ps: slope of the line fitted
        to the total energy by least squares), ``fluctuation`` (meV/atom: root
        mean square deviation from that line), ``ps`` (length of the trace),
        ``steps_done``. NaN for a trajectory that ended with fewer than 10
        points.

    Raises
    ------
    ConfigError
        If the ensemble is another, or the simulation was set up for traces of
        fewer than 10 points.

    References
    ----------
    Energy conservation as a test of potentials: X. Fu et al., "Learning Smooth
    and Expressive Interatomic Potentials for Physical Property Prediction",
    arXiv:2502.12147 (2025); Y. Chiang et al. (MLIP Arena), arXiv:2509.20630.
    """
    settings = runs.settings
    if settings.get("ensemble") != "nve":
        raise ConfigError(f"energy drift is a question to ensemble 'nve', not {settings.get('ensemble')!r}")
    points = int(settings["steps"]) // int(settings["trace_interval"]) + 1
    if points < MIN_POINTS:
        raise ConfigError(
            f"{settings['steps']} steps traced every {settings['trace_interval']} give {points} points; "
            f"energy drift needs {MIN_POINTS}"
        )
    columns = ["structure_id", "n_atoms", "drift", "fluctuation", "ps", "steps_done"]
    return pd.DataFrame([_row(record, float(settings["timestep"])) for record in runs], columns=columns)


def _row(record: RunRecord, timestep: float) -> dict[str, Any]:
    n = len(record.numbers)
    time = record.trace_step * timestep / 1000  # ps
    kinetic = 0.5 * (record.degrees_of_freedom or 3 * n) * units.kB * record.trace_temperature
    total = (record.trace_energy + kinetic) * 1000 / n
    finite = np.isfinite(total)
    drift, fluctuation = _line(time[finite], total[finite])
    return {
        "structure_id": record.structure_id,
        "n_atoms": n,
        "drift": drift,
        "fluctuation": fluctuation,
        "ps": float(time[-1]) if len(time) else 0.0,
        "steps_done": record.steps_done,
    }


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope and root mean square residual of the least-squares line."""
    if len(x) < MIN_POINTS:
        return float("nan"), float("nan")
    dx, dy = x - x.mean(), y - y.mean()
    slope = float(dx @ dy / (dx @ dx))
    return slope, float(np.sqrt(np.mean((dy - slope * dx) ** 2)))
