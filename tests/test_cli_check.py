"""The commands that ask any potential: md with several, check, evaluate."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from typer.testing import CliRunner

from mdl_physpretrain.cli import app
from mdl_physpretrain.cli.check import tell
from mdl_physpretrain.dynamics import Runs
from mdl_physpretrain.potentials import CGCNN
from mdl_physpretrain.structures import write_structures
from mdl_physpretrain.workflow.check import check as checked
from mdl_physpretrain.workflow.check_suite import probe_names

FREE = """
import numpy as np
from ase.calculators.calculator import Calculator, all_changes

class Free(Calculator):
    implemented_properties = ["energy", "forces", "stress"]
    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": 0.0, "forces": np.zeros((len(self.atoms), 3)), "stress": np.zeros(6)}
"""


def call(*words: object):
    return CliRunner().invoke(app, [str(w) for w in words])


def fine(*words: object) -> str:
    result = call(*words)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a potential without forces in it, and three labelled copper cells."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "free_atoms.py").write_text(FREE)
    cells = []
    for k in range(3):
        atoms: Atoms = bulk("Cu", "fcc", cubic=True)
        atoms.rattle(0.03, seed=k)
        atoms.calc = EMT()
        atoms.get_forces()
        atoms.info["structure_id"] = f"cu{k}"
        cells.append(atoms)
    write_structures(tmp_path / "cu.extxyz", cells)
    return tmp_path


def test_md_of_one_potential_keeps_its_files(folder: Path) -> None:
    out = fine("md", "ase.calculators.emt:EMT", "cu.extxyz", "-o", "md", "--steps", 3, "--trajectories", 1)
    assert "0 of 3 trajectories are unphysical" in out
    assert len(Runs.load(folder / "md" / "runs.npz")) == 3
    assert (folder / "md" / "trajectories" / "cu0.extxyz").is_file()
    assert not (folder / "md" / "check.json").exists()


def test_md_of_two_potentials_is_paired(folder: Path) -> None:
    options = ("-T", 3000, "--steps", 20, "--seeds", "0,1", "--timestep", 2)
    out = fine("md", "EMT=ase.calculators.emt:EMT", "cu.extxyz", "--also", "free_atoms:Free", "-o", "md", *options)
    table = pd.read_csv(folder / "md" / "physicality.csv")
    assert table.groupby(["arm", "seed"]).size().to_dict() == {
        (arm, seed): 3 for arm in ("EMT", "Free") for seed in (0, 1)
    }  # fmt: skip
    assert set(table["temperature"]) == {3000.0}
    assert "Free against EMT: of 6 pairs of trajectories (same structure, velocities and noise)" in out
    assert "velocities and noise were repeated, trainings were not" in out
    assert f"Wrote {Path('md') / 'physicality.csv'}" in out
    first = {name: Runs.load(folder / f"md/seed-1/md/{name}.runs.npz")[0] for name in ("EMT", "Free")}
    assert first["EMT"].trace_temperature[0] == first["Free"].trace_temperature[0]
    single = fine("md", "ase.calculators.emt:EMT", "cu.extxyz", "-o", "one", "--seed", 1, *options[:4], *options[6:])
    assert "trajectories are unphysical" in single
    alone = Runs.load(folder / "one" / "runs.npz")[0]
    np.testing.assert_array_equal(alone.positions, first["EMT"].positions)


def test_check_of_a_network_and_a_calculator(folder: Path, rocksalt: list[Atoms]) -> None:
    net = CGCNN(cutoff=4.0, dim1=4, dim2=4).eval()
    net.save(folder / "net.pt")
    write_structures(folder / "mgo.extxyz", rocksalt)
    options = ("--steps", 5, "--trajectories", 1, "--nve-steps", 20, "--nve-structures", 1, "--compressed", 1)
    out = fine(
        "check", "net.pt", "Free=free_atoms:Free", "-s", "mgo.extxyz", "-o", "out", "--max-structures", 2, *options
    )
    for words in ("Answers", "two atoms repel", "compression costs energy", "energy is conserved", "Free against net"):
        assert words in out, words
    assert (folder / "out" / "report" / "index.html").is_file()
    told = json.loads((folder / "out" / "check.json").read_text())
    assert told["potentials"] == {"net": "net.pt", "Free": "free_atoms:Free"}
    assert len(told["structures"]) == 2


def test_check_says_how_far_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("mdl_physpretrain.workflow.watch.FIRST", 0.001)
    monkeypatch.setattr("mdl_physpretrain.workflow.watch.LONGEST", 0.001)
    lines: list[str] = []
    skipped = tuple(name for name in probe_names() if name != "errors")
    checked(
        {"EMT": EMT()}, folder / "cu.extxyz", output=folder / "out", steps=1, report=False, skip=skipped,
        say=lines.append, listener=tell,
    )  # fmt: skip
    assert any(re.match(r"errors of EMT: (since|.*\d+%)", line) for line in lines), lines
    assert re.search(r"\d\d:\d\d  errors of EMT: done in [\d.]+ s", capsys.readouterr().err)


def test_evaluate_takes_any_potential(folder: Path) -> None:
    out = fine("evaluate", "ase.calculators.emt:EMT", "cu.extxyz")
    assert "EMT" in out
    assert "trivial" in out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("check", "gone.pt", "-s", "cu.extxyz"), "gone.pt does not exist"),
        (("check", "ase.calculators.emt:EMT", "-s", "gone.extxyz"), "gone.extxyz"),
        (("check", "ase.calculators.emt:EMT", "ase.calculators.emt:EMT", "-s", "cu.extxyz"), "two potentials"),
        (("check", "ase.calculators.emt:EMT", "-s", "demo"), "potential EMT: "),
        (("check", "ase.calculators.emt:EMT", "-s", "cu.extxyz", "--seeds", "1;2"), "--seeds"),
        (("check", "ase.calculators.emt:EMT", "-s", "cu.extxyz", "--skip", "md"), "skip must be among"),
        (("check", "ase.calculators.emt:EMT", "-s", "cu.extxyz", "--reference", "gone.xyz"), "gone.xyz"),
        (("md", "reference=free_atoms:Free", "cu.extxyz", "--seeds", "0,1"), "cannot be called 'reference'"),
        (("evaluate", "free_atoms:Gone", "cu.extxyz"), "the module has no 'Gone'"),
    ],
)
def test_wrong_input_is_one_message(folder: Path, words: tuple[str, ...], expected: str) -> None:
    result = call(*words, *(() if words[0] == "evaluate" else ("-o", "out")))
    assert result.exit_code == 2, result.output
    assert expected in result.stderr
    assert not list(folder.glob("out/seed-*"))


def test_a_check_without_potential_or_structures_says_how_it_is_called(folder: Path) -> None:
    form = "physpretrain check POTENTIAL... -s STRUCTURES -o FOLDER"
    for words, told in (
        (["cells.extxyz"], "cells.extxyz holds structures, no potential"),
        (["cells.extxyz", "-s", "cells.extxyz", "-o", "out"], "cells.extxyz holds structures, no potential"),
        (["free_atoms:Free", "-o", "out"], "-s (structures) is missing"),
        (["free_atoms:Free", "-s", "cells.extxyz"], "-o (output folder) is missing"),
    ):
        result = call("check", *words)
        output = " ".join(result.output.split())
        assert (result.exit_code, told in output, form in output) == (2, True, True), output
    assert not (folder / "out").exists()
