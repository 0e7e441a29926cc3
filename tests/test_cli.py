import os
import re
import subprocess
import sys

import ase.io
import pandas as pd
import pytest
from typer.testing import CliRunner

import mdl_physpretrain as pp
from mdl_physpretrain import __version__, training
from mdl_physpretrain.cli import app
from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.structures import get_labels, read_structures, write_structures


def call(*words):
    return CliRunner().invoke(app, [str(w) for w in words])


def fine(*words):
    result = call(*words)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def data(tmp_path, rocksalt):
    path = tmp_path / "mgo.extxyz"
    write_structures(path, rocksalt)
    return path


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from mdl_physpretrain.cli import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'lightning', 'pandas', 'ase', 'numpy', 'scipy', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("run", "fit-eam", "examine", "augment", "label", "train", "evaluate", "md", "assess", "report"):
        assert command in done.stdout


def test_version():
    assert __version__ in fine("version")
    assert fine("--version") == fine("version")


@pytest.mark.parametrize("words", [("reproduce", "--help"), ("datasets",), ("--debug", "datasets"), ("config",)])
def test_a_reader_that_went_away_ends_a_command_quietly(words):
    reader, writer = os.pipe()
    os.close(reader)  # as `physpretrain datasets | true`
    command = [sys.executable, "-m", "mdl_physpretrain", *words]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_pipe_that_breaks_inside_is_an_error(tmp_path, monkeypatch):
    def broken(*words, **options):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("mdl_physpretrain.structures.read_structures", broken)
    result = call("init", tmp_path / "new.yaml")
    assert (result.exit_code, "BrokenPipeError" in result.stderr) == (2, True)


def test_init_config_and_its_errors(tmp_path, rocksalt, monkeypatch):
    path = tmp_path / "new.yaml"
    monkeypatch.chdir(tmp_path)
    for gone in ("aloy.extxyz", "*.traj"):
        result = call("init", path, "--data", gone)
        assert result.exit_code == 2
        assert gone in result.stderr
        assert not path.exists()
    for k, atoms in enumerate(rocksalt):
        atoms.info["REF_energy"], atoms.arrays["F_pbe"] = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = None
        atoms.symbols[0] = ("Ca", "Sr", "Ba", "Zn", "Be")[k % 5]
    ase.io.write(tmp_path / "a file[1].extxyz", rocksalt)
    said = fine("init", path, "--data", "a file[1].extxyz")
    assert re.search(r"energy: 8 of 8, -?[\d.]+ to -?[\d.]+ eV/atom, as .REF_energy.", said)
    assert "forces: 0 of 8" in said
    assert "F_pbe" in said
    assert "5 compositions" in said
    assert "# split_by: composition" in path.read_text()
    assert "a file[1].extxyz" in fine("config", path)
    result = call("init", path)
    assert result.exit_code == 2
    assert "exists" in result.output
    fine("init", path, "--force")
    assert "steps: 7" in fine("config", path, "md.steps=7")
    assert "md.temperature" in fine("config")


def test_init_proposes_tags_to_split_by(tmp_path, rocksalt, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for k, atoms in enumerate(rocksalt):
        atoms.info |= {"material": f"m-{k % 3}", "row": f"r-{k}", "method": "PBE", "number": k % 3}
    write_structures("tagged.extxyz", rocksalt)
    said = fine("init", "my.yaml", "--data", "tagged.extxyz")
    assert "tags: material (3 values); if all" in said
    assert "row" not in said
    lines = (tmp_path / "my.yaml").read_text().replace("# split_by", "split_by").splitlines()
    (tmp_path / "my.yaml").write_text("\n".join(lines))
    assert "split_by: material" in fine("config", "my.yaml")


def test_errors_are_one_message_with_exit_code_2(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("data: {source: demo}\nmd: {stpes: 3}\n")
    result = call("run", path)
    assert result.exit_code == 2
    assert "did you mean 'md.steps'?" in result.stderr
    assert "Traceback" not in result.output
    assert isinstance(call("--debug", "run", path).exception, Exception)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("backbone.args={cutof: 5.0}", "backbone.args.cutof: torchmd_et has no such argument; did you mean 'cutoff'?"),
        ("backbone.args={cutoff: -5.0}", "backbone.args: cutoff must lie in (0, 100]"),
        ("backbone.name=cgnn", "backbone.name: unknown model"),
        ("teacher.calculator=no.such:thing", "teacher.calculator: cannot import"),
        ("data.source=gone.extxyz", "gone.extxyz, field data.source: does not exist"),
        ("data.source='gone*.extxyz'", "no file matches"),
        ("teacher.checkpoint=gone.pt", "field teacher.checkpoint: does not exist"),
        ("device=cuda:77", "device: 'cuda:77' is not available"),
    ],
)
def test_what_would_fail_late_fails_at_once(tmp_path, monkeypatch, change, expected):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    path = tmp_path / "c.yaml"
    path.write_text("data: {source: demo}\n")
    result = call("run", path, "-o", tmp_path / "run", change)
    assert result.exit_code == 2, result.output
    assert expected in " ".join(result.stderr.replace(str(tmp_path) + "/", "").split())
    assert not (tmp_path / "run" / "data").exists()


