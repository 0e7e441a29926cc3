"""Nothing of the user's is overwritten or deleted, whatever the command and the folder."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest
import yaml
from ase import Atoms
from small_potentials import small
from typer.testing import CliRunner

from mdl_physpretrain.cli import app
from mdl_physpretrain.errors import ConfigError, PhysPretrainError
from mdl_physpretrain.ownership import EDITED, MARK, claim_folder, keep_existing, refuse_overwriting
from mdl_physpretrain.report import build, write_report
from mdl_physpretrain.structures import write_structures
from mdl_physpretrain.workflow.records import Records, note_written, remove_written

FOLDERS = {
    "run": ["run", "{base}/my.yaml", "-o", "{out}"],
    "md": ["md", "{base}/net.pt", "{base}/cells.extxyz", "-o", "{out}", "--steps", "1"],
    "md of several seeds": ["md", "{base}/net.pt", "{base}/cells.extxyz", "-o", "{out}", "--seeds", "0,1"],
    "check": ["check", "{base}/net.pt", "-s", "{base}/cells.extxyz", "-o", "{out}"],
    "train": ["train", "{base}/cells.extxyz", "-o", "{out}", "--epochs", "1"],
    "finetune": ["finetune", "{base}/cells.extxyz", "-o", "{out}", "--epochs", "1"],
    "pretrain": ["pretrain", "{base}/cells.extxyz", "-o", "{out}", "--epochs", "1"],
    "align": ["align", "{base}/net.pt", "{base}/net.pt", "{base}/cells.extxyz", "-o", "{out}"],
    "mdl-data": ["mdl-data", "{base}/cells.extxyz", "-o", "{out}"],
    "fetch-released": ["fetch-released", "-o", "{out}"],
    "report": ["report", "{out}"],
}
FILES = {
    "augment": ["augment", "{base}/cells.extxyz", "-o", "{out}"],
    "label": ["label", "{base}/cells.extxyz", "--teacher", "{base}/net.pt", "-o", "{out}"],
    "fit-eam": ["fit-eam", "{base}/cells.extxyz", "-o", "{out}"],
    "fit-teacher": ["fit-teacher", "{base}/cells.extxyz", "--kind", "classical", "-o", "{out}"],
    "assess": ["assess", "{base}/cells.extxyz", "-o", "{out}"],
    "convert": ["convert", "{base}/net.pt", "{out}", "--force"],
    "export-lammps": ["export-lammps", "{base}/net.pt", "-o", "{out}"],
}
NAMES = ["README.md", "config.yaml", "data/train.extxyz", "best.pt", "history.csv", "physicality.csv", "runs.npz",
         "report/figures/mine.png", "report/tables/mine.csv", "report/index.html", "train.json", "alignment.csv",
         "trajectories/a.extxyz", "environment.json", "thesis.tex"]  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a network and a configuration."""
    from labelled_cells import rocksalt_cells

    folder = tmp_path_factory.mktemp("base")
    write_structures(folder / "cells.extxyz", rocksalt_cells())
    small("cgcnn").save(folder / "net.pt")
    (folder / "my.yaml").write_text(yaml.safe_dump({"data": {"source": str(folder / "cells.extxyz")}, "seeds": [0]}))
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def call(words: list[str], **places: Path) -> str:
    result = CliRunner().invoke(app, [word.format(**places) for word in words])
    assert result.exit_code == 2, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.output


@pytest.mark.parametrize("command", FOLDERS)
def test_a_folder_of_the_user_stays_as_it_is(command: str, base: Path, tmp_path: Path) -> None:
    for name in ("README.md", "data/train.extxyz", "report/figures/mine.png", "trajectories/a.extxyz"):
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_text("mine")
    before = content(tmp_path)
    assert "folder" in call(FOLDERS[command], base=base, out=tmp_path / "mine")
    assert content(tmp_path) == before


@pytest.mark.parametrize("kind", ["run", "md", "check", "training", "alignment", "report", "released", "anything"])
def test_one_file_of_the_user_is_enough(kind: str, tmp_path: Path) -> None:
    for k, name in enumerate(NAMES):
        file = tmp_path / str(k) / name
        file.parent.mkdir(parents=True)
        file.write_text("mine")
        with pytest.raises(ConfigError, match="holds files that this command did not write"):
            claim_folder(tmp_path / str(k), kind)
        assert content(tmp_path / str(k)) == {name: b"mine"}


