"""The survey: materials, one check per potential and condition, a page of all."""

from __future__ import annotations

import importlib
import sys

import numpy as np
import pandas as pd
import pytest
from ase.geometry import get_distances
from typer.testing import CliRunner

from mdl_physpretrain.cli import app
from mdl_physpretrain.errors import ConfigError, PhysPretrainError
from mdl_physpretrain.statistics.survival import NOT_RUN, shares_in_words
from mdl_physpretrain.survey import material_names, materials
from mdl_physpretrain.survey.supported import write_refusals
from mdl_physpretrain.survey.survey import Condition, conditions

survey_module = importlib.import_module("mdl_physpretrain.survey.survey")  # the package has a function of that name
QUICK = ["--steps", "5", "--check", "--nve-steps 20 --compressed 1 --probe wide_pairs=none --probe bond_structures=1"]


def test_materials_are_crystals_of_many_elements():
    crystals = materials()
    assert len(crystals) == len(material_names()) >= 12
    elements = {symbol for atoms in crystals for symbol in atoms.symbols}
    assert len(elements) >= 10
    assert {"Li", "C", "O", "Fe"} <= elements
    for atoms in crystals:
        assert 8 <= len(atoms) <= 16, atoms
        _, r = get_distances(atoms.positions, cell=atoms.cell, pbc=True)
        assert r[np.triu_indices(len(atoms), 1)].min() > 1.1, atoms.info
    density = {a.info["structure_id"]: a.get_masses().sum() / a.cell.volume * 1.66054 for a in crystals}  # g/cm³
    for name, value in {"Cu": 8.93, "MgO": 3.58, "SiO2": 2.65, "LiCoO2": 5.05, "CO2": 1.64, "TiO2": 4.25}.items():
        assert density[name] == pytest.approx(value, rel=0.03), name
    with pytest.raises(ConfigError, match="there is no material 'Xy'"):
        materials(["Xy"])


def test_conditions_and_shares():
    assert [c.name for c in conditions([300, 1000], [0, 20])] == ["300K", "1000K", "300K-20GPa"]
    assert conditions([300]) == [Condition(300.0)]
    with pytest.raises(ConfigError, match="above 0 K"):
        conditions([0])
    assert shares_in_words([0.5, 3.0, 5.0], [True, True, False], [5.0, 5.0, 5.0]) == {
        1.0: "2 of 3", 2.0: "2 of 3", 5.0: "1 of 3", 10.0: NOT_RUN,
    }  # fmt: skip


@pytest.fixture
def in_this_process(monkeypatch):
    """Commands of a survey without another Python, which takes seconds to start."""

    def run(words):
        try:
            if words[2].endswith("supported"):
                write_refusals(*words[3:])
                return ""
        except PhysPretrainError as error:
            return str(error)
        done = CliRunner().invoke(app, words[3:])
        return "" if done.exit_code == 0 else done.output.strip().splitlines()[-1]

    monkeypatch.setattr(survey_module, "_run", run)


def test_commands_of_another_python_tell_why_they_fail():
    python = [sys.executable, "-c"]
    assert survey_module._run([*python, "print(1)"]) == ""
    assert survey_module._run([*python, "import sys; sys.exit('error: no such thing')"]) == "no such thing"
    assert survey_module._run([*python, "import os; os.abort()"]) == "ended by signal 6"
    with pytest.raises(KeyboardInterrupt):
        survey_module._run([*python, "raise SystemExit(130)"])


@pytest.mark.long
def test_a_survey_is_resumed_and_tells_what_a_potential_cannot_do(tmp_path, monkeypatch, in_this_process):
    monkeypatch.chdir(tmp_path)
    words = ["survey", "-o", "out", "-p", "EMT", "-m", "Cu", "-m", "MgO", "--temperatures", "300", "--pressures", "0"]
    done = CliRunner().invoke(app, [*words, *QUICK])
    assert done.exit_code == 0, done.output
    assert f"EMT, 300K: physical after 1 ps {NOT_RUN}" in done.output
    trajectories = pd.read_csv(tmp_path / "out/trajectories.csv")
    assert trajectories["structure_id"].tolist() == ["Cu"]
    page = (tmp_path / "out/index.html").read_text()
    assert "EMT was not asked about MgO" in page
    assert 'href="EMT/300K/report/index.html#bond_smoothness"' in page
    assert (tmp_path / "out/EMT/300K/report/index.html").is_file()
    runs = tmp_path / "out/EMT/300K/seed-0/md/EMT.runs.npz"
    written = runs.stat().st_mtime_ns

    broken = [*words, *QUICK, "-p", "lost=no_such_module:make"]
    again = CliRunner().invoke(app, broken)
    assert again.exit_code == 1
    assert "lost, 300K: cannot import" in again.output
    assert "lost, 300K: cannot import" in (tmp_path / "out/index.html").read_text()
    assert runs.stat().st_mtime_ns == written, "what is done is not done again"
    other = CliRunner().invoke(app, ["survey", "-o", "out", "-p", "EMT", "-m", "Al", *QUICK])
    assert other.exit_code == 2
    assert "other materials" in other.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-p", "nonsense"], "neither NAME=POTENTIAL nor one of"),
        (["-p", "EMT@/no/python"], "no Python that works"),
        (["-p", "EMT", "--temperatures", "warm"], "not a list of numbers"),
        (["-p", "EMT", "--skip", "md"], "skip must be among"),
        (["-p", "EMT", "-m", "Unobtainium"], "no material"),
    ],
)
def test_bad_words_are_told_before_any_work(tmp_path, words, message):
    done = CliRunner().invoke(app, ["survey", "-o", str(tmp_path / "out"), *words])
    assert done.exit_code == 2
    assert message in done.output
    assert not (tmp_path / "out").exists()
