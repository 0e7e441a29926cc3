"""Structures that cannot be used are refused where they are read: with file, structure and field."""

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from typer.testing import CliRunner

from mdl_physpretrain.cli import app
from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.structures import read_structures
from mdl_physpretrain.workflow.check_suite import probe_names
from mdl_physpretrain.workflow.config import RunConfig
from mdl_physpretrain.workflow.stages import prepare

DAMAGES = ("positions", "cell", "coinciding", "forces", "energy")


def _cells() -> list[Atoms]:
    cells = []
    for k in range(4):
        atoms = Atoms("Si2", [[0, 0, 0], [1.3, 1.3, 1.3 + 0.02 * k]], cell=[4.0] * 3, pbc=True)
        atoms.info["structure_id"] = f"mine-{k}"
        atoms.calc = SinglePointCalculator(atoms, energy=-8.0, forces=np.zeros((2, 3)))
        cells.append(atoms)
    return cells


@pytest.fixture(params=DAMAGES)
def damaged(request, tmp_path):
    cells = _cells()
    atoms = cells[2]
    if request.param == "positions":
        atoms.positions[1, 0] = np.nan
    elif request.param == "cell":
        atoms.cell[:] = 0
    elif request.param == "coinciding":
        atoms.positions[1] = atoms.positions[0]
    elif request.param == "forces":
        atoms.calc.results["forces"][1, 1] = np.nan
    else:
        atoms.calc.results["energy"] = np.inf
    path = tmp_path / "damaged.extxyz"
    atoms.calc.atoms = atoms.copy()
    write(path, cells)
    field = {"coinciding": "positions"}.get(request.param, request.param)
    return path, field


@pytest.mark.parametrize(
    "words",
    [
        "fit-teacher {file} -o {out}.pt",
        "evaluate {potential} {file}",
        "train {file} -o {out}",
        "examine {potential} {file}",
        "check {potential} -s {file} -o {out}",
        "mdl-data {file} -o {out}",
    ],
)
def test_who_needs_labels_names_file_structure_and_field(words, damaged, tmp_path):
    path, field = damaged
    potential = "ase.calculators.lj:LennardJones"
    arguments = [w.format(file=path, out=tmp_path / "out", potential=potential) for w in words.split()]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2, result.output
    told = " ".join(result.output.split())
    assert f"file {path}, structure mine-2, field {field}: " in told


def test_run_names_file_structure_and_field(damaged, tmp_path):
    path, field = damaged
    good = tmp_path / "good.extxyz"
    write(good, _cells())
    config = tmp_path / "run.yaml"
    config.write_text(f"data: {{train: {good.name}, val: {path.name}}}\n")
    result = CliRunner().invoke(app, ["run", str(config), "-o", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert f"file {path}, structure mine-2, field {field}: " in " ".join(result.output.split())


def test_only_what_is_asked_for_is_refused(damaged):
    path, field = damaged
    assert len(read_structures(path)) == 4
    if field in ("forces", "energy"):
        assert len(read_structures(path, check="atoms")) == 4
        with pytest.raises(StructureError, match=f"damaged.extxyz, structure mine-2, field {field}"):
            read_structures(path, check="labels")
    else:
        with pytest.raises(StructureError, match=f"damaged.extxyz, structure mine-2, field {field}"):
            read_structures(path, check="atoms")


@pytest.mark.parametrize("words", ["md {potential} {file} -o {out}", "augment {file} -o {out}.extxyz --thermal none"])
def test_who_needs_no_labels_refuses_atoms_only(words, damaged, tmp_path):
    path, field = damaged
    arguments = [
        w.format(file=path, out=tmp_path / "out", potential="ase.calculators.lj:LennardJones") for w in words.split()
    ]
    result = CliRunner().invoke(app, [*arguments, *(["--steps", "2"] if words.startswith("md") else [])])
    if field in ("forces", "energy"):
        assert result.exit_code == 0, result.output
    else:
        assert result.exit_code == 2
        assert f"file {path}, structure mine-2, field {field}: " in " ".join(result.output.split())


def test_labelling_goes_on_beside_a_damaged_structure(damaged, tmp_path):
    path, field = damaged
    words = f"label {path} -o {tmp_path / 'out.extxyz'} --teacher ase.calculators.lj:LennardJones --no-anchored"
    result = CliRunner().invoke(app, words.split())
    assert result.exit_code == 0, result.output
    written = {atoms.info["structure_id"] for atoms in read_structures(tmp_path / "out.extxyz")}
    usable = {"mine-2"} if field in ("forces", "energy") else set()  # its own labels do not matter
    assert written == {"mine-0", "mine-1", "mine-3"} | usable


def test_labels_that_are_missing_by_an_option(tmp_path):
    cells = _cells()
    cells[2].calc.results["forces"][1, 1] = np.nan
    path = tmp_path / "cells.extxyz"
    write(path, cells)
    arguments = ["evaluate", "ase.calculators.lj:LennardJones", str(path), "--nan-labels", "missing"]
    assert CliRunner().invoke(app, arguments).exit_code == 0


def test_a_run_asks_only_what_it_uses(damaged, tmp_path):
    cells = read_structures(damaged[0])
    cells[2].numbers[:] = 32
    cells[2].calc.atoms = cells[2].copy()
    write(tmp_path / "other.extxyz", cells)
    data = {"train": str(tmp_path / "other.extxyz"), "elements": ["Si"]}
    assert len(prepare._read(RunConfig.model_validate({"data": data}).data)["train"]) == 3


def test_starts_of_md_are_checked_before_the_run(damaged, tmp_path):
    path, field = damaged
    if field in ("forces", "energy"):
        pytest.skip("MD needs no labels")
    write(tmp_path / "good.extxyz", _cells())
    (tmp_path / "run.yaml").write_text(f"data: {{source: good.extxyz}}\nmd: {{source: {path.name}}}\n")
    result = CliRunner().invoke(app, ["run", str(tmp_path / "run.yaml"), "-o", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert f"file {path}, structure mine-2, field {field}: " in " ".join(result.output.split())
    assert not (tmp_path / "out" / "teacher").exists()


def test_a_check_of_some_structures_asks_these_only(damaged, tmp_path):
    path, field = damaged
    words = f"check ase.calculators.lj:LennardJones -s {path} -o {tmp_path / 'out'} --steps 2"
    skipped = [word for name in probe_names() for word in ("--skip", name)]
    first, all_of_them = (CliRunner().invoke(app, [*words.split(), *skipped, "--max-structures", n]) for n in "14")
    assert first.exit_code in (0, 1), first.output
    unusable = field not in ("forces", "energy")  # of the labels nothing is asked
    assert (all_of_them.exit_code == 2) == unusable, all_of_them.output


def test_a_misspelled_check_is_told(damaged):
    with pytest.raises(ConfigError, match="check must be one of nothing, atoms, labels, not 'label'"):
        read_structures(damaged[0], check="label")
