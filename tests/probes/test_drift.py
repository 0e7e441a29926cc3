import numpy as np
import pandas as pd
import pytest
from ase import units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.md.verlet import VelocityVerlet

from mdl_physpretrain.dynamics import simulate
from mdl_physpretrain.dynamics.records import Runs
from mdl_physpretrain.dynamics.state import maxwell_velocities
from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.potentials import EAM
from mdl_physpretrain.probes.energy_drift import MIN_TIME, EnergyDrift, nve_drift
from mdl_physpretrain.structures.randomness import trajectory_rng


def crystal(name="cu-0"):
    atoms = bulk("Cu", "fcc", a=3.6, cubic=True)
    atoms.info["structure_id"] = name
    return atoms


def run(potential=EMT, timestep=2.0, steps=60, **options):
    options = {"ensemble": "nve", "temperature": 600.0, "trace_interval": 3, "seed": 3, "stop_on": ()} | options
    return simulate(potential, [crystal()], timestep=timestep, steps=steps, **options)


def test_total_energy_of_an_independent_loop():
    atoms = crystal()
    atoms.set_velocities(maxwell_velocities(atoms.get_masses(), 600.0, trajectory_rng(3, "cu-0")))
    atoms.calc = EMT()
    dynamics = VelocityVerlet(atoms, 2.0 * units.fs)
    time, total = [], []
    for step in range(0, 61, 3):
        time.append(step * 0.002)
        total.append(1000 * (atoms.get_potential_energy() + atoms.get_kinetic_energy()) / len(atoms))
        dynamics.run(3)
    slope, intercept = np.polyfit(time, total, 1)
    residual = np.sqrt(np.mean((np.array(total) - np.polyval([slope, intercept], time)) ** 2))
    row = nve_drift(run()).iloc[0]
    assert row["drift"] == pytest.approx(slope, rel=1e-5, abs=1e-6)
    assert row["fluctuation"] == pytest.approx(residual, rel=1e-5)
    assert (row["structure_id"], row["n_atoms"], row["ps"], row["steps_done"]) == ("cu-0", 4, pytest.approx(0.12), 60)


def test_both_engines_give_one_answer():
    model = EAM(["Cu"], cutoff=4.5, n_basis=1).double()
    found = [nve_drift(run(model, engine=engine, temperature=100.0)).iloc[0] for engine in ("ase", "batched")]
    assert found[0]["fluctuation"] > 0
    for column in ("drift", "fluctuation"):
        assert found[0][column] == pytest.approx(found[1][column], rel=1e-4, abs=1e-7)


def test_longer_steps_fluctuate_quadratically_more_and_far_too_long_ones_drift():
    rows = [nve_drift(run(timestep=dt, steps=int(240 / dt))).iloc[0] for dt in (2.0, 4.0)]
    assert rows[1]["fluctuation"] / rows[0]["fluctuation"] == pytest.approx(4, rel=0.4)
    broken = nve_drift(run(timestep=60.0, steps=40, trace_interval=2)).iloc[0]
    assert abs(broken["drift"]) > 20 * abs(rows[0]["drift"])


def test_known_line():
    record = run(steps=50, trace_interval=5)[0]
    time = record.trace_step * 0.002
    wave = np.where(np.arange(len(time)) % 2, 1.0, -1.0)
    record.trace_temperature[:] = 0
    record.trace_energy[:] = 4 * (0.003 * time + 0.001 * wave)
    row = nve_drift(Runs([record], settings={"ensemble": "nve", "timestep": 2.0, "steps": 50, "trace_interval": 5}))
    expected = np.polyfit(time, 3 * time + wave, 1)
    assert row["drift"].item() == pytest.approx(expected[0])
    assert row["fluctuation"].item() == pytest.approx(np.std(3 * time + wave - np.polyval(expected, time)))


def test_a_trajectory_that_ended_early_has_no_drift():
    runs = run()
    record = runs[0]
    for name in ("trace_step", "trace_temperature", "trace_energy", "trace_volume"):
        setattr(record, name, getattr(record, name)[:4])
    row = nve_drift(runs).iloc[0]
    assert np.isnan(row["drift"])
    assert np.isnan(row["fluctuation"])
    assert row["ps"] == pytest.approx(0.018)


def test_other_ensembles_and_short_traces_are_refused():
    with pytest.raises(ConfigError, match="'nvt'"):
        nve_drift(run(ensemble="nvt", steps=6))
    with pytest.raises(ConfigError, match="5 points"):
        nve_drift(run(steps=12))


def answer(**columns):
    """Of trajectories with a small drift that the energy's fluctuation explains, but for some columns."""
    row = {"structure_id": "cu", "n_atoms": 4, "drift": 0.1, "fluctuation": 0.2, "ps": MIN_TIME, "steps_done": 500}
    return EnergyDrift().answer({"nve": pd.DataFrame({**{key: [value] * 2 for key, value in row.items()}, **columns})})


def test_what_is_too_short_to_tell_is_not_judged():
    assert answer()[0] == "yes"
    verdict, words = answer(ps=[MIN_TIME, 0.1])
    assert verdict == "not judged"
    assert "0.1 ps are too short to tell, 1 ps are needed" in words
    assert answer(drift=[40.0, 0.1], ps=[0.1, 0.1])[0] == "no", "4 meV/atom are ten times what the energy fluctuates by"
    assert answer(drift=[np.nan, 0.1], ps=[0.01, MIN_TIME])[0] == "no", "it ended early"


def test_a_picosecond_of_steps_is_one():
    for steps, verdict in ((300, "yes"), (297, "not judged")):  # of 3.333 fs: 1 and 0.99 ps
        drift = nve_drift(run(steps=steps, timestep=10 / 3, trace_interval=3))
        assert drift["ps"].item() == pytest.approx(steps / 300)
        assert EnergyDrift().answer({"nve": drift})[0] == verdict
