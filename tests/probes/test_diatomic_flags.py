import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.potentials import CGCNN, EAM, ZBL, Sum
from mdl_physpretrain.potentials.zbl import zbl_pair
from mdl_physpretrain.probes.diatomic_flags import diatomic_flags
from mdl_physpretrain.probes.diatomics import diatomic_curve
from mdl_physpretrain.probes.single_points import as_calculator, energies_and_forces

R = np.round(np.linspace(0.4, 6.0, 141), 4)
FLAGS = ("hole", "spurious_minima", "discontinuity", "missing_repulsion")


def judged(function, r=R, pair="Mg-O"):
    """Flags of an analytic curve, its force by central differences."""
    h = 1e-5
    return diatomic_flags(pair, r, function(r), -(function(r + h) - function(r - h)) / (2 * h))


def raised(flags):
    return {name for name in FLAGS if flags[name]}


def morse(r, depth=2.0, alpha=1.8, r0=1.9):
    x = np.exp(-alpha * (r - r0))
    return depth * x * (x - 2)


def sound(r):
    """Morse with a ZBL core."""
    t = torch.as_tensor(r, dtype=torch.float64)
    z = torch.ones_like(t)
    return morse(r) + zbl_pair(t, 12 * z, 8 * z, 0.9 * z, 1.8 * z)[0].numpy()


def test_morse_with_a_core_is_fine():
    flags = judged(sound)
    assert raised(flags) == set()
    assert flags["ok"] is True
    assert flags["well_r"] == pytest.approx(1.9, abs=0.04)
    assert flags["well_energy"] == pytest.approx(-2.0, abs=0.01)
    assert flags["wall_energy"] > 50
    assert flags["hole_depth"] == 0
    assert np.isnan(flags["hole_r"])
    assert flags["energy_jump"] == flags["force_jump"] == flags["failed_points"] == 0


def test_hole_inside_the_wall():
    flags = judged(lambda r: morse(r, alpha=1.2) - 40 * np.exp(-(((r - 0.6) / 0.15) ** 2)))
    assert {"hole", "spurious_minima"} <= raised(flags)
    assert "discontinuity" not in raised(flags)
    assert flags["ok"] is False
    assert flags["hole_r"] == pytest.approx(0.6, abs=0.08)


def test_energy_that_turns_down_at_the_shortest_distances_is_a_hole_without_a_minimum():
    flags = judged(lambda r: morse(r, alpha=1.2) - 1.0 / r**6)
    assert flags["hole"] is True
    assert flags["hole_r"] == 0.4
    assert flags["spurious_minima"] == 0
    assert flags["hole_depth"] > 1


def test_what_lies_behind_a_wall_that_nothing_climbs_does_not_count():
    def holed(r):
        return sound(r) - 300 * np.exp(-(((r - 0.5) / 0.05) ** 2))

    assert (np.diff(holed(R)) > 1).any()  # it does fall on the way in
    flags = judged(holed)
    assert raised(flags) == set()
    assert flags["wall_energy"] > 50


def test_step_of_a_truncated_lennard_jones():
    def cut(r):
        return np.where(r < 3.01, 4 * 0.5 * ((1.7 / r) ** 12 - (1.7 / r) ** 6), 0.0)

    slope = np.where(R < 3.01, 4 * 0.5 * (12 * (1.7 / R) ** 12 - 6 * (1.7 / R) ** 6) / R, 0.0)
    flags = diatomic_flags("Mg-O", R, cut(R), slope)
    step = 2 * (1.7 / 3.01) ** 6
    assert raised(flags) == {"discontinuity"}
    assert flags["energy_jump"] == pytest.approx(step, rel=0.5)


def test_step_within_a_steep_wall_and_a_kink():
    assert judged(lambda r: sound(r) + 3.0 * (r < 1.61))["discontinuity"] is True  # R is not hit by the difference
    kink = judged(lambda r: sound(r) + 2.0 * np.maximum(0, 2.71 - r))
    assert raised(kink) == {"discontinuity"}
    assert kink["force_jump"] == pytest.approx(2.0, rel=0.2)


@pytest.mark.parametrize("error", [0.8, 1.3])
def test_forces_that_are_not_the_slope_everywhere_are_no_discontinuity(error):
    h = 1e-5
    force = -error * (sound(R + h) - sound(R - h)) / (2 * h)
    assert raised(diatomic_flags("Mg-O", R, sound(R), force)) == set()


def test_missing_repulsion():
    attractive = judged(lambda r: -5 / (1 + r**2))
    assert raised(attractive) == {"missing_repulsion"}
    soft = judged(lambda r: morse(r, depth=0.1, alpha=0.9))
    assert raised(soft) == {"missing_repulsion"}
    assert soft["hole_depth"] == 0
    assert 0 < soft["wall_energy"] < 3
    repulsive = judged(lambda r: 30 * np.exp(-2 * r) / r)
    assert raised(repulsive) == set()
    assert repulsive["well_r"] == 6.0


def test_flat_curve_has_no_repulsion_and_nothing_else():
    assert raised(judged(np.zeros_like)) == {"missing_repulsion"}


