"""The folder of a training: nobody else's, and of one process at a time, from Python as from the command line."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from labelled_cells import rocksalt_cells

from mdl_physpretrain import pretrain_and_finetune
from mdl_physpretrain.errors import ConfigError, PhysPretrainError
from mdl_physpretrain.locking import locked
from mdl_physpretrain.ownership import MARK, claim_folder
from mdl_physpretrain.training import finetune, pretrain, train

CELLS = rocksalt_cells()[:3]
OPTIONS = {"model_args": {"cutoff": 4.0, "dim1": 8, "gc_count": 1}, "epochs": 1, "accelerator": "cpu"}


@pytest.mark.parametrize("name", ["best.pt", "history.csv", "last.ckpt", "tensorboard/mine", "thesis.tex"])
def test_files_of_the_user_stay(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    for step in (train, finetune, pretrain):
        with pytest.raises(ConfigError, match="holds files that this command did not write"):
            step("cgcnn", CELLS, directory=tmp_path, **OPTIONS)
    with pytest.raises(ConfigError, match="holds files that this command did not write"):
        pretrain_and_finetune(CELLS, directory=tmp_path)
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_the_start_is_not_overwritten(tmp_path: Path) -> None:
    model = train("cgcnn", CELLS, directory=tmp_path / "a", **OPTIONS)
    before = (tmp_path / "a" / "best.pt").read_bytes()
    with pytest.raises(ConfigError, match="is read and lies in the output folder"):
        train(tmp_path / "a" / "best.pt", CELLS, directory=tmp_path / "a", epochs=1, accelerator="cpu")
    assert (tmp_path / "a" / "best.pt").read_bytes() == before
    train("cgcnn", CELLS, directory=tmp_path / "a", **OPTIONS | {"epochs": 2})  # goes on
    claim_folder(tmp_path / "run", "run")
    train(model, CELLS, directory=tmp_path / "run" / "seed-0", epochs=1, accelerator="cpu")  # part of a larger work
    assert not (tmp_path / "run" / "seed-0" / MARK).exists()


def test_one_at_a_time(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    claim_folder(tmp_path, "training")
    code = "import sys; from pathlib import Path; from mdl_physpretrain.locking import locked\n"
    code += "with locked(Path(sys.argv[1])): print(1, flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "1\n"
    with pytest.raises(PhysPretrainError, match=f"at work in .*process {other.pid}"):
        train("cgcnn", CELLS, directory=tmp_path, **OPTIONS)
    assert not (tmp_path / "best.pt").exists()
    other.communicate("\n")
    with locked(tmp_path):  # the same thread may; another one may not
        train("cgcnn", CELLS, directory=tmp_path, **OPTIONS)
        caught: list[BaseException] = []
        thread = threading.Thread(target=lambda: caught.append(_error(tmp_path)))
        thread.start()
        thread.join()
    assert "at work in" in str(caught[0])


def _error(folder: Path) -> BaseException:
    with pytest.raises(PhysPretrainError) as error:
        train("cgcnn", CELLS, directory=folder, **OPTIONS)
    return error.value


def test_ranks_of_one_training_share_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with locked(tmp_path):
        monkeypatch.setenv("LOCAL_RANK", "1")
        errors: list[BaseException] = []
        thread = threading.Thread(target=_enter, args=(tmp_path, errors))
        thread.start()
        thread.join()
    assert not errors


def _enter(folder: Path, errors: list[BaseException]) -> None:
    try:
        with locked(folder):
            pass
    except BaseException as error:
        errors.append(error)