@pytest.mark.parametrize("command", [c for c in FOLDERS if c not in ("report", "fetch-released")])
def test_an_input_in_the_output_folder_is_never_written_over(command: str, base: Path, tmp_path: Path) -> None:
    """Not even where the folder is ours already."""
    for name in ("cells.extxyz", "net.pt"):
        (tmp_path / name).write_bytes((base / name).read_bytes())
    (tmp_path / "my.yaml").write_text(yaml.safe_dump({"data": {"source": str(tmp_path / "cells.extxyz")}}))
    kinds = {"run": "run", "md": "md", "align": "alignment", "mdl-data": "MatDeepLearn data set"}
    kind = kinds.get(command, "check" if command in ("check", "md of several seeds") else "training")
    (tmp_path / MARK).write_text(f'{{"kind": "{kind}"}}')
    before = content(tmp_path)
    assert "is read and lies in the output folder" in call(FOLDERS[command], base=tmp_path, out=tmp_path)
    assert content(tmp_path) == before


@pytest.mark.parametrize("command", [name for name in FILES if name != "convert"])
def test_a_file_of_another_kind_stays_as_it_is(command: str, base: Path, tmp_path: Path) -> None:
    for name in ("my.yaml", "thesis.tex"):
        (tmp_path / name).write_text("mine")
        assert "exists and is no" in " ".join(call(FILES[command], base=base, out=tmp_path / name).split())
    assert content(tmp_path) == {"my.yaml": b"mine", "thesis.tex": b"mine"}


