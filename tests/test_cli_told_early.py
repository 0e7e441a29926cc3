"""What a user gets wrong is told before any long work, in words that fit, and names what is meant."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write
from typer.testing import CliRunner

import mdl_physpretrain as pp
from mdl_physpretrain import method
from mdl_physpretrain.cli import app
from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.structures import write_structures
from mdl_physpretrain.teacher import source


def call(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert not isinstance(result.exception, (KeyError, TypeError, AttributeError)), result.exception
    return result.exit_code, " ".join((result.stdout + result.stderr).split())


@pytest.fixture
def no_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a teacher is fitted")

    monkeypatch.setattr(source, "fitted_teacher", refuse)
    monkeypatch.setattr(method, "obtain_teacher", refuse)


@pytest.fixture
def trajectory(tmp_path: Path) -> Path:
    frames = []
    for k in range(30):
        atoms = bulk("Cu", "fcc", cubic=True)
        atoms.rattle(0.02, seed=k)
        frames.append(atoms)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "md.traj", frames)
    return tmp_path


def test_structures_with_a_tag_called_parent_id_are_labelled(rocksalt: list[Atoms], tmp_path: Path) -> None:
    cells = [bulk("Cu", "fcc", a=3.6 + 0.02 * k, cubic=True) for k in range(3)]
    for atoms in cells:
        atoms.info["parent_id"] = "mp-30"
    write_structures(tmp_path / "cu.extxyz", cells)
    code, said = call(
        "label", tmp_path / "cu.extxyz", "-o", tmp_path / "out.extxyz", "--teacher", "ase.calculators.emt:EMT"
    )
    assert code == 0, said
    assert "Wrote 3 structures" in said


@pytest.mark.usefixtures("no_fit")
@pytest.mark.parametrize("command", [["fit-teacher", "--kind", "classical"], ["fit-eam"]])
def test_a_place_that_cannot_be_written_to_is_told_before_the_fit(
    command: list[str], rocksalt: list[Atoms], tmp_path: Path
) -> None:
    write_structures(tmp_path / "mgo.extxyz", rocksalt)
    code, said = call(*command, tmp_path / "mgo.extxyz", "-o", tmp_path / "mgo.extxyz" / "teacher.pt")
    assert code == 2
    assert "cannot write" in said


def test_a_teacher_that_is_fitted_again_keeps_the_one_before(rocksalt: list[Atoms], tmp_path: Path) -> None:
    write_structures(tmp_path / "mgo.extxyz", rocksalt)
    (tmp_path / "t.pt").write_text("the first")
    with pytest.warns(UserWarning, match="was there: it is kept as"):
        call("fit-teacher", tmp_path / "mgo.extxyz", "--kind", "classical", "-o", tmp_path / "t.pt")
    assert (tmp_path / "t.pt.replaced").read_text() == "the first"


@pytest.mark.usefixtures("no_fit")
def test_data_without_forces_are_told_when_they_are_read(rocksalt: list[Atoms], tmp_path: Path) -> None:
    for atoms in rocksalt:
        del atoms.calc.results["forces"]
    write_structures(tmp_path / "mgo.extxyz", rocksalt)
    (tmp_path / "c.yaml").write_text(f"data: {{source: {tmp_path / 'mgo.extxyz'}}}\n")
    code, said = call("run", tmp_path / "c.yaml", "-o", tmp_path / "run", "--only", "prepare")
    assert code == 2
    assert "augment.anchor needs training structures with energy and forces" in said
    with pytest.raises(ConfigError, match=r"augment\.anchor needs training structures"):
        pp.pretrain_and_finetune(rocksalt)


@pytest.mark.usefixtures("no_fit")
def test_arguments_of_a_network_are_looked_at_before_the_teacher(rocksalt: list[Atoms]) -> None:
    with pytest.raises(ConfigError, match=r"model_args.cutof: torchmd_et has no such argument; did you mean 'cutoff'"):
        pp.pretrain_and_finetune(rocksalt, model_args={"cutof": 5.0})
    with pytest.raises(ConfigError, match=r"model: unknown model"):
        pp.pretrain_and_finetune(rocksalt, model="cgnn")


@pytest.mark.parametrize("temperature", ["nan", "-5", "0", "inf"])
def test_temperatures_that_cannot_be(temperature: str, trajectory: Path) -> None:
    code, said = call("assess", trajectory / "a" / "md.traj", "-T", temperature)
    assert code == 2
    assert "temperature must be a positive number (K)" in said


def test_a_folder_is_not_called_a_missing_file(trajectory: Path) -> None:
    code, said = call("assess", trajectory / "a")
    assert code == 2
    assert "is a folder; give a file or a pattern" in said
    assert "no such file" not in said


def test_trajectories_of_one_name_are_told_apart(trajectory: Path) -> None:
    files = [trajectory / name / "md.traj" for name in ("a", "b")]
    code, said = call("assess", *files, "-o", trajectory / "t.csv")
    assert code == 0, said
    assert pd.read_csv(trajectory / "t.csv")["structure_id"].tolist() == [str(file) for file in files]
    call("assess", files[0], "-o", trajectory / "one.csv")
    assert pd.read_csv(trajectory / "one.csv")["structure_id"].tolist() == ["md"]


def test_values_of_the_command_line_are_not_blamed_on_the_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("data: {source: demo}\nseeds: [0, 1]\n")
    code, said = call("run", tmp_path / "c.yaml", "seeds=[-1]", "--plan", "-o", tmp_path / "run")
    assert code == 2
    assert "option 'seeds=[-1]'" in said
    assert "c.yaml:2" not in said
