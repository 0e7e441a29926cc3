"""Mean squared displacement and diffusion against walks whose answer is known."""

import numpy as np
import pandas as pd
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from mdl_physpretrain.dynamics import simulate
from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.probes.base import Simulated
from mdl_physpretrain.probes.diffusion import Diffusion, diffusion_coefficients, mean_squared_displacement


def frames_of(positions, symbols, cell=5.0, wrap=False):
    frames = []
    for k, at in enumerate(positions):
        atoms = Atoms(symbols, at, cell=np.eye(3) * cell, pbc=True, info={"time_fs": 10.0 * k})
        if wrap:
            atoms.wrap()
        frames.append(atoms)
    return frames


@pytest.fixture
def walk():
    """2000 steps of 0.1 ps of 40 Li with D = 0.3 Å²/ps beside 20 O that stay."""
    rng = np.random.default_rng(0)
    steps = np.zeros((2000, 60, 3))
    steps[:, :40] = rng.normal(scale=np.sqrt(2 * 0.3 * 0.1), size=(2000, 40, 3))
    return frames_of(steps.cumsum(axis=0), ["Li"] * 40 + ["O"] * 20)


def test_random_walk_has_the_coefficient_it_was_made_with(walk):
    msd = mean_squared_displacement(walk, interval=0.1, blocks=4, fix_centre=False)
    table = diffusion_coefficients(msd).set_index("element")
    li = table.loc["Li"]
    assert abs(li["diffusion"] - 0.3) < max(3 * li["diffusion_error"], 0.02)
    assert 0 < li["diffusion_error"] < 0.05
    assert li["diffusion_cm2_s"] == pytest.approx(1e-4 * li["diffusion"])
    assert li["exponent"] == pytest.approx(1, abs=0.15)
    assert table.loc["O", "diffusion"] == pytest.approx(0, abs=1e-12)
    assert (msd["t"].min(), msd["t"].max()) == (pytest.approx(0.1), pytest.approx(25))


def test_flight_at_constant_velocity_is_quadratic():
    v = np.array([[1.0, 2.0, -2.0], [-1.0, -2.0, 2.0]])  # Å/ps, centre of mass at rest
    t = 0.05 * np.arange(41)
    msd = mean_squared_displacement(frames_of(t[:, None, None] * v, "H2"), interval=0.05)
    assert msd["msd"].to_numpy() == pytest.approx(9 * msd["t"].to_numpy() ** 2)
    assert diffusion_coefficients(msd)["exponent"].item() == pytest.approx(2)
    drifting = frames_of(t[:, None, None] * v + 7 * t[:, None, None], "H2")
    assert mean_squared_displacement(drifting, interval=0.05)["msd"].to_numpy() == pytest.approx(msd["msd"].to_numpy())
    free = mean_squared_displacement(drifting, interval=0.05, fix_centre=False)
    assert free["msd"].iloc[-1] > msd["msd"].iloc[-1] + 100


def test_wrapped_positions_are_unwrapped(walk):
    positions = [a.positions for a in walk[:200]]
    expected = mean_squared_displacement(walk[:200], interval=0.1)
    wrapped = frames_of(positions, walk[0].symbols, wrap=True)
    found = mean_squared_displacement(wrapped, interval=0.1, wrapped=True)
    pd.testing.assert_frame_equal(found, expected)
    assert mean_squared_displacement(wrapped, interval=0.1)["msd"].max() < expected["msd"].max()


def test_every_time_origin_counts():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(7, 2, 3))
    msd = mean_squared_displacement(frames_of(x, "HO"), interval=1.0, fix_centre=False)
    for element, atom in (("H", 0), ("O", 1)):
        for lag in (1, 2, 3):
            direct = np.mean([np.sum((x[k + lag, atom] - x[k, atom]) ** 2) for k in range(7 - lag)])
            row = msd[(msd["element"] == element) & (msd["t"] == lag)]
            assert row["msd"].item() == pytest.approx(direct)


def test_wrong_input():
    frames = frames_of(np.zeros((5, 1, 3)), "H")
    with pytest.raises(ConfigError, match="blocks must be at least 1"):
        mean_squared_displacement(frames, interval=1.0, blocks=0)
    with pytest.raises(StructureError, match="too few"):
        mean_squared_displacement(frames, interval=1.0, blocks=3)
    with pytest.raises(StructureError, match="not those of the first"):
        mean_squared_displacement([*frames, Atoms("O")], interval=1.0)


def test_probe_of_trajectories_on_disk(tmp_path):
    """A solid rattles: a small exponent, and an answer that says so."""
    cells = []
    for k in range(2):
        atoms = bulk("Cu", cubic=True)
        atoms.info["structure_id"] = f"cu{k}"
        cells.append(atoms)
    simulate(EMT(), cells, steps=400, timestep=5.0, trajectory_dir=tmp_path, trajectory_interval=4)
    tables = Diffusion(diffusion_blocks=1).tables(Simulated(cells, trajectories=tmp_path))
    values = tables["diffusion"].set_index("structure_id")
    assert list(values.index) == ["cu0", "cu1", "all"]
    assert values.loc["all", "diffusion"] == pytest.approx(values["diffusion"].iloc[:2].mean())
    assert values.loc["all", "diffusion_error"] == pytest.approx(values["diffusion"].iloc[:2].sem())
    assert values["n_frames"].tolist() == [101] * 3
    assert tables["msd"]["t"].min() == pytest.approx(0.02)
    assert (tables["msd"]["msd"] < 0.3).all()
    verdict, words = Diffusion().answer(tables)
    assert verdict == "value"
    assert "rattles" in words


def test_a_trajectory_that_ended_at_once_has_no_coefficient(tmp_path):
    atoms = bulk("Cu", cubic=True)
    atoms.info["structure_id"] = "cu"
    simulate(EMT(), [atoms], steps=0, trajectory_dir=tmp_path, trajectory_interval=4)
    tables = Diffusion().tables(Simulated([atoms], trajectories=tmp_path))
    assert tables["diffusion"]["diffusion"].isna().all()
    assert not len(tables["msd"])
    assert Diffusion().answer(tables) is None
