"""The command ``evaluate``: labels that are missing, and errors by group."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from small_potentials import small
from typer.testing import CliRunner

from mdl_physpretrain.cli import app
from mdl_physpretrain.potentials import ASECalculator, load_model
from mdl_physpretrain.structures import write_structures
from mdl_physpretrain.structures.labels import Labels, set_labels


def cells(**kept: bool) -> list[Atoms]:
    """Cells of copper and nickel whose labels are off by 0.1 and 0.3 eV/Å; ``kept`` names those they keep."""
    structures = []
    for k in range(6):
        atoms = bulk("Cu" if k % 3 else "Ni", cubic=True)
        atoms.rattle(0.05, seed=k)
        atoms.calc = EMT()
        energy, forces = atoms.get_potential_energy(), atoms.get_forces() + (0.1 if k % 3 else 0.3)
        labels = Labels(energy if kept.get("energy") else None, forces if kept.get("forces") else None)
        atoms = set_labels(atoms.copy(), labels)
        atoms.info |= {"structure_id": f"cell-{k}", "metal": "many" if k % 3 else "few"}
        structures.append(atoms)
    return structures


def rows(*words: object) -> dict[str, list[float]]:
    """The printed table: energy, energy per atom, forces, stress, stress in GPa, total."""
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["evaluate", "ase.calculators.emt:EMT", *map(str, words)])
    assert result.exit_code == 0, result.output
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.output.splitlines() if "│" in line]
    return {name: [float(number) for number in numbers] for name, *numbers in lines if name}


def test_forces_alone(tmp_path: Path) -> None:
    write_structures(tmp_path / "forces.extxyz", cells(forces=True))
    errors = rows(tmp_path / "forces.extxyz")
    assert errors["EMT"][2] == pytest.approx((4 * 0.1 + 2 * 0.3) / 6, rel=1e-3)
    assert np.isnan([errors["EMT"][0], errors["trivial"][0]]).all()
    assert errors["trivial"][5] == pytest.approx(50 * errors["trivial"][2], rel=1e-3)


def test_groups_add_up(tmp_path: Path) -> None:
    write_structures(tmp_path / "both.extxyz", cells(energy=True, forces=True))
    whole, grouped = rows(tmp_path / "both.extxyz"), rows(tmp_path / "both.extxyz", "--by", "metal")
    for name, errors in whole.items():
        assert grouped[name] == pytest.approx(errors, nan_ok=True)
    assert grouped["many (4)"][2] == pytest.approx(0.1, rel=1e-3)
    assert grouped["few (2)"][2] == pytest.approx(0.3, rel=1e-3)


def test_no_labels(tmp_path: Path) -> None:
    write_structures(tmp_path / "bare.extxyz", cells())
    result = CliRunner().invoke(app, ["evaluate", "ase.calculators.emt:EMT", str(tmp_path / "bare.extxyz")])
    assert result.exit_code == 2
    assert "none of the 6 structures has an energy, forces or a stress" in " ".join(result.stderr.split())


FLAT = "flat (zero volume)"


@pytest.mark.parametrize("name", ["bare.extxyz", "labelled.extxyz"])
@pytest.mark.parametrize(
    "words",
    [
        "evaluate ase.calculators.emt:EMT FILE",
        "train FILE -o OUT",
        "train GOOD --val FILE -o OUT",
        "finetune FILE -o OUT",
        "fit-eam FILE -o OUT.pt",
        "fit-teacher FILE --kind classical -o OUT.pt",
        "mdl-data FILE -o OUT",
        "run RUN -o OUT",
    ],
    ids=lambda words: words.split(" -o")[0],
)
def test_a_bad_cell_is_named_before_missing_labels(tmp_path: Path, words: str, name: str) -> None:
    structures = cells(**({} if name == "bare.extxyz" else {"energy": True, "forces": True}))
    write_structures(tmp_path / "good.extxyz", cells(energy=True, forces=True))
    structures[2].cell[2] = structures[2].cell[1]
    write_structures(tmp_path / name, structures)
    (tmp_path / "run.yaml").write_text(f"data: {{source: {tmp_path / name}}}")
    places = {"FILE": name, "OUT": "out", "OUT.pt": "out.pt", "GOOD": "good.extxyz", "RUN": "run.yaml"}
    command = [str(tmp_path / places[word]) if word in places else word for word in words.split()]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2, result.output
    assert FLAT in " ".join(result.stderr.split())
    assert not (tmp_path / "out" / "train.json").exists()


def test_a_potential_may_be_named(tmp_path: Path) -> None:
    write_structures(tmp_path / "both.extxyz", cells(energy=True, forces=True))
    words = ["evaluate", "mine=ase.calculators.emt:EMT", str(tmp_path / "both.extxyz")]
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "mine" in result.output


def test_elements_that_the_model_was_not_trained_on_are_refused(tmp_path: Path) -> None:
    """And warned of, once, where ASE asks."""
    model = small("cgcnn")
    model.metadata["elements"] = ["Cu"]
    model.save(tmp_path / "net.pt")
    structures = cells(energy=True, forces=True)
    write_structures(tmp_path / "both.extxyz", structures)
    refused = CliRunner().invoke(app, ["evaluate", str(tmp_path / "net.pt"), str(tmp_path / "both.extxyz")])
    assert refused.exit_code == 2
    assert "structure cell-0" in refused.output
    assert "not trained on Ni (it knows Cu)" in " ".join(refused.output.split())
    network, data, out = (str(tmp_path / name) for name in ("net.pt", "both.extxyz", "out"))
    for words in (["label", data, "--teacher", network, "-o", f"{out}.extxyz"], ["align", network, network, data]):
        refused = CliRunner().invoke(app, words)
        assert refused.exit_code == 2, words
        assert "element Ni was not in the training of" in " ".join(refused.output.split())
    calculator = ASECalculator(load_model(tmp_path / "net.pt"))
    nickel, copper = structures[0].copy(), structures[1].copy()
    nickel.calc = copper.calc = calculator
    with pytest.warns(UserWarning, match=r"cell-0: the model was not trained on Ni \(it knows Cu\)"):
        nickel.get_potential_energy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copper.get_potential_energy()
        nickel.rattle(0.01)
        nickel.get_potential_energy()
