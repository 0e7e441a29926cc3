"""Probe of energy drift: change of the total energy in NVE simulations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from ase import units

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.probes.base import Answer, Probe, Simulated, Tables
from mdl_physpretrain.probes.page import Cell, Column, HtmlTable, PagePart, by_arm, number, significant

if TYPE_CHECKING:
    from mdl_physpretrain.dynamics.records import RunRecord, Runs

__all__ = ["MAX_DRIFT", "EnergyDrift", "nve_drift"]

MAX_DRIFT = 1.0  # meV/atom/ps, which heats or cools a solid by 4 K a picosecond
MIN_TIME = 1.0  # ps: in less a drift of MAX_DRIFT is not above what the energy fluctuates by
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
        ``steps_done``; and the drift in the two other common normalisations:
        ``drift_kT`` (k_B T per degree of freedom and ns, T the simulation's)
        and ``drift_ratio`` (energy lost or won over the trace, divided by the
        standard deviation of the kinetic energy). NaN for a trajectory that
        ended with fewer than 10 points.

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
    k_B T/ns per degree of freedom: GROMACS manual, "Energy conservation";
    ratio: package ``mlipaudit`` 0.1, benchmark ``nve_energy_conservation``.
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
    columns = ["structure_id", "n_atoms", "drift", "fluctuation", "ps", "steps_done", "drift_kT", "drift_ratio"]
    rows = [_row(record, float(settings["timestep"]), float(settings.get("temperature", 0.0))) for record in runs]
    return pd.DataFrame(rows, columns=columns)


def _row(record: RunRecord, timestep: float, temperature: float) -> dict[str, Any]:
    n = len(record.numbers)
    freedom = record.degrees_of_freedom or 3 * n
    time = record.trace_step * timestep / 1000  # ps
    kinetic = 0.5 * freedom * units.kB * record.trace_temperature
    total = (record.trace_energy + kinetic) * 1000 / n
    finite = np.isfinite(total)
    drift, fluctuation = _line(time[finite], total[finite])
    thermal = units.kB * temperature * freedom
    spread, length = float(np.std(kinetic[finite])) if finite.any() else 0.0, float(time[-1]) if len(time) else 0.0
    return {
        "structure_id": record.structure_id,
        "n_atoms": n,
        "drift": drift,
        "fluctuation": fluctuation,
        "ps": length,
        "steps_done": record.steps_done,
        "drift_kT": drift * n / thermal if thermal > 0 else float("nan"),  # meV/ps are eV/ns
        "drift_ratio": abs(drift) * n * length / 1000 / spread if spread > 0 else float("nan"),
    }


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope and root mean square residual of the least-squares line."""
    if len(x) < MIN_POINTS:
        return float("nan"), float("nan")
    dx, dy = x - x.mean(), y - y.mean()
    slope = float(dx @ dy / (dx @ dx))
    return slope, float(np.sqrt(np.mean((dy - slope * dx) ** 2)))


class EnergyDrift(Probe):
    """Drift of the total energy without thermostat.

    "No" when a trajectory drifts by more than :data:`MAX_DRIFT` and by more
    than twice its fluctuation over the run (less is no drift), or ended before
    there were enough points. "Not judged" when that is not so but one is
    shorter than :data:`MIN_TIME`.
    """

    name = "nve"
    question = "energy is conserved"
    applies_to = "simulation"
    needs = frozenset({"nve"})
    files = {"nve": ("structure_id", "drift")}  # noqa: RUF012
    numbers = ("drift", "fluctuation", "ps", "steps_done", "drift_kT", "drift_ratio")
    title = "Energy drift"
    answer_place, page_place = 20, 40

    def tables(self, subject: Simulated) -> dict[str, pd.DataFrame]:
        assert subject.runs is not None
        return {"nve": nve_drift(subject.runs)}

    def answer(self, tables: Tables) -> Answer | None:
        table = tables.get("nve")
        if table is None or not len(table):
            return None
        size = table["drift"].abs()
        if size.isna().all():
            return "no", "no trajectory lasted long enough to measure a drift"
        largest = table.iloc[int(np.nanargmax(size))]
        over = int(((size > MAX_DRIFT) & (size * table["ps"] > 2 * table["fluctuation"])).sum())
        lost = int(size.isna().sum())
        words = f"largest drift {largest['drift']:.3g} meV/atom/ps ({largest['structure_id']}, {largest['ps']:.3g} ps)"
        if over or lost:
            reasons = [f"{over} of {len(table)} drift"] * bool(over) + [f"{lost} ended too early"] * bool(lost)
            return "no", f"{words}; {', '.join(reasons)}"
        if (table["ps"] < MIN_TIME - 1e-9).any():
            return (
                "not judged",
                f"{words}: {table['ps'].min():.3g} ps are too short to tell, {MIN_TIME:g} ps are needed",
            )
        return "yes", words

    def page(self, tables: Tables, arms: Sequence[str], heading: str) -> PagePart | None:
        table = tables.get("nve")
        if table is None:
            return None
        summary = _summary(table, arms)
        titles = (("Trajectories", ""), ("Ended early", ""), ("Length", "ps, median"), ("Drift, median", "meV/atom/ps"),
                  ("Drift, largest", "meV/atom/ps"), ("Drift, largest", "kT/ns per degree of freedom"),
                  ("Drift over spread of kinetic energy", "largest"), ("Fluctuation", "meV/atom, median"))  # fmt: skip
        rows = []
        for row in summary.to_dict("records"):
            early, short = row["ended_early"], row["without_drift"]
            cells = [Cell(row["arm"], arm=row["arm"])]
            cells.append(Cell(str(row["trajectories"]), f"{short} too short to tell" if short else ""))
            cells += [Cell(str(early), css="bad" if early else "zero"), Cell(number(row["ps"], 2))]
            cells += [Cell(significant(row[k])) for k in
                      ("drift_median", "drift_largest", "drift_kT", "drift_ratio", "fluctuation")]  # fmt: skip
            rows.append(cells)
        return PagePart(
            table=HtmlTable([Column(heading, numeric=False), *(Column(*title) for title in titles)], rows, "nve"),
            summary=summary,
            table_title="Energy drift",
            text="Total energy in molecular dynamics without a thermostat: the slope of a straight line (drift, its "
            "size) and the scatter around it. Forces that are not the derivative of the energy, or a time step that is "
            "too long, show as drift.",
            details="nve_each",
            details_caption="Every trajectory:",
            saved={"nve_each": table},
        )


def _summary(table: pd.DataFrame, arms: Sequence[str]) -> pd.DataFrame:
    """``arm, trajectories, ended_early``, drift (median and largest magnitude) and median fluctuation, meV/atom."""
    rows = []
    longest = float(table["steps_done"].max()) if "steps_done" in table else np.nan
    for arm, group in by_arm(table, arms):
        sizes = group["drift"].abs()
        row: dict[str, Any] = {"arm": arm, "trajectories": len(group), "without_drift": int(sizes.isna().sum())}
        row["ended_early"] = int((group["steps_done"] < longest).sum()) if "steps_done" in group else 0
        row |= {"drift_median": sizes.median(), "drift_largest": sizes.max()}
        row |= {k: group[k].abs().max() if k in group else np.nan for k in ("drift_kT", "drift_ratio")}
        row |= {k: group[k].median() if k in group else np.nan for k in ("fluctuation", "ps")}
        rows.append(row)
    return pd.DataFrame(rows)
