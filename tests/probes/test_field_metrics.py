"""The field's figures: diatomic metrics, bonds, invariance, equation of state, ramps, fluctuations."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from ase import units
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from matplotlib.figure import Figure

from mdl_physpretrain.dynamics.records import RunRecord, Runs
from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.probes.bond_smoothness import bond_curve, bond_flags, shortest_bonds
from mdl_physpretrain.probes.diatomic_metrics import (
    COLUMNS,
    ML_PEG_DISTANCES,
    DiatomicMetrics,
    arena_distances,
    diatomic_metrics,
)
from mdl_physpretrain.probes.ensemble import Ensemble, ensemble_fluctuations
from mdl_physpretrain.probes.equation_of_state import eos_curve, eos_metrics
from mdl_physpretrain.probes.invariance import invariance_errors
from mdl_physpretrain.probes.page import ArmStyle
from mdl_physpretrain.probes.pair_distribution import rdf_error
from mdl_physpretrain.probes.ramps import ramp


class Analytic(Calculator):
    """Harmonic in the volume, with a bulk modulus of 100 GPa and 20 Å³ per atom; may prefer the x axis."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 - ASE's name and type
    tilt, square = 0.0, False

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        n = len(self.atoms)
        per_atom = self.atoms.cell.volume / n
        energy = n * 50 * units.GPa * (per_atom - 20) ** 2 / 20
        energy += self.tilt * abs(self.atoms.cell[0, 1]) + (1e-3 * n**2 if self.square else 0)
        self.results = {"energy": energy, "forces": np.zeros((n, 3))}


def test_metrics_of_a_morse_curve_with_and_without_a_bump():
    r = np.linspace(0.8, 6.0, 521)
    x = np.exp(-1.5 * (r - 2.0))
    energy, force = 2.0 * (x**2 - 2 * x), 2.0 * 1.5 * 2 * (x**2 - x)
    smooth = diatomic_metrics(r, energy, force)
    assert smooth["force_flips"] == smooth["energy_flips"] == smooth["energy_minima"] == 1
    assert smooth["tortuosity"] == pytest.approx(1)
    assert smooth["spearman_repulsion"] == pytest.approx(-1)
    assert smooth["spearman_attraction"] == pytest.approx(1)
    assert smooth["conservation_deviation"] < 0.03
    shuffled = np.random.default_rng(0).permutation(len(r))
    assert diatomic_metrics(r[shuffled], energy[shuffled], force[shuffled]) == smooth

    bump = 0.5 * np.exp(-(((r - 3.5) / 0.2) ** 2))
    bumpy = diatomic_metrics(r, energy + bump, force)  # its force knows nothing of the bump
    assert bumpy["energy_flips"] == 3
    assert bumpy["energy_minima"] == 2
    barrier = (energy + bump)[r > 3.4].max() - (energy + bump)[r > 3.5].min()
    assert bumpy["tortuosity"] == pytest.approx(1 + 2 * barrier / (energy[0] + energy[-1] - 2 * energy.min()), rel=0.01)
    assert bumpy["conservation_deviation"] > 3 * smooth["conservation_deviation"]
    assert bumpy["spearman_attraction"] < 0.99
    with pytest.raises(ConfigError, match="3 finite points"):
        diatomic_metrics([1, 2, 3], [0, np.nan, 0], [0, 0, 0])


def test_distances_are_those_of_the_peers():
    assert (ML_PEG_DISTANCES[0], ML_PEG_DISTANCES[-1], len(ML_PEG_DISTANCES)) == (0.18, 6.0, 100)
    r = arena_distances("Cu-Cu")
    assert r[0] == pytest.approx(0.9 * 1.32)
    assert r[-1] == pytest.approx(3.1 * 2.38)
    assert len(r) == int((r[-1] - r[0]) / 0.01)
    assert not DiatomicMetrics().is_applicable(frozenset())
    assert DiatomicMetrics(wide_pairs="homonuclear").is_applicable(frozenset())


def test_a_bond_with_a_step_is_flagged_and_a_smooth_one_is_not():
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    bonds = shortest_bonds(atoms)
    assert list(bonds) == ["Cu-Cu"]
    curve = bond_curve(LennardJones(sigma=2.28, epsilon=0.4, rc=7.0, smooth=True), atoms, bonds["Cu-Cu"])
    assert bond_flags(curve)["ok"], bond_flags(curve)
    assert curve["energy"].iloc[0] > 3
    step = curve.assign(energy=curve["energy"] + 1.0 * (curve["length"] > 0.9))
    assert bond_flags(step)["discontinuity"]
    fallen = curve.assign(energy=np.where(curve["length"] < 0.75, curve["energy"] - 20, curve["energy"]))
    assert bond_flags(fallen)["hole"]
    assert bond_flags(curve.assign(force=1.2 * curve["force"] + 0.2))["not_conservative"]


def test_invariance_of_emt_and_of_potentials_that_have_none():
    atoms = bulk("Cu", cubic=True)
    errors = invariance_errors(EMT(), atoms).set_index("test")
    assert errors["ok"].all(), errors
    assert list(errors.index) == ["rotation", "translation", "order", "supercell", "two copies", "far atom"]
    tilted, squared = Analytic(), Analytic()
    tilted.tilt, squared.square = 1.0, True
    assert not invariance_errors(tilted, atoms).set_index("test").loc["rotation", "ok"]
    assert not invariance_errors(squared, atoms).set_index("test").loc["supercell", "ok"]


