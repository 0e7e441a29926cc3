"""Thermostats sample the distribution of their ensemble, not only its mean.

In the canonical ensemble the kinetic energy of ``n_f`` degrees of freedom has a gamma distribution of shape ``n_f / 2``
and scale ``k_B T`` (M. R. Shirts, J. Chem. Theory Comput. 9, 909 (2013); the strict test of the package
``physical_validation``). Points 40 steps apart at a friction of 0.15/fs are independent of each other.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from scipy import special, stats

from mdl_physpretrain.dynamics import simulate
from mdl_physpretrain.dynamics.integrators import CellRescalingStep
from mdl_physpretrain.dynamics.settings import MDSettings
from mdl_physpretrain.dynamics.state import MDState, NoiseStream
from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.potentials.base import Prediction
from mdl_physpretrain.probes.ensemble import Ensemble, ensemble_fluctuations
from mdl_physpretrain.report.conditions import condition_words

KELVIN = 600.0


class Springs(Calculator):
    """Every atom on a spring of its own."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012 - ASE's name and type
    places = None

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        if self.places is None:
            self.places = self.atoms.positions.copy()
        moved = self.atoms.positions - self.places
        self.results = {"energy": 1.5 * np.square(moved).sum(), "forces": -3.0 * moved, "stress": np.zeros(6)}


def cells(n: int) -> list[Atoms]:
    found = []
    for k in range(n):
        atoms = bulk("MgO", "rocksalt", a=4.2, cubic=True)
        atoms.info["structure_id"] = f"mgo-{k}"
        found.append(atoms)
    return found


