"""A training that is interrupted says so and ends with the code of its signal: no script takes it for finished."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ase import Atoms
from lightning.pytorch import Trainer
from typer.testing import CliRunner

from mdl_physpretrain.cli import app
from mdl_physpretrain.errors import Terminated
from mdl_physpretrain.structures import write_structures
from mdl_physpretrain.training import train

SMALL = {"cutoff": 4.0, "dim1": 8, "dim2": 8, "gc_count": 1, "post_fc_count": 1, "edge_dim": 8}
WORDS = ["--model=cgcnn", *(f"--arg={name}={value}" for name, value in SMALL.items())]


def epochs_of(folder: Path) -> int:
    file = folder / "history.csv"
    return len(list(csv.DictReader(file.open()))) if file.is_file() else 0


def _heed_ctrl_c() -> None:
    """A process that was started in the background of a shell ignores it, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGTERM, 143, "SIGTERM"), (signal.SIGINT, 130, "interrupted")]
)
def test_the_command(rocksalt: list[Atoms], tmp_path: Path, number: int, code: int, word: str) -> None:
    write_structures(tmp_path / "d.extxyz", rocksalt)
    command = ["train", str(tmp_path / "d.extxyz"), "-o", str(tmp_path / "n"), *WORDS, "--scheduler", "plateau"]
    command += ["--epochs"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mdl_physpretrain", *command, "100000"],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_heed_ctrl_c,
    )
    try:
        deadline = time.monotonic() + 600
        while epochs_of(tmp_path / "n") < 2 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        os.kill(process.pid, number)
        _, told = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == code, told
    assert word in told
    assert "goes on from there" in told
    assert "Traceback" not in told
    reached = epochs_of(tmp_path / "n")
    again = CliRunner().invoke(app, [*command, str(reached + 2)])
    assert again.exit_code == 0, again.output
    assert epochs_of(tmp_path / "n") == reached + 2


@pytest.mark.parametrize(
    ("where", "kind"),
    [
        ("on_train_epoch_start", KeyboardInterrupt),
        ("on_validation_epoch_end", Terminated),
        ("on_train_batch_start", KeyboardInterrupt),
    ],
)
def test_wherever_it_happens(
    rocksalt: list[Atoms], where: str, kind: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process: the interruption is raised as what it is, and Ctrl-C still works afterwards."""
    from mdl_physpretrain.training.module import KeepBest

    def interrupt(self: KeepBest, trainer: Trainer, *_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM if kind is Terminated else signal.SIGINT)
        time.sleep(0.01)

    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    monkeypatch.setattr(KeepBest, where, interrupt)
    with pytest.raises(kind):
        train("cgcnn", rocksalt, epochs=3, batch_size=2, model_args=SMALL)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


FULL = OSError(28, "No space left on device")
CODES = [(KeyboardInterrupt(), 130), (Terminated(), 143), (MemoryError(), 2), (FULL, 2), (ZeroDivisionError("x"), 70)]


@pytest.mark.parametrize(("error", "code"), CODES)
def test_exit_codes(error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("mdl_physpretrain.structures.read_structures", fail)
    result = CliRunner().invoke(app, ["evaluate", "ase.calculators.emt:EMT", "x.extxyz"])
    assert result.exit_code == code
    assert len(result.output.strip().splitlines()) == 1
