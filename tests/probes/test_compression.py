import numpy as np
import pandas as pd
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.lj import LennardJones

from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.potentials import EAM
from mdl_physpretrain.probes.compression import SCALES, compression_curve, compression_flags

FLAGS = ("collapse", "discontinuity")


def raised(flags):
    return {name for name in FLAGS if flags[name]}


def table(energy, scale=SCALES):
    return pd.DataFrame({"scale": scale, "energy_per_atom": energy})


def birch(s):
    return 4.0 * (s**-6 - 2 * s**-3)


def fcc_energy(a, reach):
    """Lennard-Jones energy per atom (sigma 2.5, epsilon 0.05) by shells of the fcc lattice."""
    k = np.arange(-8, 9)
    points = np.stack(np.meshgrid(k, k, k), -1).reshape(-1, 3)
    points = points[points.sum(1) % 2 == 0] * a / 2
    r = np.linalg.norm(points, axis=1)
    r = r[(r > 0) & (r < reach)]
    shift = (2.5 / reach) ** 12 - (2.5 / reach) ** 6
    return 0.5 * (4 * 0.05 * ((2.5 / r) ** 12 - (2.5 / r) ** 6 - shift)).sum()


def test_lennard_jones_fcc_by_lattice_sum():
    atoms = bulk("Ar", "fcc", a=3.9, cubic=True)
    curve = compression_curve(LennardJones(sigma=2.5, epsilon=0.05, rc=9.0), atoms, SCALES[::5])
    expected = [fcc_energy(3.9 * s, 9.0) - fcc_energy(3.9, 9.0) for s in curve["scale"]]
    np.testing.assert_allclose(curve["energy_per_atom"], expected, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(curve["min_distance"], 3.9 / np.sqrt(2) * curve["scale"])
    np.testing.assert_allclose(curve["max_force"], 0, atol=1e-6)
    assert len(SCALES) == 36
    assert (SCALES[0], SCALES[-1]) == (1.05, 0.7)


def test_a_sound_eam_does_not_collapse_and_its_energy_is_the_calculators(eam, mgo):
    curve = compression_curve(eam, mgo[0])
    flags = compression_flags(curve)
    assert flags["ok"] is True
    assert flags["end_energy"] > 1
    at_one = curve.loc[np.isclose(curve["scale"], 1.0)].iloc[0]
    assert at_one["energy_per_atom"] == pytest.approx(0, abs=1e-9)
    atoms = mgo[0].copy()
    atoms.calc = eam_calculator(eam)
    assert at_one["max_force"] == pytest.approx(np.linalg.norm(atoms.get_forces(), axis=1).max())
    atoms.set_cell(atoms.cell * 0.8, scale_atoms=True)
    energy = atoms.get_potential_energy()
    atoms.set_cell(atoms.cell / 0.8, scale_atoms=True)
    expected = (energy - atoms.get_potential_energy()) / len(atoms)
    found = curve.loc[np.isclose(curve["scale"], 0.8), "energy_per_atom"]
    assert float(found.iloc[0]) == pytest.approx(expected)


def eam_calculator(eam):
    from mdl_physpretrain.potentials import ASECalculator

    return ASECalculator(eam)


@pytest.fixture
def mgo():
    return [bulk("MgO", "rocksalt", a=4.2, cubic=True)]


@pytest.fixture
def eam():
    model = EAM(["Mg", "O"], cutoff=5.0, n_basis=1).double()
    with torch.no_grad():
        model.D[:], model.alpha[:], model.rm[:] = torch.tensor([0.7, 0.1, 0.1]), 1.6, torch.tensor([2.1, 3.1, 3.1])
        model.A[:], model.beta[:], model.B[:] = 0.05, 1.2, 0.5
    return model


def test_attraction_without_a_core_collapses(eam, mgo):
    model = EAM(["Mg", "O"], cutoff=5.0, n_basis=1, core=False).double()
    with torch.no_grad():
        model.D[:], model.alpha[:], model.rm[:], model.B[:] = 1.0, 1.0, 1.0, 0.0
    flags = compression_flags(compression_curve(model, mgo[0]))
    assert raised(flags) == {"collapse"}
    assert flags["collapse_depth"] > 0.1


def test_molecule_without_a_cell():
    atoms = Atoms("Ar2", [[0, 0, 0], [3.0, 0, 0]])
    curve = compression_curve(LennardJones(sigma=2.5, epsilon=0.05, rc=9.0), atoms, [1.0, 0.8])
    assert curve["min_distance"].tolist() == pytest.approx([3.0, 2.4])
    difference = 4 * 0.05 * ((2.5 / 2.4) ** 12 - (2.5 / 2.4) ** 6 - (2.5 / 3) ** 12 + (2.5 / 3) ** 6)
    assert curve["energy_per_atom"].tolist() == pytest.approx([0, difference / 2])
    assert curve["max_force"].iloc[1] > curve["max_force"].iloc[0]


def test_numbers_of_a_collapse():
    sound = compression_flags(table(birch(SCALES)).sample(frac=1, random_state=0))
    assert (sound["ok"], sound["minimum_scale"], sound["collapse_depth"]) == (True, 1.0, 0.0)
    assert np.isnan(sound["collapse_scale"])
    dip = birch(SCALES) - 10 * np.exp(-(((SCALES - 0.76) / 0.02) ** 2))
    flags = compression_flags(table(dip))
    assert flags["collapse"] is True
    assert flags["collapse_scale"] == pytest.approx(0.80, abs=0.011)
    inside = dip[SCALES < 0.99]
    assert flags["collapse_depth"] == pytest.approx(np.max(np.maximum.accumulate(inside) - inside))


def test_a_step_is_a_discontinuity():
    flags = compression_flags(table(birch(SCALES) + 2.0 * (SCALES < 0.855)))
    assert raised(flags) == {"discontinuity"}
    assert flags["energy_jump"] == pytest.approx(2.0, rel=0.3)
    assert raised(compression_flags(table(birch(SCALES) + 0.005 * (SCALES < 0.995)))) == set()


def test_expansion_is_no_collapse_and_a_far_minimum_is():
    assert not compression_flags(table(birch(SCALES / 0.93)))["collapse"]
    assert compression_flags(table(birch(SCALES / 0.8)))["collapse"]


class Fails(Calculator):
    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, above):
        super().__init__()
        self.above = above

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        if self.atoms.cell.lengths()[0] < self.above:
            raise RuntimeError("too dense")
        self.results = {"energy": 1 / self.atoms.cell.volume, "forces": np.zeros((len(self.atoms), 3))}


def test_failures_are_nan_and_not_ok():
    atoms = bulk("Cu", "fcc", a=4.0, cubic=True)
    curve = compression_curve(Fails(3.1), atoms)
    assert curve["energy_per_atom"].isna().sum() == (SCALES * 4.0 < 3.1).sum() > 0
    flags = compression_flags(curve)
    assert raised(flags) == set()
    assert flags["ok"] is False
    assert flags["failed_points"] == curve["energy_per_atom"].isna().sum()
    with pytest.raises(StructureError, match="as it is"):
        compression_curve(Fails(4.1), atoms)


@pytest.mark.parametrize("scales", [[], [0.0], [np.nan], [[1.0]]])
def test_scales_out_of_range(scales):
    with pytest.raises(ConfigError):
        compression_curve(LennardJones(), bulk("Ar", "fcc", a=5.3), scales)


def test_curves_that_cannot_be_judged():
    with pytest.raises(ConfigError):
        compression_flags(table(birch(SCALES[:5]), SCALES[:5]))
    with pytest.raises(ConfigError):
        compression_flags(table(birch(SCALES[20:]), SCALES[20:]))
    with pytest.raises(StructureError, match="no atoms"):
        compression_curve(LennardJones(), Atoms())
