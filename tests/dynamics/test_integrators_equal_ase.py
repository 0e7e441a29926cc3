"""Step by step, the batched engine does what ASE's integrators do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import units
from ase.md.langevin import Langevin
from ase.md.nptberendsen import NPTBerendsen
from ase.md.verlet import VelocityVerlet

from mdl_physpretrain.dynamics.batched_engine import BatchedRun
from mdl_physpretrain.dynamics.settings import MDSettings
from mdl_physpretrain.dynamics.state import maxwell_velocities
from mdl_physpretrain.potentials import ASECalculator

STEPS = 30
OPTIONS = {
    "nvt": {"friction": 0.05},
    "nve": {},
    "npt": {"pressure": 0.02, "taut": 50.0, "taup": 200.0},
}


def reference(ensemble: str, atoms, rng: np.random.Generator):
    dt, options = 2.0 * units.fs, OPTIONS[ensemble]
    if ensemble == "nvt":
        return Langevin(atoms, dt, temperature_K=900, friction=options["friction"] / units.fs, fixcm=False, rng=rng)
    if ensemble == "nve":
        return VelocityVerlet(atoms, dt)
    return NPTBerendsen(
        atoms,
        dt,
        temperature_K=900,
        pressure_au=options["pressure"],
        taut=options["taut"] * units.fs,
        taup=options["taup"] * units.fs,
        compressibility_au=4.57e-5 / (1e5 * units.Pascal),
    )


@pytest.mark.parametrize("ensemble", ["nvt", "nve", "npt"])
def test_trajectories_equal_ase(ensemble, eam, mgo):
    rngs = [np.random.default_rng(10 + k) for k in range(len(mgo))]
    for atoms, rng in zip(mgo, rngs, strict=True):
        atoms.set_velocities(maxwell_velocities(atoms.get_masses(), 600.0, rng))
    twins = [atoms.copy() for atoms in mgo]
    twin_rngs = [np.random.default_rng(10 + k) for k in range(len(mgo))]
    for rng, atoms in zip(twin_rngs, twins, strict=True):
        rng.standard_normal((len(atoms), 3))  # the velocities' draw
    settings = MDSettings(ensemble=ensemble, temperature=900, timestep=2.0, steps=STEPS, **OPTIONS[ensemble])
    integrators = []
    for atoms, rng in zip(twins, twin_rngs, strict=True):
        atoms.calc = ASECalculator(eam)
        integrators.append(reference(ensemble, atoms, rng))
    start = np.concatenate([a.positions for a in mgo])
    with torch.no_grad():
        run = BatchedRun(eam, mgo, rngs, settings, skin=0.5)
        for _ in range(STEPS):
            run.step()
            for integrator in integrators:
                integrator.step()
            positions = np.concatenate([a.positions for a in twins])
            velocities = np.concatenate([a.get_velocities() for a in twins])
            np.testing.assert_allclose(run.state.positions.numpy(), positions, rtol=1e-8, atol=1e-10)
            np.testing.assert_allclose(run.state.velocities.numpy(), velocities, rtol=1e-8, atol=1e-10)
            np.testing.assert_allclose(run.state.cells.numpy(), [a.cell.array for a in twins], rtol=1e-10, atol=1e-12)
            energies = [a.get_potential_energy() for a in twins]
            np.testing.assert_allclose(run.now.energy.numpy(), energies, rtol=1e-8)
    assert np.abs(positions - start).max() > 0.1  # something happened
    if ensemble == "npt":
        assert abs(twins[0].cell.volume / 4.2**3 - 1) > 1e-3
