"""How well the reference potential knows the test structures, and what the report says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.potentials import CGCNN
from mdl_physpretrain.report.reference import error_sentences
from mdl_physpretrain.source_graph import dependencies
from mdl_physpretrain.structures import write_structures
from mdl_physpretrain.workflow.check import check
from mdl_physpretrain.workflow.check_suite import probe_names
from mdl_physpretrain.workflow.config import RunConfig
from mdl_physpretrain.workflow.plan import plan
from mdl_physpretrain.workflow.run_suite import RunSuite
from mdl_physpretrain.workflow.stages.reference import simulate_reference
from mdl_physpretrain.workflow.stages.reference_errors import MOST_STRUCTURES, measure_reference
from mdl_physpretrain.workflow.task import Task


def labelled(atoms: Atoms, forces: np.ndarray, name: str) -> Atoms:
    atoms.calc = SinglePointCalculator(atoms, energy=1.0, forces=forces)
    atoms.info["structure_id"] = name
    return atoms


def frames(factor: float, number: int = 6) -> list[Atoms]:
    """Copper, displaced; forces are those of EMT times a factor."""
    made = []
    for k in range(number):
        atoms = bulk("Cu", "fcc", cubic=True)
        atoms.rattle(0.05, seed=k)
        atoms.calc = EMT()
        made.append(labelled(atoms, factor * atoms.get_forces(), f"cu/{k}"))
    return made


def measured(structures: list[Atoms], folder: Path, potential: str = "ase.calculators.emt:EMT") -> dict[str, Any]:
    write_structures(folder / "data" / "test.extxyz", structures)
    config = RunConfig.model_validate({"data": {"source": "demo"}, "md": {"reference_potential": potential}})
    assert measure_reference(config, folder, False, suite_class=RunSuite, tolerate=True) == ["reference/errors.json"]
    return json.loads((folder / "reference" / "errors.json").read_text())


def test_a_potential_that_knows_the_structures(tmp_path: Path) -> None:
    errors = measured(frames(1.0), tmp_path)
    assert errors["structures"] == errors["answered"] == 6
    assert errors["forces"] == pytest.approx(0.0, abs=1e-6)
    assert errors["trivial"] == pytest.approx(np.mean([np.abs(a.get_forces()) for a in frames(1.0)]), rel=1e-5)
    assert errors["changes"]["pairs"] == 15
    assert errors["changes"]["stiffness"] == pytest.approx(1.0, abs=1e-5)
    (sentence,) = error_sentences(errors)
    assert sentence.mood == "neutral"
    assert "On 6 test structures the reference potential’s forces are wrong by 0.000 eV/Å" in sentence.text
    assert "changes of force between frames of the same atoms by 0% of them (15 pairs; stiffness 1.00)" in sentence.text


def test_a_potential_that_is_far_too_soft_is_called_a_poor_one(tmp_path: Path) -> None:
    errors = measured(frames(2.5), tmp_path)
    assert errors["changes"]["stiffness"] == pytest.approx(0.4, abs=1e-4)
    (sentence,) = error_sentences(errors)
    assert sentence.mood == "caution"
    assert "so what it keeps and loses says little" in sentence.text
    assert "(15 pairs; stiffness 0.40)" in sentence.text


def test_wrong_forces_of_relaxed_cells_alone_are_not_held_against_it(tmp_path: Path) -> None:
    """Where it knows the changes well, an offset that is larger than the labels says nothing of its MD."""
    offset = np.array([[0.5, 0, 0], [-0.5, 0, 0], [0.5, 0, 0], [-0.5, 0, 0]])
    cells = [labelled(a, a.get_forces() - offset, a.info["structure_id"]) for a in frames(1.0)]
    errors = measured(cells, tmp_path) | {"trivial": 0.11}
    assert errors["forces"] == pytest.approx(0.5 / 3)
    (sentence,) = error_sentences(errors)
    assert sentence.mood == "neutral", "its changes are right"
    (sentence,) = error_sentences(errors | {"changes": None})
    assert sentence.mood == "caution", "nothing but forces is known"
    (sentence,) = error_sentences(errors | {"changes": None, "trivial": 0.01})
    assert sentence.mood == "neutral", "of relaxed cells predicting zero looks best"


def test_labels_that_are_missing(tmp_path: Path) -> None:
    cells = frames(1.0)
    del cells[1].calc.results["forces"]
    errors = measured(cells, tmp_path)
    assert errors["structures"] == errors["answered"] == 5
    assert errors["forces"] == pytest.approx(0.0, abs=1e-6)
    for atoms in cells:
        atoms.calc.results.pop("forces", None)
    without = measured(cells, tmp_path / "none")
    assert without == {"structures": 0}
    assert error_sentences(without) == error_sentences(None) == []


def test_elements_that_it_does_not_know_cost_only_the_errors(rocksalt: list[Atoms], tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="the errors of the reference potential are not known"):
        errors = measured(rocksalt, tmp_path)
    config = RunConfig.model_validate(
        {"data": {"source": "demo"}, "md": {"reference_potential": "ase.calculators.emt:EMT"}}
    )
    with pytest.raises(StructureError):
        measure_reference(config, tmp_path, False, suite_class=RunSuite)
    assert not (tmp_path / "reference" / "errors.json").exists(), "a check asks again"
    assert "EMT" in errors["failed"] or "MgO" in errors["failed"]
    (sentence,) = error_sentences(errors)
    assert sentence.mood == "caution"
    assert "gives no forces of the test structures" in sentence.text


def test_at_most_so_many_structures(tmp_path: Path) -> None:
    assert measured(frames(1.0, MOST_STRUCTURES + 3), tmp_path)["structures"] == MOST_STRUCTURES


def test_a_check_says_it_too(tmp_path: Path) -> None:
    options = {"steps": 20, "skip": [name for name in probe_names() if name != "md"], "reference_potential": EMT}
    check({"emt": EMT}, frames(2.5), output=tmp_path, report=True, trajectory_interval=None, **options)
    errors = json.loads((tmp_path / "reference" / "errors.json").read_text())
    assert errors["changes"]["stiffness"] == pytest.approx(0.4, abs=1e-4)
    assert "stiffness 0.40). It knows this material poorly" in (tmp_path / "report" / "index.html").read_text()
    bare = [Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True) for atoms in frames(1.0)]
    for k, atoms in enumerate(bare):
        atoms.info["structure_id"] = f"cu/{k}"
    check({"emt": EMT}, bare, output=tmp_path, report=True, trajectory_interval=None, **options)
    assert json.loads((tmp_path / "reference" / "errors.json").read_text()) == {"structures": 0}
    assert "knows this material" not in (tmp_path / "report" / "index.html").read_text()


def test_a_file_that_was_edited_costs_no_report() -> None:
    assert error_sentences({"forces": "much", "trivial": 1.0}) == []
    assert error_sentences({"forces": float("nan"), "trivial": 1.0}) == []
    (sentence,) = error_sentences(
        {"forces": 0.1, "trivial": 1.0, "answered": 2, "changes": {"error": None, "pairs": 99}}
    )
    assert "changes" not in sentence.text
    assert len(error_sentences({"forces": 0.1, "trivial": 1.0, "answered": 2, "changes": [1]})) == 1


def test_a_network_that_does_not_know_some_structures_answers_for_the_others(
    rocksalt: list[Atoms], tmp_path: Path
) -> None:
    network = CGCNN(cutoff=4.0, dim1=4, dim2=4).eval()
    network.metadata = {"elements": ["Mg", "O"]}
    network.save(tmp_path / "net.pt")
    errors = measured([*rocksalt, *frames(1.0, 2)], tmp_path, str(tmp_path / "net.pt"))
    assert (errors["structures"], errors["answered"]) == (10, 8)


def test_what_the_errors_and_the_md_depend_on() -> None:
    def tasks(**md: Any) -> dict[str, Task]:
        md = {"reference_potential": "ase.calculators.lj:LennardJones", **md}
        config = RunConfig.model_validate({"data": {"source": "demo"}, "md": md})
        return {task.name: task for task in plan(config)}

    of_train = tasks(source=["train"])["reference errors"]
    assert of_train.inputs == ("data/test.extxyz",) == tasks()["reference errors"].inputs
    code = dependencies([simulate_reference.__module__])
    assert not code & {"mdl_physpretrain.probes.stiffness", "mdl_physpretrain.teacher.changes"}, "MD is dear"
