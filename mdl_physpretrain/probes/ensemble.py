"""Probe of the ensemble: distributions of kinetic energy and volume against those of thermostat and barostat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from ase import units
from pydantic import Field

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.option_types import Section
from mdl_physpretrain.probes.base import Answer, Probe, Simulated, Tables
from mdl_physpretrain.probes.equation_of_state import bulk_moduli
from mdl_physpretrain.probes.page import PagePart, by_arm, number_table

if TYPE_CHECKING:
    from mdl_physpretrain.dynamics.records import RunRecord, Runs

__all__ = ["Ensemble", "ensemble_fluctuations"]

SETTLING = 0.2  # share of a trace that is left out
LEAST = 20  # independent points, below which nothing is said
SIGMAS = 4.0  # one in 16,000 by chance
VOLUME_SPREAD = (0.5, 2.0)  # likewise, of a bulk modulus at rest and few independent volumes
SPREAD = (0.8, 1.25)  # of the ratio of standard deviations that is near enough whatever the number of points


def ensemble_fluctuations(runs: Runs) -> pd.DataFrame:
    """Means and variances of temperature and volume of every trajectory with a thermostat.

    Parameters
    ----------
    runs
        Of :func:`mdl_physpretrain.dynamics.simulate`, ensemble ``"nvt"`` or ``"npt"``. Of each trace the first fifth is
        left out.

    Returns
    -------
    DataFrame
        ``structure_id, target`` (K), ``temperature`` (mean, K), ``kinetic_ratio`` (standard deviation of the kinetic
        energy over that of the canonical ensemble, ``sqrt(n_f / 2) k_B T`` with ``n_f`` degrees of freedom),
        ``independent`` (points of the trace that are independent of each other, by the autocorrelation of the kinetic
        energy), ``mean_sigmas, ratio_sigmas`` (deviations in standard errors; NaN with fewer than 20 independent
        points), ``volume`` (Å³), ``volume_std`` (Å³; NaN where the volume is fixed) and ``barostat`` (empty there).

    Raises
    ------
    ConfigError
        If the ensemble has no thermostat.

    References
    ----------
    The kinetic energy of the canonical ensemble has a gamma distribution of shape ``n_f / 2``, the volume of the
    isothermal-isobaric one the variance ``k_B T V / B``: M. R. Shirts, J. Chem. Theory Comput. 9, 909 (2013); P. T.
    Merz and M. R. Shirts, PLOS ONE 13, e0202764 (2018). Autocorrelation time with a window that follows it: U. Wolff,
    Comput. Phys. Commun. 156, 143 (2004).
    """
    ensemble = runs.settings.get("ensemble")
    if ensemble not in ("nvt", "npt"):
        raise ConfigError(f"fluctuations are compared with those of ensembles 'nvt' and 'npt', not {ensemble!r}")
    barostat = str(runs.settings.get("barostat", "berendsen")) if ensemble == "npt" else ""
    return pd.DataFrame([_row(record, float(runs.settings["temperature"]), barostat) for record in runs])


def _row(record: RunRecord, target: float, barostat: str) -> dict[str, Any]:
    start = int(SETTLING * len(record.trace_temperature))
    temperature, volume = record.trace_temperature[start:], record.trace_volume[start:]
    temperature = temperature[np.isfinite(temperature)]
    freedom = record.degrees_of_freedom or 3 * len(record.numbers)
    independent = len(temperature) / _correlation_time(temperature) if len(temperature) > 1 else 0.0
    enough = independent >= LEAST and target > 0
    expected = target * np.sqrt(2 / freedom)
    ratio = float(temperature.std(ddof=1) / expected) if len(temperature) > 1 and target > 0 else float("nan")
    mean = float(temperature.mean()) if len(temperature) else float("nan")
    # a normal variable's standard deviation is known to 1/sqrt(2n); that of a gamma has its kurtosis 12/n_f in addition
    ratio_error = np.sqrt((2 + 12 / freedom) / max(independent, 1)) / 2
    return {
        "structure_id": record.structure_id,
        "target": target,
        "temperature": mean,
        "kinetic_ratio": ratio,
        "independent": independent,
        "mean_sigmas": (mean - target) / (expected / np.sqrt(independent)) if enough else float("nan"),
        "ratio_sigmas": (ratio - 1) / ratio_error if enough else float("nan"),
        "volume": float(volume.mean()) if len(volume) else float("nan"),
        "volume_std": float(volume.std(ddof=1)) if barostat and len(volume) > 1 else float("nan"),
        "barostat": barostat,
    }


def _correlation_time(values: np.ndarray) -> float:
    """Points per independent one (twice the integrated autocorrelation time), at least 1."""
    x = values - values.mean()
    n = len(x)
    if n < 4 or not x.any():
        return float(max(n, 1))
    spectrum = np.fft.rfft(x, 2 * n)
    correlation = np.fft.irfft(spectrum * spectrum.conj())[:n] / (x @ x)
    time = 1.0
    for lag in range(1, n // 2):
        time += 2 * correlation[lag]
        if lag >= 5 * time / 2:  # the window: further lags are noise
            break
    return max(1.0, time)


class Ensemble(Probe):
    """Whether temperature and kinetic energy have the distribution of the ensemble that was asked for."""

    name = "ensemble"
    question = "thermostat samples its ensemble"
    applies_to = "simulation"
    files = {"ensemble": ("structure_id", "kinetic_ratio")}  # noqa: RUF012
    numbers = ("target", "temperature", "kinetic_ratio", "independent", "mean_sigmas", "ratio_sigmas", "volume",
               "volume_std")  # fmt: skip
    title = "Ensemble"
    answer_place, page_place = 24, 46

    class Options(Section):
        """Whether it is asked."""

        ensemble_fluctuations: bool = Field(
            default=False, description="Compare fluctuations of kinetic energy and volume with those of the ensemble."
        )

    def is_applicable(self, available: frozenset[str]) -> bool:
        return self.options.ensemble_fluctuations and not available.isdisjoint({"nvt", "npt"})

    def tables(self, subject: Simulated) -> dict[str, pd.DataFrame]:
        assert subject.runs is not None
        return {"ensemble": ensemble_fluctuations(subject.runs)}

    def answer(self, tables: Tables) -> Answer | None:
        table = tables.get("ensemble")
        if table is None or not len(table):
            return None
        judged = table[table["mean_sigmas"].notna()]
        if not len(judged):
            return "not judged", f"no trajectory has {LEAST} independent points"
        n = len(judged)
        mean, ratio = (float(judged[key].sum() / np.sqrt(n)) for key in ("mean_sigmas", "ratio_sigmas"))
        spread = float(judged["kinetic_ratio"].mean())
        words = (
            f"mean temperature {judged['temperature'].mean():.4g} K of {judged['target'].mean():g} K, kinetic energy "
            f"fluctuates {spread:.3g} times as much as it should ({n} of {len(table)} trajectories judged)"
        )
        volume = _volume_ratio(table, bulk_moduli(tables))
        words += f"; volume fluctuates {volume:.2g} times as much as it should" if np.isfinite(volume) else ""
        wide = not SPREAD[0] < spread < SPREAD[1] and abs(ratio) > SIGMAS
        off = abs(mean) > SIGMAS and abs(judged["temperature"].mean() / judged["target"].mean() - 1) > 0.05
        rescaled = "barostat" in table and (table["barostat"] == "cell_rescaling").any()
        if rescaled and not VOLUME_SPREAD[0] < volume < VOLUME_SPREAD[1] and np.isfinite(volume):
            return "no", f"{words}: is taup long enough, and the trajectory longer than it?"
        if off or wide:
            thermostat = "friction" if rescaled else "friction, or taut,"
            return "no", f"{words}: is the unit of {thermostat} right?"
        return "yes", words

    def page(self, tables: Tables, arms: Sequence[str], heading: str) -> PagePart | None:
        table = tables.get("ensemble")
        if table is None or not len(table):
            return None
        keys = ["target", "temperature", "kinetic_ratio", "independent", "volume", "volume_std"]
        rows = [{"arm": arm, "trajectories": len(group), **group[keys].mean()} for arm, group in by_arm(table, arms)]
        summary = pd.DataFrame(rows)
        columns = {
            "trajectories": ("Trajectories", ""),
            "target": ("Target", "K"),
            "temperature": ("Temperature", "K"),
            "kinetic_ratio": ("Kinetic energy: fluctuation over the ensemble’s", ""),
            "independent": ("Independent points", "mean"),
            "volume": ("Volume", "Å³, mean"),
            "volume_std": ("Volume: standard deviation", "Å³"),
        }
        return PagePart(
            table=number_table(summary, heading, columns, "ensemble"),
            summary=summary,
            table_title="Fluctuations",
            text="Langevin’s thermostat must give the temperature and the fluctuation of the kinetic energy of the "
            "canonical ensemble; a friction in a wrong unit does not. Berendsen’s thermostat and barostat damp "
            "fluctuations by design: their averages are right, their distributions are not (those of "
            "barostat cell_rescaling are).",
            details="ensemble_each",
            details_caption="Every trajectory:",
            saved={"ensemble_each": table},
        )


def _volume_ratio(table: pd.DataFrame, moduli: dict[str, float]) -> float:
    """Fluctuation of the volume over ``sqrt(k_B T V / B)``, mean over structures with a bulk modulus ``B``."""
    ratios = []
    for row in table.to_dict("records"):
        modulus = moduli.get(str(row["structure_id"]), float("nan")) * units.GPa
        if modulus > 0 and np.isfinite(row["volume_std"]):
            ratios.append(row["volume_std"] / np.sqrt(units.kB * row["target"] * row["volume"] / modulus))
    return float(np.mean(ratios)) if ratios else float("nan")