def kinetic(runs) -> tuple[np.ndarray, float]:
    """Kinetic energies over k_B T, the first fifth left out, and degrees of freedom."""
    freedom = runs[0].degrees_of_freedom or 3 * len(runs[0].numbers)
    traces = [record.trace_temperature[len(record.trace_temperature) // 5 :] for record in runs]
    return np.concatenate(traces) / KELVIN * freedom / 2, freedom


def log_ratio_slope(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Slope of the logarithm of the ratio of two densities, the second's over the first's, and its standard error.

    By logistic regression, the maximum of the likelihood.
    """
    x = np.concatenate([first, second])
    of_second = np.repeat([0.0, 1.0], [len(first), len(second)])
    rows = np.stack([np.ones_like(x), (x - x.mean()) / x.std()], axis=1)
    line = np.zeros(2)
    for _ in range(30):  # Newton
        p = special.expit(rows @ line)
        hessian = rows.T @ (rows * (p * (1 - p))[:, None])
        line += np.linalg.solve(hessian, rows.T @ (of_second - p))
    return line[1] / x.std(), np.sqrt(np.linalg.inv(hessian)[1, 1]) / x.std()


def run(potential, n, **options):
    options = {"ensemble": "nvt", "temperature": KELVIN, "timestep": 1.0, "seed": 5, "stop_on": (), **options}
    return simulate(potential, cells(n), **options)


@pytest.mark.parametrize("engine", ["batched", "ase"])
def test_langevin_is_canonical_in_both_engines(eam, engine):
    sizes = {"batched": (eam, 12, 1000), "ase": (Springs, 1, 4000)}
    potential, n, steps = sizes[engine]
    runs = run(potential, n, steps=steps, friction=0.15, trace_interval=40, engine=engine)
    energies, freedom = kinetic(runs)
    assert len(energies) > 75
    assert stats.kstest(energies, stats.gamma(freedom / 2).cdf).pvalue > 1e-3
    width, error = energies.std(ddof=1) / np.sqrt(freedom / 2), np.sqrt((2 + 12 / freedom) / len(energies)) / 2
    assert abs(width - 1) < 4 * error
    for factor in (0.5, 2.0):  # what a wrong temperature of the noise gives is seen with so many points
        assert stats.kstest(energies, stats.gamma(freedom / 2, scale=factor).cdf).pvalue < 1e-6


@pytest.mark.parametrize("engine", ["batched", "ase"])
def test_a_friction_in_a_wrong_unit_is_refused_or_told_and_seen(eam, engine):
    """3/fs is no thermostat; 0.000005/fs hardly is one: a crystal at rest takes half of the kinetic energy."""
    potential = eam if engine == "batched" else Springs
    with pytest.raises(ConfigError, match="friction 3/fs is too strong for steps of 1 fs"):
        run(potential, 1, steps=100, friction=3.0)
    with pytest.warns(UserWarning, match=r"friction 5e-06 1/fs is unusual .*: is the unit right\?"):
        runs = run(potential, 1, steps=2000, friction=5e-6, trace_interval=5, engine=engine)
    verdict, finding = Ensemble().answer({"ensemble": ensemble_fluctuations(runs)})
    assert verdict == "no", finding
    assert "is the unit of friction, or taut, right?" in finding


def test_berendsen_has_the_mean_and_damps_fluctuations(eam):
    """By design; only the mean is asked for."""
    runs = run(eam, 8, ensemble="npt", steps=1500, taut=20.0, taup=500.0, trace_interval=5)
    energies, freedom = kinetic(runs)
    assert energies.mean() == pytest.approx(freedom / 2, rel=0.05)
    assert energies.std() < 0.85 * np.sqrt(freedom / 2)


def test_cell_rescaling_samples_the_isothermal_isobaric_ensemble(eam):
    """Volumes at two pressures differ as their Boltzmann factors do: no elastic constant is needed.

    ``ln p(V; P_2) - ln p(V; P_1)`` is a line of slope ``-(P_2 - P_1) / k_B T`` (Shirts 2013). Volumes 40 steps apart
    are nearly independent here. The ASE engine takes the same steps (``test_integrators_equal_ase.py``).
    """
    pressure, volumes = 0.03, []
    options = {"ensemble": "npt", "barostat": "cell_rescaling", "friction": 0.05, "steps": 1500}
    for each in (0.0, pressure):
        runs = run(eam, 8, pressure=each, trace_interval=40, npt_evaluations=1, **options)
        volumes.append(np.concatenate([r.trace_volume[len(r.trace_volume) // 5 :] for r in runs]))
        energies, freedom = kinetic(runs)
        assert energies.mean() == pytest.approx(freedom / 2, rel=0.1)
    slope, error = log_ratio_slope(*volumes)
    expected = -pressure / (units.kB * KELVIN)
    assert error < 0.2 * abs(expected)  # Berendsen's volumes give 100 times the slope
    assert abs(slope - expected) < 4 * error


def test_an_ideal_gas_has_the_volumes_of_the_isothermal_isobaric_ensemble():
    """``P V / k_B T`` of N atoms without forces has a gamma distribution of shape N + 1, which is exact."""
    n, systems, kt, pressure = 4, 600, units.kB * KELVIN, 0.002
    generators = [np.random.default_rng(k) for k in range(systems)]
    noise = NoiseStream(generators, [n] * systems, of_cells=True)
    length = (5 * kt / pressure) ** (1 / 3)
    gas = Atoms(f"Ar{n}", positions=np.zeros((n, 3)), cell=[length] * 3, pbc=True)
    state = MDState.from_structures([gas] * systems)
    zero = Prediction(torch.zeros(systems), torch.zeros(n * systems, 3), torch.zeros(systems, 3, 3))
    step = CellRescalingStep(
        temperature=KELVIN, friction=0.05 / units.fs, pressure=pressure, taup=200 * units.fs,
        compressibility=1 / pressure, dt=units.fs, noise=noise,
    )  # fmt: skip
    reduced = []
    for k in range(2400):
        step.step(state, zero, lambda _: zero)
        if k >= 800 and k % 400 == 0:
            reduced.append((pressure * torch.linalg.det(state.cells) / kt).numpy())
    values = np.concatenate(reduced)
    assert abs(values.mean() - (n + 1)) < 4 * np.sqrt((n + 1) / len(values))
    assert values.var() == pytest.approx(n + 1, rel=0.15)


def test_a_barostat_in_haste_is_told():
    options = {"ensemble": "npt", "barostat": "cell_rescaling"}
    assert not MDSettings(**options).doubts()
    (doubt,) = MDSettings(taup=100.0, **options).doubts()
    assert "the volume of a stiff material will fluctuate too much" in doubt
    assert "is 0.73 Å³/eV" in doubt
    assert not MDSettings(ensemble="npt", taup=100.0).doubts()


def test_cell_rescaling_needs_its_thermostat():
    options = {"ensemble": "npt", "barostat": "cell_rescaling"}
    with pytest.raises(ConfigError, match="'cell_rescaling' needs a friction above 0"):
        MDSettings(friction=0.0, **options)
    with pytest.raises(ConfigError, match="friction 3/fs is too strong"):
        MDSettings(friction=3.0, **options)
    with pytest.raises(ConfigError, match="barostat must be one of berendsen, cell_rescaling, not 'andersen'"):
        MDSettings(barostat="andersen")
    assert MDSettings(taut=0.01, **options).coupling == ("pressure", "friction", "taup")  # taut is not its own


def test_the_probe_judges_the_volume_of_cell_rescaling(eam):
    """By the bulk modulus: volumes that hardly move are no ensemble; of Berendsen's barostat that is not asked."""
    options = {"ensemble": "npt", "friction": 0.05, "steps": 1500, "trace_interval": 10, "npt_evaluations": 1}
    runs = run(eam, 2, barostat="cell_rescaling", **options)
    table = ensemble_fluctuations(runs)
    variance = float(np.square(table["volume_std"]).mean())
    modulus = units.kB * KELVIN * table["volume"].mean() / variance / units.GPa  # that of these fluctuations

    def verdict(table, factor):
        moduli = {"structure_id": table["structure_id"], "bulk_modulus": factor * modulus, "ok": True}
        return Ensemble().answer({"ensemble": table, "eos": pd.DataFrame(moduli)})

    assert verdict(table, 1.0)[0] == "yes"
    assert verdict(table, 0.1)[0] == "no"
    assert "is taup long enough" in verdict(table, 0.1)[1]
    assert verdict(table.assign(barostat="berendsen"), 0.1)[0] == "yes"


def test_conditions_name_the_barostat_that_is_not_the_default():
    row = {"ensemble": "npt", "temperature": 600.0, "timestep": 1.0}
    assert condition_words({**row, "barostat": "berendsen"}) == condition_words(row) == "NPT, 600 K, 1 fs"
    assert condition_words({**row, "barostat": "cell_rescaling"}) == "NPT, 600 K, 1 fs, cell rescaling"
