"""Single labels that are far outside the others."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from typer.testing import CliRunner

from mdl_physpretrain.cli import app
from mdl_physpretrain.structures import write_structures
from mdl_physpretrain.structures.outliers import outlier_warnings, warn_of_outliers
from mdl_physpretrain.workflow.config import RunConfig
from mdl_physpretrain.workflow.stages.prepare import prepare


def cells() -> list[Atoms]:
    """Alloys of several sizes: -5 and -7 eV an atom, up to 0.5 eV/atom of strain, forces of 1 eV/Å."""
    rng = np.random.default_rng(1)
    made = []
    for k in range(24):
        atoms = bulk("Cu", "fcc", cubic=True) * (1, 1, 1 + k % 3)
        atoms.symbols[: 1 + k % 4] = "Au"
        energy = sum(-5.0 if s == "Cu" else -7.0 for s in atoms.symbols) + rng.uniform(0, 0.5) * len(atoms)
        forces = rng.normal(size=(len(atoms), 3))
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces, stress=rng.normal(size=6) * 0.05)
        atoms.info["structure_id"] = f"cell-{k}"
        made.append(atoms)
    return made


def test_usual_labels_and_few_structures() -> None:
    assert outlier_warnings(cells()) == []
    few = cells()[:9]
    few[0].calc.results["energy"] = 1e6
    assert outlier_warnings(few) == []


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("energy", 1e30, "field energy: its energy is"),
        ("energy", -600.0, "field energy: its energy is"),
        ("forces", 1000.0, "field forces: its largest component is 1e+03 eV/Å"),
        ("stress", 90.0, "field stress: its largest component is 90 eV/Å³"),
    ],
)
def test_one_that_is_wrong_is_named(field: str, value: float, words: str) -> None:
    structures = cells()
    if field == "energy":
        structures[7].calc.results["energy"] = value
    else:
        structures[7].calc.results[field].flat[2] = value
    (sentence,) = outlier_warnings(structures)
    assert sentence.startswith("structure cell-7, " + words)
    with pytest.warns(UserWarning, match="a label far outside the others: structure cell-7"):
        warn_of_outliers(structures)


def test_several_are_counted_and_do_not_hide_one_another() -> None:
    structures = cells()
    for k in (2, 5, 11):
        structures[k].calc.results["energy"] = 1000.0 * (k + 1)
    (sentence,) = outlier_warnings(structures)
    assert "(3 of 24 structures are such)" in sentence


def test_labels_of_a_teacher_may_be_large() -> None:
    structures = cells()
    structures[3].calc.results["forces"][0, 0] = 450.0
    structures[3].arrays["aug_displacement"] = np.zeros((len(structures[3]), 3))
    assert outlier_warnings(structures) == []


def test_missing_labels_do_not_count() -> None:
    structures = cells()
    for atoms in structures[::2]:
        atoms.calc.results.pop("forces")
    structures[1].calc.results["forces"][0, 0] = 1e4
    (sentence,) = outlier_warnings(structures)
    assert "cell-1" in sentence


def test_labels_that_are_no_numbers_are_left_to_who_needs_them(tmp_path) -> None:
    """Augmentation and labelling read structures only; they took such files before, too."""
    structures = cells()
    structures[0].calc.results["energy"] = np.nan
    structures[1].calc.results["forces"][0, 0] = np.inf
    assert outlier_warnings(structures) == []
    write(tmp_path / "c.extxyz", structures)
    words = ["augment", str(tmp_path / "c.extxyz"), "-o", str(tmp_path / "out.extxyz"), "--thermal", "none"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output


def test_isolated_atoms_beside_a_compound_are_none() -> None:
    """One stoichiometry: its energies per element cannot tell cohesion from atoms, of which two are there alone."""
    made = []
    for k in range(20):
        atoms = bulk("MgO", "rocksalt", a=4.2, cubic=True)
        atoms.calc = SinglePointCalculator(atoms, energy=-4 * (3.0 + 5.0 + 30.0) + 0.01 * k, forces=np.zeros((8, 3)))
        made.append(atoms)
    for symbol, energy in (("Mg", -3.0), ("O", -5.0)):
        atoms = Atoms(symbol, cell=[12, 12, 12], pbc=True)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.zeros((1, 3)))
        made.append(atoms)
    for k, atoms in enumerate(made):
        atoms.info["structure_id"] = str(k)
    assert outlier_warnings(made) == []


def test_a_run_says_it_of_its_data(tmp_path) -> None:
    structures = cells()
    structures[7].calc.results["energy"] = 1e4
    write_structures(tmp_path / "c.extxyz", structures)
    config = RunConfig.model_validate({"data": {"source": str(tmp_path / "c.extxyz")}})
    with pytest.warns(UserWarning, match="a label far outside the others: structure cell-7, field energy"):
        prepare(config, tmp_path / "run", False)
