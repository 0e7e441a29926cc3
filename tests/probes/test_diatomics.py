import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.potentials import CGCNN, ZBL, Sum
from mdl_physpretrain.potentials.zbl import COULOMB
from mdl_physpretrain.probes.base import Subject
from mdl_physpretrain.probes.diatomics import DISTANCES, Diatomics, diatomic_curve
from mdl_physpretrain.probes.pairs import element_pairs, pairs_together


def test_pairs_are_ordered_by_atomic_number():
    assert element_pairs(["O", "Li", "O"]) == [("Li", "Li"), ("Li", "O"), ("O", "O")]


def test_pairs_that_no_structure_has_both_of_can_be_left_out():
    structures = [Atoms("AlCu"), Atoms("Ni2")]
    pairs = [("Al", "Al"), ("Al", "Cu"), ("Ni", "Ni"), ("Cu", "Cu")]
    assert pairs_together(structures) == pairs
    subject = Subject(EMT, splits={"test": structures}, elements=["Al", "Ni", "Cu"])
    for option, expected in (("together", pairs), ("all", element_pairs(subject.elements))):
        table = Diatomics(diatomic_pairs=option).tables(subject)["diatomic_flags"]
        assert sorted(table["pair"]) == sorted("-".join(pair) for pair in expected)
    metals = ["Al", "Ni", "Cu", "Pd", "Ag", "Pt", "Au"]
    for elements, count in ((metals, 28), ([*metals, "H", "O"], len(pairs))):
        subject = Subject(EMT, splits={"test": structures}, elements=elements)
        assert len(Diatomics().tables(subject)["diatomic_flags"]) == count


def test_forces_that_are_too_large_for_labels_are_part_of_a_curve():
    teacher = Sum([ZBL() for _ in range(4)]).double()  # more than nuclei repel with
    teacher.metadata["examination"] = {"passed": False, "max_force": 0.5}
    energy, force = diatomic_curve(teacher, "Si-O", DISTANCES)
    assert np.isfinite(energy).all()
    assert force[0] > 100, "eV/Å"


def test_force_is_the_slope_of_the_energy_and_the_last_point_is_zero():
    model = Sum([CGCNN(cutoff=5.0, dim1=8, dim2=8, gc_count=1), ZBL()]).double()
    h, centres = 1e-4, np.linspace(0.8, 4.9, 40)
    energy, force = diatomic_curve(model, "Mg-O", np.stack([centres - h, centres, centres + h]).T.ravel())
    assert energy[-1] == 0
    below, _, above = energy.reshape(-1, 3).T
    np.testing.assert_allclose(force.reshape(-1, 3)[:, 1], -(above - below) / (2 * h), rtol=1e-5, atol=1e-6)


def test_zbl_approaches_the_screened_coulomb_repulsion():
    energy, force = diatomic_curve(ZBL().double(), ("Si", "O"), np.array([1e-3, 4.0]))
    assert energy[0] == pytest.approx(COULOMB * 14 * 8 / 1e-3, rel=0.05)
    assert force[0] > 0


@pytest.mark.parametrize(
    ("pair", "r"), [("Xx-O", [1.0]), ("O", [1.0]), ("O-O", [-1.0]), ("O-O", []), ("O-O", [np.nan])]
)
def test_nonsense_is_refused(pair, r):
    with pytest.raises(ConfigError):
        diatomic_curve(ZBL(), pair, r)