def test_refused_teacher_says_how_to_force_it(data, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        f"data: {{source: {data}, fractions: [0.5, 0.25, 0.25]}}\nseeds: [0]\n"
        "teacher: {preset: paper, epochs: 1, cutoff: 4.0}\nmd: {steps: 2}\n"
    )
    result = call("run", path, "-o", tmp_path / "run", "-j", 1)
    assert "FAILED" in result.stdout, "the examination must be shown"
    assert result.exit_code == 2, result.output
    assert "augment: the teacher failed its examination" in result.stderr
    assert "teacher.force: true" in result.stderr


def test_unwritable_output(data, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(f"data: {{source: {data}}}\n")
    result = call("run", path, "-o", data / "run")
    assert result.exit_code == 2
    assert "cannot write to the run folder" in result.stderr


def test_ctrl_c_says_how_to_go_on(data, tmp_path, monkeypatch):
    import mdl_physpretrain.workflow.run as pipeline

    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "execute", interrupted)
    path = tmp_path / "c.yaml"
    path.write_text(f"data: {{source: {data}}}\n")
    result = call("run", path, "-o", tmp_path / "run")
    assert result.exit_code == 130
    assert "the same command goes on" in result.stderr


@pytest.mark.parametrize(
    ("words", "replay", "force"),
    [
        ((), 0.3, False),
        (("--preset", "algorithm1"), 0.1, False),
        (("--preset", "paper"), 0.0, True),
        (("--preset", "paper", "given"), 0.3, False),
    ],
)
def test_single_steps_follow_the_preset_where_an_option_is_not_given(data, tmp_path, monkeypatch, words, replay, force):
    from mdl_physpretrain import training
    from mdl_physpretrain.potentials import EAM

    class Noted(Exception):
        pass

    def note(*args, **options):
        raise Noted(options)

    preset, given = words[:2], "given" in words
    monkeypatch.setattr(training, "train", note)
    share = ("--replay-fraction", 0.3) if given else ()
    noted = call("--debug", "train", data, "-o", tmp_path / "net", "--replay", data, *preset, *share)
    assert noted.exception.args[0]["replay_fraction"] == replay
    EAM(["O", "Mg"], cutoff=4.0, n_basis=2).save(tmp_path / "teacher.pt")
    monkeypatch.setattr(sys.modules["mdl_physpretrain.teacher.label"], "label", note)
    noted = call(
        "--debug",
        "label",
        data,
        "-o",
        tmp_path / "l.extxyz",
        "--teacher",
        tmp_path / "teacher.pt",
        *preset,
        *(("--no-force",) if given else ()),
    )
    assert noted.exception.args[0]["force"] is force


def test_the_old_anchor_option_is_refused_with_the_new_one(data, tmp_path):
    output = tmp_path / "labelled.extxyz"
    refused = call("label", data, "--anchor", data, "-o", output, "--teacher", "teacher.pt")
    assert refused.exit_code == 2
    assert "--anchor FILE is now --parents FILE" in " ".join(refused.stderr.replace("│", "").split())
    assert not output.exists()


