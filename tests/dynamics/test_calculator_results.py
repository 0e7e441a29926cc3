"""What calculators of other people return: checked once per evaluation, one bad structure does not cost the others."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT

from mdl_physpretrain.dynamics import simulate
from mdl_physpretrain.dynamics.settings import MDSettings
from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.potentials.results import energy_of, forces_of, stress_of
from mdl_physpretrain.structures.labels import get_labels
from mdl_physpretrain.teacher.label import label


class Odd(Calculator):
    """EMT whose result of one kind is changed for the cells of some sizes."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012 - ASE's name

    def __init__(self, name: str, change, sizes=(2,)) -> None:
        super().__init__()
        self.emt, self.name_, self.change, self.sizes = EMT(), name, change, sizes

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        plain = atoms.copy()
        plain.calc = self.emt
        self.results = {
            "energy": plain.get_potential_energy(), "forces": plain.get_forces(), "stress": plain.get_stress(),
        }  # fmt: skip
        if len(atoms) in self.sizes:
            self.results[self.name_] = self.change(self.results[self.name_])


BAD = {
    "one row": ("forces", lambda f: f[:1]),
    "one vector": ("forces", lambda f: f[0]),
    "a scalar": ("forces", lambda f: 0.0),
    "transposed": ("forces", lambda f: f.T.copy()),
    "another atom": ("forces", lambda f: np.vstack([f, f[:1]])),
    "flat": ("forces", lambda f: f.ravel()),
    "no forces": ("forces", lambda f: None),
    "complex forces": ("forces", lambda f: f * (1 + 0j)),
    "forces as text": ("forces", lambda f: f.astype(str)),
    "objects": ("forces", lambda f: f.astype(object)),
    "no energy": ("energy", lambda e: None),
    "complex energy": ("energy", lambda e: e + 0j),
    "energy as text": ("energy", str),
    "energy as truth": ("energy", bool),
    "energies": ("energy", lambda e: np.array([e, e])),
    "no number": ("energy", lambda e: np.array([])),
}
GOOD = {
    "array of one": ("energy", lambda e: np.array([e])),
    "zero-dimensional": ("energy", lambda e: np.array(e)),
    "single precision": ("energy", lambda e: np.float64(np.float32(e))),
    "tensor": ("energy", lambda e: torch.tensor([e])),
    "list": ("forces", lambda f: f.tolist()),
    "single": ("forces", lambda f: f.astype(np.float64)),
    "tensors": ("forces", lambda f: torch.tensor(f)),
}


def cells() -> list[Atoms]:
    structures = []
    for n in (1, 2, 3):
        atoms = bulk("Cu").repeat((n, 1, 1))
        atoms.rattle(0.05, seed=n)
        atoms.info["structure_id"] = f"cu{n}"
        structures.append(atoms)
    return structures


@pytest.mark.parametrize("what", BAD)
def test_a_bad_result_is_a_failure_of_that_structure(what: str, tmp_path: Path) -> None:
    calculator = Odd(*BAD[what])
    options = {"ensemble": "nve", "steps": 2, "checkpoint": tmp_path / "runs.npz"}
    with pytest.raises(StructureError, match=r"structure cu2.*all others are finished") as caught:
        simulate(calculator, cells(), **options)
    assert "\n" not in str(caught.value)
    runs = simulate(EMT(), cells(), ensemble="nve", steps=2)  # what it should be
    from mdl_physpretrain.dynamics.records import Runs

    finished = {r.structure_id: r for r in Runs.load(tmp_path / "runs.npz")}
    assert sorted(finished) == ["cu1", "cu3"]
    np.testing.assert_allclose(finished["cu3"].positions, runs[2].positions, atol=1e-9)
    with pytest.warns(UserWarning, match="1 of 3"):
        labelled = label(cells(), Odd(*BAD[what]))
    assert [a.info["structure_id"] for a in labelled] == ["cu1", "cu3"]
    assert BAD[what][0] in labelled.failures[0].reason


@pytest.mark.parametrize("what", GOOD)
def test_usual_ways_to_say_it_work(what: str) -> None:
    calculator = Odd(*GOOD[what], sizes=(1, 2, 3))
    runs = simulate(calculator, cells(), ensemble="npt", steps=2)
    expected = simulate(EMT(), cells(), ensemble="npt", steps=2)
    for run, other in zip(runs, expected, strict=True):
        np.testing.assert_allclose(run.positions, other.positions, atol=1e-5)
    labels = [get_labels(a) for a in label(cells(), calculator)]
    assert all(type(one.energy) is float and one.forces.shape[1] == 3 for one in labels)


@pytest.mark.parametrize("value", [np.zeros(6), np.zeros((3, 3)), np.zeros(9), [0.0] * 6])
def test_stresses(value: object) -> None:
    assert stress_of(value).shape == (3, 3)
    for bad in (np.zeros(5), np.zeros((1, 6)), None, np.zeros((2, 3)), 0.0):
        with pytest.raises(StructureError, match="stress"):
            stress_of(bad)


@pytest.mark.parametrize("kind", [np.int64, np.float16, np.float32, np.float64, np.longdouble])
def test_kinds_of_numbers(kind: type) -> None:
    assert energy_of(kind(3)) == 3.0
    assert forces_of(np.ones((2, 3), kind), 2).dtype == np.float64


@pytest.mark.parametrize(("friction", "timestep"), [(10.0, 1.0), (3.0, 1.0), (1.1, 1.0), (0.3, 4.0), (1e6, 0.1)])
def test_friction_that_the_integrator_cannot_do(friction: float, timestep: float) -> None:
    with pytest.raises(ConfigError, match="the unit is 1/fs"):
        MDSettings(friction=friction, timestep=timestep)
    MDSettings(friction=friction, timestep=timestep, ensemble="nve")


@pytest.mark.parametrize(
    "options",
    [
        {"friction": 0.9}, {"friction": 1e-7}, {"timestep": 50.0}, {"timestep": 1e-4}, {"temperature": 1e6},
        {"temperature": 0.025}, {"ensemble": "npt", "pressure": 101325.0}, {"ensemble": "npt", "taut": 2.0},
        {"ensemble": "npt", "taup": 1e9},
    ],
)  # fmt: skip
def test_a_doubtful_unit_is_asked_about(options: dict) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        simulate(EMT(), cells()[:1], steps=0)  # nothing is doubtful
    if options.get("timestep") == 50.0:
        options["friction"] = 0.01
    with pytest.warns(UserWarning, match="is the unit right"):
        simulate(EMT(), cells()[:1], steps=0, **options)


@pytest.mark.parametrize("options", [{"taut": 0.5}, {"taup": 0.9}])
def test_thermostats_faster_than_a_step(options: dict) -> None:
    with pytest.raises(ConfigError, match="at least one step"):
        MDSettings(ensemble="npt", **options)


def test_the_strongest_friction_that_is_allowed_keeps_the_temperature() -> None:
    """Of free particles: the integrator itself."""
    from mdl_physpretrain.potentials import ZBL

    atoms = Atoms("Ar500", np.random.default_rng(0).uniform(0, 1e4, (500, 3)))
    atoms.info["structure_id"] = "gas"
    runs = simulate(ZBL().double(), [atoms], friction=1.0, timestep=1.0, steps=200, temperature=300.0, stop_on=())
    assert np.mean(runs[0].trace_temperature[5:]) == pytest.approx(300.0, rel=0.05)
