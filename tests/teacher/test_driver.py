"""Whose molecular dynamics makes thermal structures."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mdl_physpretrain.potentials import load_model
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.recipe import Augment
from mdl_physpretrain.structures import get_labels
from mdl_physpretrain.teacher import source
from mdl_physpretrain.teacher.driver import drives_by_fit, thermal_driver
from mdl_physpretrain.teacher.labelled_set import augmented_labels

OPTIONS: dict[str, Any] = {
    "n_aug": 0, "thermal": 300.0, "thermal_method": "md", "thermal_rounds": 2, "thermal_time": 40.0,
}  # fmt: skip


class Counting(EMT):
    """EMT that counts how often it is asked."""

    asked = 0

    def calculate(self, *args: Any, **kwargs: Any) -> None:
        type(self).asked += 1
        super().calculate(*args, **kwargs)


@pytest.fixture(scope="module")
def copper() -> list[Atoms]:
    rng = np.random.default_rng(3)
    cells = []
    for k in range(6):
        atoms = bulk("Cu", cubic=True)
        atoms.set_cell(atoms.cell * (0.97 + 0.01 * k), scale_atoms=True)
        atoms.positions += rng.normal(scale=0.08, size=(4, 3))
        atoms.calc = EMT()
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        atoms.info["structure_id"] = f"cu{k}"
        cells.append(atoms)
    return cells


@pytest.fixture(scope="module")
def fitted(copper: list[Atoms], tmp_path_factory: pytest.TempPathFactory) -> tuple[EnergyModel, Path]:
    """The potential fitted to the data, and the folder that keeps it."""
    folder = tmp_path_factory.mktemp("driver")
    return thermal_driver(copper, EMT, Augment(**OPTIONS), directory=folder), folder


def test_a_calculator_labels_the_frames_and_a_fit_makes_them(copper: list[Atoms], tmp_path: Path) -> None:
    Counting.asked = 0
    made = augmented_labels(copper, Counting(), Augment(**OPTIONS), resume=tmp_path / "labels.journal")
    assert len(made.labelled) == len(made.augmented) > 6
    assert Counting.asked <= 2 * (len(made.augmented) + len(copper))  # labels and their anchors, no step of MD
    assert isinstance(load_model(tmp_path / "labels.journal.motion" / "driver.pt"), EnergyModel)
    for atoms in made.filtered.kept:  # anchored to EMT's own labels: EMT's
        same = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True, calculator=EMT())
        np.testing.assert_allclose(get_labels(atoms).forces, same.get_forces(), atol=1e-6)


def test_on_request_the_calculator_moves_the_atoms(copper: list[Atoms], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "fitted_teacher", lambda *_, **__: pytest.fail("nothing is to be fitted"))
    Counting.asked = 0
    made = augmented_labels(copper[:1], Counting(), Augment(**OPTIONS, thermal_driver="teacher"))
    assert Counting.asked > 20  # steps of 2 fs at two temperatures
    assert len(made.augmented) == 2


def test_a_native_teacher_moves_the_atoms_itself_unless_asked(copper, fitted) -> None:
    native, _ = fitted
    assert thermal_driver(copper, native, Augment(**OPTIONS)) is native
    again = thermal_driver(copper, native, Augment(**OPTIONS, thermal_driver="fitted"))
    assert again is not native
    assert isinstance(again, EnergyModel)


def test_an_interrupted_call_does_not_fit_again(copper, fitted, monkeypatch) -> None:
    first, folder = fitted
    monkeypatch.setattr(source, "fitted_teacher", lambda *_, **__: pytest.fail("fitted again"))
    second = thermal_driver(copper, EMT, Augment(**OPTIONS), directory=folder)
    state = second.state_dict()
    for key, value in first.state_dict().items():
        assert value.equal(state[key]), key


def test_a_driver_that_failed_its_examination_is_told(copper, fitted, monkeypatch) -> None:
    model = copy.deepcopy(fitted[0])
    model.metadata = {**model.metadata, "examination": {"passed": False, "failures": ["Cu-Cu: attractive"]}}
    monkeypatch.setattr(source, "fitted_teacher", lambda *_, **__: model)
    with pytest.warns(UserWarning, match="failed its examination"):
        thermal_driver(copper, EMT, Augment(**OPTIONS))


@pytest.mark.parametrize(
    ("options", "calculator", "is_fitted"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"thermal_driver": "fitted"}, False, True),
        ({"thermal_driver": "teacher"}, True, False),
        ({"thermal_method": "springs"}, True, False),
        ({"thermal": None}, True, False),
    ],
)
def test_when_one_is_fitted(options: dict[str, Any], calculator: bool, is_fitted: bool) -> None:
    assert drives_by_fit(Augment(**(OPTIONS | options)), calculator=calculator) is is_fitted