def test_equation_of_state_of_a_known_modulus():
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(np.eye(3) * (4 * 19.0) ** (1 / 3), scale_atoms=True)
    found = eos_metrics(eos_curve(Analytic(), atoms))
    assert found["ok"]
    assert found["volume"] == pytest.approx(20, rel=0.01)
    assert found["bulk_modulus"] == pytest.approx(100, rel=0.05)
    assert found["energy_flips"] == 1
    assert found["tortuosity"] == pytest.approx(1)
    assert found["spearman_compression_energy"] == pytest.approx(-1)
    curve = eos_curve(Analytic(), atoms)
    curve["energy"] += 0.5 * np.exp(-(((curve["volume_ratio"] - 0.85) / 0.02) ** 2))
    assert not eos_metrics(curve)["ok"]


def test_a_ramp_tells_the_temperature_and_the_pressure_of_a_failure():
    atoms = bulk("Ar", cubic=True, a=5.3)
    atoms.info["structure_id"] = "argon"
    potential = LennardJones(sigma=3.4, epsilon=0.01, rc=6.0, smooth=True)
    held = ramp(potential, [atoms], length=0.2, timestep=2.0, temperature=(10.0, 30.0)).iloc[0]
    assert not held["failed"]
    assert held["temperature"] == 30.0
    assert held["time"] == pytest.approx(0.2)

    class Free(Analytic):
        """No forces: atoms fly into each other."""

    lost = ramp(Free(), [atoms], length=10.0, timestep=10.0).iloc[0]
    assert lost["failed"]
    assert lost["reason"] == "overlap"
    assert 300 <= lost["temperature"] < 3000
    assert lost["time"] < 10


def record(temperature: np.ndarray, freedom: int) -> RunRecord:
    """A trajectory with that trace of the temperature."""
    n = len(temperature)
    fields = {
        "structure_id": "a", "formula": "Cu", "steps_done": n, "steps": n, "verdict": None,
        "trace_step": np.arange(n), "trace_temperature": temperature, "trace_energy": np.zeros(n),
        "trace_volume": np.ones(n), "numbers": np.full(freedom // 3, 29), "positions": np.zeros((freedom // 3, 3)),
        "velocities": np.zeros((freedom // 3, 3)), "cell": np.eye(3), "pbc": np.ones(3, bool),
        "degrees_of_freedom": freedom,
    }  # fmt: skip
    return RunRecord(**fields)


@pytest.mark.parametrize(("factor", "shift", "verdict"), [(1.0, 0.0, "yes"), (0.4, 0.0, "no"), (1.0, 60.0, "no")])
def test_fluctuations_of_a_gamma_distribution_are_right_and_damped_ones_are_not(factor, shift, verdict):
    rng = np.random.default_rng(3)
    freedom, kelvin = 48, 300.0
    exact = rng.gamma(freedom / 2, 2 * kelvin / freedom, size=1000)
    temperature = kelvin + factor * (exact - kelvin) + shift
    runs = Runs([record(temperature, freedom)], settings={"ensemble": "nvt", "temperature": kelvin})
    table = ensemble_fluctuations(runs)
    assert table["kinetic_ratio"].iloc[0] == pytest.approx(factor, rel=0.1)
    answer = Ensemble(ensemble_fluctuations=True).answer({"ensemble": table})
    assert answer[0] == verdict
    short = Runs([record(temperature[:10], freedom)], settings=runs.settings)
    assert Ensemble().answer({"ensemble": ensemble_fluctuations(short)})[0] == "not judged"
    with pytest.raises(ConfigError, match="nve"):
        ensemble_fluctuations(Runs([], settings={"ensemble": "nve"}))


def test_matbench_normalisation_of_the_rdf_error():
    r = np.linspace(0.05, 5.95, 60)
    reference = pd.DataFrame({"pair": "Cu-Cu", "r": r, "g": 1 + np.sin(r)})
    shifted = reference.assign(g=1 + 0.5 * np.sin(r))
    assert rdf_error(shifted, reference)["error_matbench"].tolist() == pytest.approx([50, 50])
    gas = reference.assign(g=1.0)
    assert rdf_error(gas, reference)["error_matbench"].tolist() == pytest.approx([100, 100])
    assert rdf_error(reference, gas)["error_matbench"].tolist() == [100, 100], "nothing to compare with"


def test_the_axis_of_wide_curves_has_plain_numbers() -> None:
    """Figures do not typeset mathematics, which logarithmic axes write their numbers in."""
    r = np.linspace(0.5, 6.0, 50)
    names = {"arm": "a", "seed": 0, "pair": "Cu-Cu", "distances": "ML-PEG"}
    curve = pd.DataFrame({**names, "r": r, "energy": 500 / r**6 - 3})
    metrics = pd.DataFrame({"arm": ["a"], "distances": ["ML-PEG"], **{key: [1.0] for key in COLUMNS}})
    part = DiatomicMetrics().page({"wide_diatomics": curve, "diatomic_metrics": metrics}, ["a"], "Arm")
    canvas = Figure()
    ax = canvas.add_subplot()
    part.figure({"a": ArmStyle("red", "-", "o", "")}).panels[0].paint(ax)
    canvas.draw_without_rendering()
    labels = [tick.get_text() for tick in ax.get_yticklabels()]
    assert "1000" in labels
    assert not any("$" in text for text in labels)