def test_a_file_that_is_written_again_is_kept_under_another_name(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.extxyz"
    out.write_text("first")
    words = [*FILES["augment"], "--thermal", "none"]
    with pytest.warns(UserWarning, match=r"out.extxyz was there: it is kept as .*out.extxyz.replaced"):
        CliRunner().invoke(app, [word.format(base=base, out=out) for word in words])
    assert (tmp_path / "out.extxyz.replaced").read_text() == "first"
    assert "Lattice" in out.read_text()
    second = out.read_bytes()
    with pytest.warns(UserWarning, match=r"replaced-2"), keep_existing(out):
        out.unlink()  # and the disk is full
    kept = {"out.extxyz.replaced": b"first", "out.extxyz.replaced-2": second}
    assert content(tmp_path) == kept


def test_a_file_that_is_written_again_with_the_same_content_leaves_no_copy(base: Path, tmp_path: Path) -> None:
    words = [word.format(base=base, out=tmp_path / "out.extxyz") for word in [*FILES["augment"], "--thermal", "none"]]
    for _ in range(2):
        assert CliRunner().invoke(app, words).exit_code == 0
    assert list(content(tmp_path)) == ["out.extxyz"]


@pytest.mark.parametrize(
    ("command", "other", "names"),
    [
        ("mdl-data", ["--seed", "1"], ["test.json", "train.json", "val.json"]),
        ("align", ["--min-force", "0.1"], ["alignment.csv", "alignment_summary.csv"]),
    ],
)
def test_results_of_other_options_in_the_same_folder_are_kept(
    command: str, other: list[str], names: list[str], base: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = [word.format(base=base, out=out) for word in FOLDERS[command]]
    assert CliRunner().invoke(app, words).exit_code == 0
    first = {f"{name}.replaced": (out / name).read_bytes() for name in names}
    assert CliRunner().invoke(app, words).exit_code == 0
    assert not list(out.glob("*.replaced")), "the same content"
    with pytest.warns(UserWarning, match="was there: it is kept as"):
        assert CliRunner().invoke(app, [*words, *other]).exit_code == 0
    assert {path.name: path.read_bytes() for path in out.glob("*.replaced*")} == first


WAYS = ["itself", "relative", "link", "hard link", "pattern", "folder"]


@pytest.mark.parametrize(
    ("command", "way"),
    [*(("augment", way) for way in WAYS), *((name, "itself") for name in FILES if name != "augment")],
)
def test_a_file_that_is_read_is_not_written(
    command: str, way: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cells.extxyz", "net.pt"):
        (tmp_path / name).write_bytes((base / name).read_bytes())
    file = tmp_path / ("net.pt" if command in ("convert", "export-lammps") else "cells.extxyz")
    words = FILES[command]
    if way == "relative":
        (tmp_path / "deep").mkdir()
        monkeypatch.chdir(tmp_path / "deep")
        out = Path("..") / file.name
    elif way == "link":
        out = tmp_path / f"link{file.suffix}"
        out.symlink_to(file)
    elif way == "hard link":
        out = tmp_path / f"link{file.suffix}"
        os.link(file, out)
    elif way == "folder":
        out = tmp_path / "folder"
        out.mkdir()
    else:
        out = file
        if way == "pattern":
            words = [w.replace("cells.extxyz", "c*.extxyz") for w in words]
    before = content(tmp_path)
    call(words, base=tmp_path, out=out)
    assert content(tmp_path) == before
    assert out.exists()


@pytest.mark.parametrize(("first", "second"), [("run", "md"), ("md", "run"), ("check", "training"), ("md", "check")])
def test_a_folder_of_another_kind(first: str, second: str, tmp_path: Path) -> None:
    claim_folder(tmp_path / "a", first)
    with pytest.raises(ConfigError, match=f"is the folder of a {first}, not of a {second}"):
        claim_folder(tmp_path / "a", second)
    claim_folder(tmp_path / "a", first)


def test_hidden_files_do_not_count_and_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    claim_folder(tmp_path, "run")
    (tmp_path / "file").touch()
    for name in ("file", "file/below"):
        with pytest.raises(ConfigError, match="cannot write to the output folder"):
            claim_folder(tmp_path / name, "run")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / MARK).write_text("{")
    with pytest.raises(ConfigError, match="is damaged"):
        claim_folder(tmp_path / "b", "run")


def test_names_that_are_no_files_are_no_inputs(tmp_path: Path) -> None:
    words = ["demo", "load-atoms:x", "a.b:c", "\0", "x" * 5000, "[", None, 3, ["**"], Atoms()]
    claim_folder(tmp_path / "a", "md", inputs=words)
    refuse_overwriting(tmp_path / "b", *words)


def test_a_report_removes_what_a_report_wrote_only(tmp_path: Path) -> None:
    run = tmp_path / "run"
    claim_folder(run, "run")
    (run / "efs.csv").write_text("arm,seed,split,total\na,0,test,1.0\n")
    write_report(run)
    tables = run / "report" / "tables"
    assert [p.name for p in tables.glob("*.csv")]
    ours = sorted(p.name for p in tables.iterdir())
    for name in ("figures/mine.png", "tables/mine.csv", "tables/mine.json"):
        (run / "report" / name).write_text("mine")
    (run / "efs.csv").unlink()
    (run / "physicality.csv").write_text("structure_id\n")
    write_report(run)
    assert not [name for name in ours if (tables / name).exists()]
    for name in ("figures/mine.png", "tables/mine.csv", "tables/mine.json"):
        assert (run / "report" / name).read_text() == "mine"


def test_a_report_of_no_run(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(PhysPretrainError, match="is not the folder of a run or a check"):
        write_report(tmp_path)
    assert not (tmp_path / "report").exists()


def test_tables_are_removed_when_a_call_has_written_them(tmp_path: Path) -> None:
    for name in ("ours.csv", "mine.csv"):
        (tmp_path / name).write_text("1")
    note_written(tmp_path, ["ours.csv"])
    for name in ("ours.csv", "mine.csv"):
        remove_written(tmp_path, name)
    assert [p.name for p in tmp_path.glob("*.csv")] == ["mine.csv"]
    records = Records(tmp_path)
    (tmp_path / "b.csv").write_text("2")
    records.finish("task", "mark", ["b.csv"], 1.0)
    records.start("task", "other", ())
    remove_written(tmp_path, "b.csv")
    assert not (tmp_path / "b.csv").exists()


def test_a_part_of_the_user_survives(rocksalt: list[Atoms], tmp_path: Path) -> None:
    (tmp_path / "a.extxyz.part").write_text("mine")
    write_structures(tmp_path / "a.extxyz", rocksalt)
    assert (tmp_path / "a.extxyz.part").read_text() == "mine"


EDIT = "\n# my own words\n"
WRITTEN_AGAIN = {
    "run": ["README.md", "config.yaml", "environment.json", "timings.json", "data/summary.json", "data/train.extxyz"],
    "md": ["physicality.csv"],
    "align": ["alignment.csv", "alignment_summary.csv"],
}


@pytest.mark.parametrize("command", WRITTEN_AGAIN)
def test_what_the_user_edits_in_our_folder_is_kept(command: str, base: Path, tmp_path: Path) -> None:
    words = [w.format(base=base, out=tmp_path / "out") for w in FOLDERS[command]]
    words += ["--only", "prepare"] if command == "run" else []
    out = tmp_path / "out"
    assert CliRunner().invoke(app, words).exit_code == 0
    ours = {name: (out / name).read_text() for name in WRITTEN_AGAIN[command]}
    assert CliRunner().invoke(app, words).exit_code == 0
    assert not (out / EDITED).exists()  # nothing was edited
    for count in (1, 2) if command == "md" else (1,):
        for name in ours:
            (out / name).write_text((out / name).read_text() + EDIT)
        changed = {name: (out / name).read_text() for name in ours}
        with pytest.warns(UserWarning, match="README.md was edited" if command == "run" else "changed ones are kept"):
            result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
        kept = [p.read_text() for p in tmp_path.rglob("*") if p.is_file() and p.suffix not in (".npz", ".png")]
        assert all(text in kept for text in changed.values())
        for name in ours.keys() - {"README.md", "config.yaml", "environment.json", "timings.json"}:
            assert (out / name).read_text() == ours[name]
            assert (out / EDITED / name).with_stem(Path(name).stem + ("-2" if count == 2 else "")).is_file()
    if command == "run":  # only comments were added
        assert (out / "config.yaml").read_text() == ours["config.yaml"] + EDIT
        (out / "config.yaml").write_text(ours["config.yaml"].replace("n_aug: ", "n_aug: 1"))
        CliRunner().invoke(app, words)
        assert (out / "config.yaml").read_text() == ours["config.yaml"]
        assert "n_aug: 1" in (out / EDITED / "config.yaml").read_text()


def test_an_edited_report_is_kept(tmp_path: Path) -> None:
    (tmp_path / ".stages").mkdir()
    (tmp_path / "efs.csv").write_text("arm,seed,energy_mae,forces_mae,stress_mae,total\na,0,1.0,2.0,3.0,4.0\n")
    report = write_report(tmp_path).parent
    tables = [str(p.relative_to(report)) for p in report.rglob("tables/*.csv")]
    assert tables
    write_report(tmp_path)
    assert not (report / EDITED).exists()
    for name in ("index.html", tables[0]):
        (report / name).write_text("my words")
    with pytest.warns(UserWarning, match="changed ones are kept"):
        write_report(tmp_path)
    assert [(report / EDITED / name).read_text() for name in ("index.html", tables[0])] == ["my words"] * 2
    assert "my words" not in (report / "index.html").read_text()


@pytest.mark.parametrize("name", ["my.yaml", "net.pt", "thesis.tex", "other.extxyz", "runs.npz", "plot.png"])
def test_a_table_takes_the_place_of_no_other_file(name: str, base: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    assert "is no table" in call(["assess", "{base}/cells.extxyz", "-o", "{out}"], base=base, out=tmp_path / name)
    (tmp_path / "run" / ".stages").mkdir(parents=True)
    assert "is no table" in call(["compare", "{run}", "--csv", "{out}"], run=tmp_path / "run", out=tmp_path / name)
    assert (tmp_path / name).read_text() == "mine"


def test_a_configuration_of_a_moved_run_works_in_no_other_run(base: Path, tmp_path: Path) -> None:
    claim_folder(tmp_path / "moved", "run")
    config = {"output": str(tmp_path / "first"), "data": {"source": str(base / "cells.extxyz")}, "seeds": [0]}
    (tmp_path / "moved" / "config.yaml").write_text(yaml.safe_dump(config))
    told = " ".join(call(["run", "{out}/config.yaml"], out=tmp_path / "moved").split())
    assert "lies in the run folder" in told
    assert not (tmp_path / "first").exists()


def test_a_report_that_was_interrupted_is_nobodys_edit(tmp_path: Path) -> None:
    """Its figures are there, the page that would note them is not."""
    from report_run_folder import make_run

    run = make_run(tmp_path / "run", seeds=1, structures=2)
    write_report(run)
    figures = list((run / "report" / "figures").glob("*.png"))

    def killed(*_: object) -> None:
        for figure in figures:
            figure.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "draw", killed)
        with pytest.raises(KeyboardInterrupt):
            write_report(run)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        write_report(run)
    assert not (run / "report" / EDITED).exists()