def test_steps_one_by_one(data, tmp_path):
    teacher, perturbed, labelled = tmp_path / "teacher.pt", tmp_path / "aug.extxyz", tmp_path / "labelled.extxyz"
    result = call("fit-eam", data, "-o", teacher, "--epochs", 2, "--cutoff", 4.5)
    assert result.exit_code in (0, 1), result.output
    passed = result.exit_code == 0
    assert (call("examine", teacher, data).exit_code == 0) == passed
    val, stored = tmp_path / "val.extxyz", tmp_path / "unsound.pt"
    wrong = read_structures(data)
    for atoms in wrong:
        atoms.calc.results["forces"] = -40 * atoms.calc.results["forces"]
    write_structures(val, wrong)
    told = call("fit-eam", data, "-o", stored, "--epochs", 1, "--cutoff", 4.5, "--val", val)
    verdict = pp.load_model(stored).metadata["examination"]
    assert "it has not seen" in " ".join(told.output.split()), "the validation data judge"
    assert (told.exit_code == 0) == verdict["passed"]
    refused = call("augment", data, "-o", perturbed)
    assert "give the teacher (--teacher)" in " ".join(refused.stderr.split())
    fine("augment", data, "-o", perturbed, "--preset", "algorithm1", "--n-aug", 2, "--pull", 0.3)
    assert len(read_structures(perturbed)) == 16
    refused = call("label", perturbed, "-o", labelled, "--teacher", teacher, "--force")
    assert "--parents FILE, or --no-anchored" in " ".join(refused.stderr.split())
    fine("label", perturbed, "-o", labelled, "--teacher", teacher, "--force", "--parents", data, "--max-force", "none")
    assert all(get_labels(a).forces is not None for a in read_structures(labelled))
    assert not list(tmp_path.glob(".*.journal"))

    other = tmp_path / "ionic.pt"
    result = call("fit-teacher", data, "-o", other, "--kind", "classical", "--arg", "cutoff=4.5")
    assert result.exit_code in (0, 1), result.output
    assert "Teacher: " in result.output
    assert call("examine", other, data).exit_code == result.exit_code
    assert pp.load_model(other).metadata["teacher"] == "classical"
    told = call("fit-teacher", data, "--kind", "classical", "--arg", "cutof=4")
    assert "unknown key '--arg cutof'; did you mean '--arg cutoff'?" in " ".join(told.stderr.split())
    assert "did you mean 'classical'?" in " ".join(call("fit-teacher", data, "--kind", "classic").stderr.split())

    small = ["--model", "cgcnn", *(w for a in ("dim1=8", "dim2=8", "gc_count=1", "cutoff=4.0") for w in ("--arg", a))]
    fine("train", labelled, "-o", tmp_path / "pre", "--epochs", 1, *small)
    fine("train", data, "-o", tmp_path / "fine", "--model", tmp_path / "pre" / "best.pt", "--epochs", 1, "--val", data)
    hybrid = tmp_path / "hybrid"
    fine("train", data, "-o", hybrid, "--epochs", 1, "--eam", teacher, "--freeze-eam", "--optimizer", "sam", *small)
    assert "random directions" in fine("align", hybrid / "best.pt", "parts", data)
    model = tmp_path / "fine" / "best.pt"
    assert "trivial" in fine("evaluate", model, data)
    grouped = fine("evaluate", model, data, "--by", "composition")
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in grouped.splitlines() if "│" in line]
    errors = {row[0]: row[1:] for row in cells if row[0]}
    assert list(errors) == ["best", "trivial", "MgO (8)", "MgO, trivial"]
    assert (errors["MgO (8)"], errors["MgO, trivial"]) == (errors["best"], errors["trivial"])
    assert "no structure has the tag 'kind'" in " ".join(call("evaluate", model, data, "--by", "kind").stderr.split())
    fine("md", model, data, "-o", tmp_path / "md", "--steps", 5, "--trajectories", 1)
    table = pd.read_csv(tmp_path / "md" / "physicality.csv")
    assert list(table["steps_done"]) == [5] * 8
    fine("assess", tmp_path / "md" / "trajectories" / "*.extxyz", "-o", tmp_path / "again.csv", "--unwrapped")
    again = pd.read_csv(tmp_path / "again.csv")
    for column in ("lindemann_local", "min_distance"):
        assert again[column].tolist() == pytest.approx(table[column].tolist(), rel=1e-3), column


def test_label_with_any_ase_calculator(data, tmp_path):
    from ase.build import bulk

    atoms = bulk("Cu", "fcc", a=3.7, cubic=True)
    write_structures(tmp_path / "cu.extxyz", [atoms])
    fine("label", tmp_path / "cu.extxyz", "-o", tmp_path / "out.extxyz", "--teacher", "ase.calculators.emt:EMT")
    (labelled,) = read_structures(tmp_path / "out.extxyz")
    assert labelled.info["label_source"] == "emt"
    result = call("label", data, "-o", tmp_path / "x.extxyz", "--teacher", "ase.calculators.emt:Nothing")
    assert result.exit_code == 2
    assert "cannot import" in result.stderr


def test_datasets(tmp_path):
    assert "load-atoms:P-GAP-20" in fine("datasets")
    out = fine("datasets", "demo", "-o", tmp_path / "d.extxyz")
    assert "elements Li Mn O P" in out
    assert len(read_structures(tmp_path / "d.extxyz")) > 100
    (tmp_path / "mine.extxyz").write_text("mine")
    assert "exists: name a new file" in call("datasets", "demo", "-o", tmp_path / "mine.extxyz").stderr
    assert (tmp_path / "mine.extxyz").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("evaluate", "none.pt", "demo"), "none.pt does not exist"),
        (("augment", "none.extxyz", "-o", "x.extxyz"), "none.extxyz"),
        (("report", "nowhere"), "nowhere does not exist"),
        (("train", "demo", "-o", "x", "--arg", "cutoff"), "not of the form name=value"),
        (("assess", "none*.traj"), "no file matches"),
    ],
)
def test_bad_input_of_single_steps(tmp_path, monkeypatch, words, expected):
    monkeypatch.chdir(tmp_path)
    result = call(*words)
    assert result.exit_code == 2, result.output
    assert expected in result.stderr


def test_a_trial_of_replay_needs_its_temperature(tmp_path, data, monkeypatch):
    words = ("finetune", data, "-o", tmp_path / "out")
    for given in (("--replay-trial", 4), ("--trial-temperature", 300)):
        result = call(*words, *given)
        assert result.exit_code == 2
        assert "--replay-trial (structures) and --trial-temperature (K) go together" in result.output
    seen = {}

    def stop(*arguments, **options):
        seen.update(options)
        raise ConfigError("stopped")

    monkeypatch.setattr(training, "finetune", stop)
    call(*words, "--replay-trial", 4, "--trial-temperature", 300)
    trial = seen["trial"]
    assert (trial.number, trial.md.temperature, seen["replay_trial"]) == (4, 300, 4)
    assert len(trial.structures) == len(read_structures(data))
