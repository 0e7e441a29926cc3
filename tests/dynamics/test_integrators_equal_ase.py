"""Step by step, the batched engine does what ASE's integrators do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.md.langevin import Langevin
from ase.md.nptberendsen import NPTBerendsen
from ase.md.verlet import VelocityVerlet

from mdl_physpretrain.dynamics import simulate
from mdl_physpretrain.dynamics.ase_engine import CellRescaling
from mdl_physpretrain.dynamics.batched_engine import BatchedRun
from mdl_physpretrain.dynamics.settings import MDSettings
from mdl_physpretrain.dynamics.state import maxwell_velocities
from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.potentials import ASECalculator

STEPS = 30
OPTIONS = {
    "nvt": {"friction": 0.05},
    "nve": {},
    "npt": {"pressure": 0.02, "taut": 50.0, "taup": 200.0},
}
OPTIONS["npt, one evaluation"] = OPTIONS["npt"] | {"npt_evaluations": 1}
RESCALING = {"pressure": 0.02, "barostat": "cell_rescaling", "friction": 0.05, "taup": 200.0}
OPTIONS["npt, cell rescaling"] = RESCALING
OPTIONS["npt, cell rescaling, one evaluation"] = RESCALING | {"npt_evaluations": 1}


def reference(ensemble: str, atoms, rng: np.random.Generator):
    dt, options = 2.0 * units.fs, OPTIONS[ensemble]
    if ensemble == "nvt":
        return Langevin(atoms, dt, temperature_K=900, friction=options["friction"] / units.fs, fixcm=False, rng=rng)
    if ensemble == "nve":
        return VelocityVerlet(atoms, dt)
    if "barostat" in options:  # ASE has none of this kind: that of our ASE engine
        return CellRescaling(atoms, MDSettings(ensemble="npt", temperature=900, timestep=2.0, **options), rng)
    return NPTBerendsen(
        atoms,
        dt,
        temperature_K=900,
        pressure_au=options["pressure"],
        taut=options["taut"] * units.fs,
        taup=options["taup"] * units.fs,
        compressibility_au=4.57e-5 / (1e5 * units.Pascal),
    )


@pytest.mark.parametrize("ensemble", OPTIONS)
def test_trajectories_equal_ase(ensemble, eam, mgo):
    rngs = [np.random.default_rng(10 + k) for k in range(len(mgo))]
    for atoms, rng in zip(mgo, rngs, strict=True):
        atoms.set_velocities(maxwell_velocities(atoms.get_masses(), 600.0, rng))
    twins = [atoms.copy() for atoms in mgo]
    twin_rngs = [np.random.default_rng(10 + k) for k in range(len(mgo))]
    for rng, atoms in zip(twin_rngs, twins, strict=True):
        rng.standard_normal((len(atoms), 3))  # the velocities' draw
    settings = MDSettings(ensemble=ensemble[:3], temperature=900, timestep=2.0, steps=STEPS, **OPTIONS[ensemble])
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
                once = "npt_evaluations" in OPTIONS[ensemble] and "barostat" not in OPTIONS[ensemble]
                integrator.step(integrator.atoms.get_forces()) if once else integrator.step()
            positions = np.concatenate([a.positions for a in twins])
            velocities = np.concatenate([a.get_velocities() for a in twins])
            np.testing.assert_allclose(run.state.positions.numpy(), positions, rtol=1e-8, atol=1e-10)
            np.testing.assert_allclose(run.state.velocities.numpy(), velocities, rtol=1e-8, atol=1e-10)
            np.testing.assert_allclose(run.state.cells.numpy(), [a.cell.array for a in twins], rtol=1e-10, atol=1e-12)
            energies = [a.get_potential_energy() for a in twins]
            np.testing.assert_allclose(run.now.energy.numpy(), energies, rtol=1e-8)
    assert np.abs(positions - start).max() > 0.1  # something happened
    if ensemble.startswith("npt"):
        assert abs(twins[0].cell.volume / 4.2**3 - 1) > 1e-3


class Counted(EMT):
    """Counts its evaluations."""

    evaluations = 0

    def calculate(self, *args, **kwargs) -> None:
        type(self).evaluations += 1
        super().calculate(*args, **kwargs)


@pytest.mark.parametrize("evaluations", [1, 2])
def test_evaluations_per_step_of_the_barostat(evaluations, monkeypatch) -> None:
    monkeypatch.setattr(Counted, "evaluations", 0)
    copper = bulk("Cu", cubic=True)
    copper.rattle(0.05, seed=0)
    options = {"ensemble": "npt", "temperature": 300.0, "steps": 40, "npt_evaluations": evaluations}
    ended = simulate(Counted(), [copper], **options)[0].final_atoms()
    assert Counted.evaluations == 1 + evaluations * 40
    other = simulate(EMT(), [copper], **options | {"npt_evaluations": 3 - evaluations})[0].final_atoms()
    assert 0 < np.abs(ended.positions - other.positions).max() < 1e-3


def test_results_of_versions_without_the_option_stay_valid() -> None:
    stored = "3d52a7f84b288930d368724121df59969c72fddbdfa7d04fbc1e1ac0e0855118"
    assert MDSettings(ensemble="npt").fingerprint("p") == stored
    assert MDSettings(ensemble="npt", npt_evaluations=1).fingerprint("p") != stored
    assert MDSettings(ensemble="npt", barostat="cell_rescaling").fingerprint("p") != stored
    for wrong in (0, 3, True, "2"):
        with pytest.raises(ConfigError, match="npt_evaluations must be 1 or 2"):
            MDSettings(npt_evaluations=wrong)
