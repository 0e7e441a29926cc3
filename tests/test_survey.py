"""The survey: materials, one check per potential and condition, a page of all."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from ase.geometry import get_distances
from typer.testing import CliRunner

from mdl_physpretrain.cli import app
from mdl_physpretrain.errors import ConfigError, PhysPretrainError, Terminated
from mdl_physpretrain.ownership import claim_folder
from mdl_physpretrain.potentials import CGCNN
from mdl_physpretrain.report.check import answer_table
from mdl_physpretrain.statistics.survival import NOT_RUN, shares_in_words
from mdl_physpretrain.survey import material_names, materials
from mdl_physpretrain.survey import page as page_module
from mdl_physpretrain.survey.known import KNOWN
from mdl_physpretrain.survey.supported import refusals, write_refusals
from mdl_physpretrain.survey.survey import Condition, SurveyPotential, conditions
from mdl_physpretrain.survey.tables import answers_of, checks_of

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


def test_reasons_are_signals_and_words_inside_a_box():
    reason = survey_module._reason
    box = "Usage: check\n╭─ Error ───╮\n│ No such option: --stepz (Possible │\n│ options: --steps)   │\n╰───────────╯\n"
    assert reason(2, box) == "No such option: --stepz (Possible options: --steps)"
    assert reason(2, "Usage: check\nError: No such option: --stepz") == "No such option: --stepz"
    assert reason(-9, "<string>:1: UserWarning: tied weights") == reason(137, "") == "ended by signal 9"
    assert reason(-6, "what(): no memory") == "ended by signal 6; its last message: what(): no memory"
    assert reason(1, "error: no such thing\nwarning: at exit") == "no such thing"
    assert reason(1, "") == "no message"


def test_a_potential_that_was_repaired_is_asked_again(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    path = tmp_path / "mine/refused.json"
    refused = {"Cu": "No module named 'e3nn'"}

    def run(words):
        Path(words[-1]).write_text(json.dumps({"refused": refused}))
        return ""

    monkeypatch.setattr(survey_module, "_run", run)
    call = partial(survey_module._prepare, tmp_path, SurveyPotential("mine", "m:make"))
    assert call(materials(["Cu"])) == {"": "No module named 'e3nn'"}
    assert not path.exists(), "all are refused: perhaps by the environment"
    assert call(materials(["Cu", "Al"])) == refused
    assert survey_module._read_refusals(tmp_path) == {("mine", "Cu"): "No module named 'e3nn'"}
    refused = {}
    assert call(materials(["Cu", "Al"])) == {}
    assert survey_module._read_refusals(tmp_path) == {}


def test_networks_are_not_asked_about_elements_that_they_were_not_trained_on():
    network = CGCNN(cutoff=4.5, dim1=8, dim2=8, gc_count=1)
    network.metadata["elements"] = ["O", "Si"]
    refused = refusals(network, materials(["SiO2", "Si", "GaAs"]))
    assert refused == {"GaAs": "field elements: the potential was not trained on Ga, As (it knows O, Si)"}


def test_the_page_shows_the_mildest_condition_and_names_it(tmp_path):
    for name in ("1000K", "300K-5GPa", "300K", "300K-20GPa"):
        (tmp_path / "A" / name).mkdir(parents=True)
        rows = [{"arm": "A", "question": "diffuses", "verdict": "no", "finding": "much"}]
        rows += [{"arm": "A", "question": "smooth", "verdict": "yes", "finding": ""}] if name == "300K" else []
        pd.DataFrame(rows).to_csv(tmp_path / "A" / name / "verdicts.csv", index=False)
    answers = answers_of(tmp_path)
    assert answers["condition"].unique().tolist() == ["300K", "1000K", "300K-5GPa", "300K-20GPa"]
    _, diffuses, smooth = page_module._potentials(answers, ["diffuses", "smooth"])[0]
    assert (diffuses["note"], smooth["note"]) == ("300K: much", "")
    assert diffuses["link"].startswith("A/300K/")


def test_sigterm_ends_the_check_at_work():
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with survey_module._ended_by_sigterm(), pytest.raises(Terminated):
        survey_module._run([sys.executable, "-c", "import time; time.sleep(60)"])
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_shares_sort_by_their_value():
    words = ["9 of 12", "10 of 12", "1 of 1", NOT_RUN, "0 of 2"]
    assert sorted(words[:3], key=page_module._share) == words[:3]
    assert [page_module._share(word) for word in (NOT_RUN, "0 of 2", "0 of 0")] == ["", 0, ""]


def test_checks_and_potentials_of_earlier_calls_stay(tmp_path):
    folder = claim_folder(tmp_path / "out", "survey")
    for name, seconds in (("300K", 90.0), ("1000K", None)):
        (folder / "A" / name).mkdir(parents=True)
        settings = {"ensemble": "nvt", "steps": 5000, "timestep": 0.5}
        check = json.dumps({"potentials": {"A": "a:make"}, "settings": settings})
        (folder / "A" / name / "check.json").write_text(check)
        if seconds:
            (folder / "A" / name / "timings.json").write_text(json.dumps([{"seconds": seconds / 2}] * 2))
    checks = checks_of(folder)
    assert checks["seconds"].tolist() == pytest.approx([90.0, np.nan], nan_ok=True)
    assert page_module._lengths(checks) == "NVT, 5,000 steps of 0.5 fs"
    for name in "AB":
        survey_module._collect(folder, [SurveyPotential(name, f"{name}:make")], {})
    assert list(json.loads((folder / "survey.json").read_text())["potentials"]) == ["A", "B"]


@pytest.mark.filterwarnings("error")
def test_missing_numbers_leave_their_cells_empty():
    row = {"potential": "A", "condition": "300K", "structure_id": "Cu", "verdict": "overlap", "reason": "overlap",
           "closest_pair": None, "ps": np.nan, "planned_ps": 5.0}  # fmt: skip
    table = pd.DataFrame([row, {**row, "ps": 1.0, "planned_ps": np.nan}])
    cells = [[cell["text"] for cell in cells[-2:]] for _, cells in page_module._trajectories(table)]
    assert cells == [["", "5"], ["1", ""]]
    answers = pd.DataFrame({"arm": "A", "question": ["q"], "verdict": ["yes"], "finding": [np.nan], "n": [np.nan]})
    run = SimpleNamespace(answers=answers, judged=["A"])
    assert answer_table(run).rows[0][1].text == "yes"


def test_the_page_says_for_how_long_a_potential_was_to_run():
    short = {"potential": "A", "condition": "300K", "verdict": "physical", "reason": "", "ps": 0.5, "planned_ps": 0.5}
    lost = {**short, "potential": "B", "verdict": "unphysical", "reason": "overlap", "ps": 0.1, "planned_ps": 2.0}
    checks = pd.DataFrame({"potential": ["A", "B"], "condition": "300K", "seconds": 60.0})
    rows = page_module._survival(pd.DataFrame([short, lost]), checks)
    texts = [[cell["text"] for cell in row] for row in rows]
    assert texts[0] == ["A", "300K", "1", "0", "0.5", *[NOT_RUN] * 4, "1"]
    assert texts[1] == ["B", "300K", "1", "1", "2", "0 of 1", "0 of 1", NOT_RUN, NOT_RUN, "1"]
    runs = [pd.DataFrame([{**short, "ps": ps, "planned_ps": ps}]) for ps in (1.0, 5.0)]
    colours = [page_module._survival(run, checks)[0][3]["css"] for run in runs]
    assert colours == ["", "good"], "nothing lost in a short run is no claim"
    assert rows[1][3]["css"] == "bad"


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
    assert 'data-key="MgO">MgO<small>' in page, "what EMT cannot evaluate"
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
    whole = CliRunner().invoke(app, [*words, *QUICK])
    assert whole.exit_code == 0, "lost is of an earlier call, and not asked for in this one"
    assert "Not done in earlier calls, and not asked for now: lost, 300K: cannot import" in whole.output
    other = CliRunner().invoke(app, ["survey", "-o", "out", "-p", "EMT", "-m", "Al", *QUICK])
    assert other.exit_code == 2
    assert "other materials" in other.output


def test_failures_of_earlier_calls_are_told_apart(tmp_path):
    folder = claim_folder(tmp_path / "out", "survey")
    lost, other = (SurveyPotential(name, f"{name}:make") for name in ("lost", "other"))
    found = survey_module._collect(folder, [lost], {("lost", "300K"): "no such module"})
    assert (found.failures, found.earlier) == ({("lost", "300K"): "no such module"}, {})
    found = survey_module._collect(folder, [other], {("other", "300K"): "out of memory"})
    assert found.failures == {("other", "300K"): "out of memory"}
    assert found.earlier == {("lost", "300K"): "no such module"}


def test_some_materials_are_examined_without_md(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(survey_module, "_prepare", lambda folder, potential, structures: refused[potential.name])
    monkeypatch.setattr(survey_module, "_run", lambda words: calls.append(words) or "")
    refused = {"all": {}, "some": {"Cu": "not known"}, "neither": {"Cu": "not known", "MgO": "not known"}}
    potentials = [SurveyPotential(name, "m:make") for name in refused]
    survey_module.survey(potentials, output=tmp_path / "out", names=["Al", "Cu", "MgO"], md_names=["Cu", "MgO"],
                         simulated=[Condition(300.0)])  # fmt: skip
    found = [[words[k + 1] for k, word in enumerate(words) if word == "--md-structures"] for words in calls]
    assert found == [["Cu", "MgO"], ["MgO"], []]
    with pytest.raises(ConfigError, match="Si cannot be simulated: the survey is of Al, Cu"):
        survey_module.survey(potentials, output=tmp_path / "other", names=["Al", "Cu"], md_names=["Si"])


def test_chgnet_computes_no_stress_that_nobody_asks_for(monkeypatch):
    class Calculator:
        def __init__(self, **options):
            self.tasks = []

        def calculate(self, atoms, properties, system_changes, task):
            self.tasks.append(task)

    for name, there in {
        "dynamics": {"CHGNetCalculator": Calculator},
        "model": {"CHGNet": SimpleNamespace(load=dict)},
    }.items():
        monkeypatch.setitem(sys.modules, f"chgnet.model.{name}", SimpleNamespace(**there))
    monkeypatch.setitem(sys.modules, "chgnet", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "chgnet.model", SimpleNamespace())
    calculator = KNOWN["CHGNet-0.3.0"][1]()
    assert type(calculator).__module__ == Calculator.__module__
    for properties in (["energy"], ["forces"], ["stress"], None):
        calculator.calculate(None, properties, [])
    assert calculator.tasks == ["ef", "ef", "efsm", "efsm"]


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
