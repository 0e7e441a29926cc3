"""Every command that reads structures can be told how their labels are called and in what units they are."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from mdl_physpretrain.cli import app
from mdl_physpretrain.cli.label_options import with_label_options
from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.structures import get_labels, read_structures, set_labels, write_structures
from mdl_physpretrain.structures.labels import Labels

COMMANDS = typer.main.get_command(app).commands
OPTIONS = ["energy_key", "forces_key", "stress_key", "units", "nan_labels", "duplicates"]


@pytest.fixture
def file(tmp_path, rocksalt):
    for k, atoms in enumerate(rocksalt):
        atoms.info["my_energy"] = -1.0 - k
    write_structures(tmp_path / "a.extxyz", rocksalt)
    return tmp_path / "a.extxyz"


def test_all_commands_that_read_structures_have_them():
    reading = {name: [p.name for p in command.params] for name, command in COMMANDS.items()}
    reading = {name: params for name, params in reading.items() if "structures" in params}
    assert {"train", "fit-eam", "label", "augment", "evaluate", "md", "check", "finetune", "pretrain"} <= set(reading)
    for name, params in reading.items():
        assert set(OPTIONS) <= set(params), name
        assert len(params) == len(set(params)), name


def test_what_a_command_reads_meanwhile_is_read_with_them(file):
    def command(structures: str) -> float:
        return get_labels(read_structures(structures)[2]).energy

    wrapped = with_label_options(command)
    assert wrapped(structures=file, energy_key="my_energy") == -3.0
    assert wrapped(structures=file, energy_key="my_energy", units="energy=eV/atom") == -24.0
    assert wrapped(structures=file) == command(file)  # and not afterwards
    with pytest.raises(StructureError, match="field my_enrgy: no structure has it as energy"):
        wrapped(structures=file, energy_key="my_enrgy")
    with pytest.raises(ConfigError, match="did you mean"):
        wrapped(structures=file, units="stress=GPaa")
    with pytest.raises(ConfigError, match="not of the form label=unit"):
        wrapped(structures=file, units="GPa")
    with pytest.raises(ConfigError, match="neither keep nor missing"):
        wrapped(structures=file, nan_labels="maybe")
    with pytest.raises(ConfigError, match="--duplicates: 'drop' is neither error nor rename"):
        wrapped(structures=file, duplicates="drop")


def test_structures_of_the_same_identifier_are_renamed_on_request(file, rocksalt):
    run = with_label_options(lambda structures: [a.info["structure_id"] for a in read_structures(structures)])
    for atoms in rocksalt[:3]:
        atoms.info["structure_id"] = "same"
    write_structures(file.with_name("twice.extxyz"), rocksalt[:3])
    with pytest.raises(StructureError, match="--duplicates rename"):
        run(structures=file.with_name("twice.extxyz"))
    assert run(structures=file.with_name("twice.extxyz"), duplicates="rename") == ["same", "same~2", "same~3"]


def test_what_this_package_labelled_is_read_by_the_usual_names(file, rocksalt):
    for atoms in rocksalt:
        atoms.info["label_source"] = "eam"
        set_labels(atoms, Labels(energy=-7.0))
    write_structures(file.with_name("labelled.extxyz"), rocksalt)
    run = with_label_options(lambda structures: [get_labels(a).energy for a in read_structures(structures)])
    assert (
        run(structures=file.with_name("labelled.extxyz"), energy_key="my_energy", units="energy=Hartree") == [-7.0] * 8
    )


def test_on_the_command_line(file):
    result = CliRunner().invoke(
        app, ["augment", str(file), "-o", str(file.with_name("b.extxyz")), "--energy-key", "no"]
    )
    assert result.exit_code == 2
    assert "field no: no structure has it as energy" in result.output


@pytest.mark.filterwarnings("ignore:.*differ")
def test_labels_that_only_some_have_are_counted(file, rocksalt):
    for atoms in rocksalt[:3]:
        del atoms.calc.results["forces"]
    write_structures(file, rocksalt)
    with pytest.warns(UserWarning, match=r"a\.extxyz: 3 of 8 structures have no forces \(first: mgo-0\)"):
        with_label_options(lambda structures: read_structures(structures))(structures=file)
