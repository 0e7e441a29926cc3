"""The ensembles have the energy, temperature and pressure that was asked for."""

from __future__ import annotations

import numpy as np
import torch

from mdl_physpretrain.dynamics import simulate
from mdl_physpretrain.dynamics.batched_engine import BatchedRun
from mdl_physpretrain.dynamics.settings import MDSettings
from mdl_physpretrain.dynamics.state import maxwell_velocities


def kinetic(state) -> np.ndarray:
    return (0.5 * state.per_structure((state.masses * state.velocities.square()).sum(1))).numpy()


def test_nve_conserves_energy(eam, mgo):
    for k, atoms in enumerate(mgo):
        rng = np.random.default_rng(k)
        atoms.set_velocities(rng.normal(scale=0.01, size=(len(atoms), 3)))

    def drift(timestep: float) -> np.ndarray:
        settings = MDSettings(ensemble="nve", timestep=timestep, steps=int(100 / timestep))
        with torch.no_grad():
            run = BatchedRun(eam, mgo, [None] * len(mgo), settings)
            totals = [run.now.energy.numpy() + kinetic(run.state)]
            spread = [kinetic(run.state)]
            for _ in range(settings.steps):
                run.step()
                totals.append(run.now.energy.numpy() + kinetic(run.state))
                spread.append(kinetic(run.state))
        assert np.ptp(spread, axis=0).min() > 0.05  # eV exchanged with the potential
        return np.abs(np.array(totals) - totals[0]).max(axis=0)

    coarse, fine = drift(2.0), drift(1.0)
    assert (fine < 0.002).all()  # eV per cell
    assert (fine < coarse / 3).all()  # the error of velocity Verlet is of second order


def test_langevin_reaches_the_temperature(eam, mgo):
    copies = []
    for repeat in range(3):
        for atoms in mgo:
            atoms = atoms.copy()
            atoms.info["structure_id"] += f"-{repeat}"
            copies.append(atoms)
    runs = simulate(
        eam,
        copies,
        temperature=700,
        timestep=2.0,
        steps=300,
        friction=0.05,
        initial_velocities="keep",  # starts at 0 K
        trace_interval=5,
        stop_on=(),
        seed=3,
    )
    assert runs[0].trace_temperature[0] == 0
    means = np.array([record.temperature_mean for record in runs])
    error = means.std(ddof=1) / np.sqrt(len(means))
    assert error < 30
    assert abs(means.mean() - 700) < 3 * error


def test_berendsen_reaches_the_pressure(eam, mgo):
    target = 0.03
    settings = MDSettings(
        ensemble="npt", temperature=300, pressure=target, steps=300, taut=100.0, taup=2000.0, timestep=2.0
    )
    rng = np.random.default_rng(0)
    for atoms in mgo:
        atoms.set_velocities(maxwell_velocities(atoms.get_masses(), 300, rng))
    pressures = []
    with torch.no_grad():
        run = BatchedRun(eam, mgo, [None] * len(mgo), settings)
        for _ in range(settings.steps):
            run.step()
            volumes = torch.linalg.det(run.state.cells).numpy()
            virial = run.now.stress.diagonal(dim1=1, dim2=2).sum(1).numpy()
            pressures.append(2 * kinetic(run.state) / (3 * volumes) - virial / 3)
    pressures = np.array(pressures)
    assert np.abs(pressures[:10].mean(0) - target).min() > 0.01  # it started elsewhere
    late = pressures[150:].mean(0)
    assert np.abs(late - target).max() < 0.003