def test_second_minimum_counts_when_it_is_deep_enough():
    assert judged(lambda r: sound(r) - 0.3 * np.exp(-(((r - 3.6) / 0.2) ** 2)))["spurious_minima"] == 1
    two = judged(lambda r: sound(r) - 0.3 * np.exp(-(((r - 3.6) / 0.2) ** 2)) - 0.3 * np.exp(-(((r - 4.8) / 0.2) ** 2)))
    assert two["spurious_minima"] == 2
    assert judged(lambda r: sound(r) - 0.01 * np.exp(-(((r - 4.6) / 0.2) ** 2)))["spurious_minima"] == 0


def test_order_and_failures():
    energy, force = sound(R), np.gradient(-sound(R), R)
    expected = diatomic_flags("Mg-O", R, energy, force)
    order = np.random.default_rng(0).permutation(len(R))
    assert diatomic_flags(("Mg", "O"), R[order], energy[order], force[order]) == pytest.approx(expected, nan_ok=True)
    energy[0] = np.nan
    failed = diatomic_flags("Mg-O", R, energy, force)
    assert (failed["ok"], failed["failed_points"]) == (False, 1)


def test_lennard_jones_of_ase():
    calculator = LennardJones(sigma=1.9, epsilon=0.2, rc=5.0, smooth=True)
    assert raised(diatomic_flags("Mg-O", R, *diatomic_curve(calculator, "Mg-O", R))) == set()


def test_copper_of_emt_is_repulsive():
    energy, force = diatomic_curve(EMT, "Cu-Cu", R)
    flags = diatomic_flags("Cu-Cu", R, energy, force)
    assert not flags["hole"]
    assert not flags["missing_repulsion"]
    assert flags["well_r"] == pytest.approx(2.2, abs=0.2)


def test_eam_needs_its_core():
    def flags(core):
        model = EAM(["Mg", "O"], cutoff=6.0, n_basis=1, core=core).double()
        with torch.no_grad():
            model.D[:], model.alpha[:], model.rm[:] = 0.1, 0.8, 2.0
            model.A[:], model.beta[:], model.B[:], model.rho0[:] = 0.5, 0.5, 0.1, 1.0
        return diatomic_flags("Mg-O", R, *diatomic_curve(model, "Mg-O", R))

    assert raised(flags(core=True)) == set()
    assert "missing_repulsion" in raised(flags(core=False))


def test_untrained_network_has_no_core_and_gets_one():
    torch.manual_seed(0)
    network = CGCNN(cutoff=5.0, dim1=8, dim2=8, gc_count=1)
    assert diatomic_flags("Mg-O", R, *diatomic_curve(network, "Mg-O", R))["missing_repulsion"]
    assert not diatomic_flags("Mg-O", R, *diatomic_curve(Sum([network, ZBL()]), "Mg-O", R))["missing_repulsion"]


class NeedsBox(Calculator):
    """Fails without a cell, and always below 0.5 Å."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        r = self.atoms.positions[1] - self.atoms.positions[0]
        if self.atoms.cell.volume < 1 or not self.atoms.pbc.all() or r[0] < 0.5:
            raise ValueError("singular matrix")
        self.results = {"energy": 1 / r[0], "forces": np.array([[-1, 0, 0], [1, 0, 0]]) / r[0] ** 2}


def test_calculator_that_needs_a_cell_gets_one_and_failures_are_nan():
    for potential in (NeedsBox(), NeedsBox):
        energy, force = diatomic_curve(potential, "Mg-O", [0.4, 1.0, 2.0])
        np.testing.assert_allclose(energy, [np.nan, 0.5, 0])
        np.testing.assert_allclose(force, [np.nan, 1, 0.25])


def test_a_network_is_loaded_once_and_again_after_it_failed():
    made = []

    def make():
        made.append(EMT())
        return made[-1]

    for _ in range(3):
        assert np.isfinite(diatomic_curve(make, "Cu-Cu", [1.0, 2.0])[0]).all()
    assert len(made) == 1
    with pytest.raises(StructureError):
        energies_and_forces(make, [Atoms("Xe2", [[0, 0, 0], [0, 0, 2]])])
    assert len(made) == 2
    energies_and_forces(make, [Atoms("Cu2", [[0, 0, 0], [0, 0, 2]])])
    assert len(made) == 2


def test_calculators_and_models_agree():
    model = EAM(["Mg", "O"], cutoff=5.0).double()
    atoms = [Atoms("MgO", [[0, 0, 0], [r, 0, 0]]) for r in (1.0, 6.0)]
    calculator = as_calculator(model)
    expected = np.subtract(*[calculator.get_potential_energy(a) for a in atoms])
    for potential in (model, calculator, lambda: calculator):
        assert diatomic_curve(potential, "Mg-O", [1.0, 6.0])[0] == pytest.approx([expected, 0])
    with pytest.raises(ConfigError, match="not an EnergyModel"):
        as_calculator("eam.pt")
    with pytest.raises(ConfigError, match="not an EnergyModel"):
        as_calculator(lambda: 3)


@pytest.mark.parametrize(
    ("pair", "r"),
    [("Mg", R), ("Mg-O", R[:10]), ("Mg-O", R[40:]), ("Mg-O", np.zeros_like(R)), ("Mg-O", R[:-1])],
)
def test_nonsense_is_refused(pair, r):
    with pytest.raises(ConfigError):
        diatomic_flags(pair, r, np.zeros(len(r)), np.zeros(len(R) if len(r) == 140 else len(r)))
