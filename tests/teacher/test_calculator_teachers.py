"""Calculators that teach: examined, refused, mended by a core."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.lj import LennardJones
from ase.calculators.mixing import LinearCombinationCalculator
from scipy.special import expit

from mdl_physpretrain.errors import ConfigError, TeacherRefused
from mdl_physpretrain.potentials import ZBL, ASECalculator
from mdl_physpretrain.potentials.identity import potential_fingerprint
from mdl_physpretrain.recipe import Teacher
from mdl_physpretrain.teacher.calculators import WithCore, examine_calculator
from mdl_physpretrain.teacher.examine import _pushed_back
from mdl_physpretrain.teacher.registry import kind_options
from mdl_physpretrain.teacher.source import obtain_teacher
from mdl_physpretrain.workflow.config import RunConfig
from mdl_physpretrain.workflow.plan import plan


class Well(Calculator):
    """Every pair within 4 Å is bound by a Gaussian well: nothing repels."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012 - ASE's name and type

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        vectors = self.atoms.get_all_distances(mic=True, vector=True)
        r = np.linalg.norm(vectors, axis=2)
        np.fill_diagonal(r, 1e3)
        energy = -np.exp(-(r**2) / 2)
        forces = -energy[..., None] * vectors
        self.results = {"energy": energy.sum() / 2, "forces": forces.sum(1), "stress": np.zeros(6)}


def sound() -> LennardJones:
    return LennardJones(sigma=2.3, epsilon=0.4, rc=6.0, smooth=True)


def hollow() -> Well:
    return Well()


def too_hollow() -> LinearCombinationCalculator:
    """A well that is deeper than a core mends."""
    return LinearCombinationCalculator([Well()], [200.0])


@pytest.fixture
def copper():
    cells = []
    for k in range(2):
        atoms = bulk("Cu", cubic=True) * (2, 2, 2)
        atoms.rattle(0.05, seed=k)
        atoms.info["structure_id"] = f"cu-{k}"
        cells.append(atoms)
    return cells


def test_a_calculator_is_examined_alone_and_in_the_data(copper):
    passed = examine_calculator(sound, copper)
    assert passed.passed, passed.failures
    assert [pair.pair for pair in passed.pairs] == ["Cu-Cu", "Cu-Cu alone"]
    assert passed.pushed_back == 1
    failed = examine_calculator(hollow, copper)
    assert not failed.passed
    assert not any(pair.passed for pair in failed.pairs)
    assert "attractive between" in failed.failures[0]
    assert failed.pushed_back < 0.5
    json.dumps(failed.to_dict())


def test_the_verdict_decides_and_a_core_mends(copper):
    options = {"calculator": f"{__name__}:hollow"}
    with pytest.raises(TeacherRefused, match=r"Cu-Cu: attractive.*core: zbl"):
        obtain_teacher(copper, None, Teacher(**options))
    assert callable(obtain_teacher(copper, None, Teacher(**options, force=True)))
    with pytest.raises(TeacherRefused) as refused:
        obtain_teacher(copper, None, Teacher(calculator=f"{__name__}:too_hollow", core="zbl"))
    assert "core: zbl" not in str(refused.value)
    mended = obtain_teacher(copper, None, Teacher(**options, core="zbl"))
    assert isinstance(mended, WithCore)
    calculator = mended()
    assert calculator.name == "well+zbl"
    atoms = copper[0]
    np.testing.assert_allclose(calculator.get_forces(atoms), hollow().get_forces(atoms), atol=1e-8)
    pulled = atoms.copy()
    pulled.set_distance(0, 1, 1.0, fix=0.5)
    assert calculator.get_potential_energy(pulled) > hollow().get_potential_energy(pulled) + 3
    assert calculator.get_stress(pulled).shape == (6,)
    assert potential_fingerprint(mended) != potential_fingerprint(hollow)


def test_a_core_is_for_calculators():
    with pytest.raises(ConfigError, match=r"teacher\.core is added to a calculator"):
        kind_options(Teacher(core="zbl"))


def test_a_primitive_cell_is_examined_with_images_as_atoms_of_their_own():
    primitive = bulk("Cu")
    passed = examine_calculator(sound, [primitive])
    assert [pair.pair for pair in passed.pairs] == ["Cu-Cu", "Cu-Cu alone"]
    assert examine_calculator(hollow, [primitive]).pushed_back == 0
    assert _pushed_back(ZBL(ends={"Cu-Cu": 1.0}).double(), [primitive]) == 0, "nothing repels where the core has ended"


class Step(LennardJones):
    """A sound pair potential with more repulsion below 2.43 Å, which sets in within a width (Å)."""

    def __init__(self, width: float) -> None:
        super().__init__(sigma=2.3, epsilon=0.4, rc=6.0, smooth=True)
        self.width = width

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        vectors = self.atoms.get_all_distances(mic=True, vector=True)
        r = np.linalg.norm(vectors, axis=2)
        np.fill_diagonal(r, 1e3)
        depth = (2.43 - r) / self.width  # energy and force of a force that rises from 0 to 6 eV/Å
        energy = 6 * self.width * np.logaddexp(0, depth)
        force = 6 * expit(depth)
        self.results["energy"] += energy.sum() / 2
        self.results["forces"] = self.results["forces"] - ((force / r)[..., None] * vectors).sum(1)


@pytest.mark.parametrize(("width", "smooth"), [(0.002, True), (1e-6, False)])
def test_a_steep_force_is_no_jump(copper, width: float, smooth: bool):
    """Both look alike on the grid of the curve; only nearer points tell them apart."""
    examined = {pair.pair: pair for pair in examine_calculator(Step(width), copper[:1]).pairs}
    assert examined["Cu-Cu alone"].smooth is smooth
    assert examined["Cu-Cu alone"].core
    assert examined["Cu-Cu"].smooth is smooth


def test_the_fingerprint_of_a_composed_teacher_is_that_of_its_parts():
    def made(sigma: float, end: float) -> str:
        return potential_fingerprint(WithCore(lambda: LennardJones(sigma=sigma), {"Cu-Cu": end})())

    assert made(2.3, 1.5) == made(2.3, 1.5)
    assert len({made(2.3, 1.5), made(3.0, 1.5), made(2.3, 1.0)}) == 3
    one, two = LennardJones(sigma=2.0), LennardJones(sigma=3.0)
    mixtures = [LinearCombinationCalculator([one, two], weights) for weights in ([1, 0.5], [0.5, 1])]
    assert len({potential_fingerprint(each) for each in mixtures}) == 2
    assert len({potential_fingerprint(ASECalculator(ZBL(ends={"Cu-Cu": end}))) for end in (1.0, 1.5)}) == 2


@pytest.mark.parametrize("change", [{"core": "zbl"}, {"force": True}, {"calculator_args": {"sigma": 2.0}}])
def test_other_labels_are_made_when_the_teacher_changes(change):
    """Augmentation and the rounds of the loop depend on all that makes a calculator's labels."""
    data = {"data": {"source": "demo"}, "loop": {"rounds": 1}, "seeds": [0]}
    teacher = {"calculator": f"{__name__}:sound"}
    for one, other in zip(
        plan(RunConfig.model_validate({**data, "teacher": teacher})),
        plan(RunConfig.model_validate({**data, "teacher": teacher | change})),
        strict=True,
    ):
        labels = one.stage == "augment" or (one.stage == "loop" and not one.name.endswith("pretrained"))  # it collects
        assert one.stage == "report" or (one.section != other.section) == labels, one.name
