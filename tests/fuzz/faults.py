"""Faults of the machine while work is done: one clear line, nothing lost, and the same result afterwards."""

from __future__ import annotations

import collections
import errno
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from labelled_cells import rocksalt_cells
from small_potentials import small
from tries import Tries
from typer.testing import CliRunner

from mdl_physpretrain import files
from mdl_physpretrain.cli import app
from mdl_physpretrain.cli.application import INTERNAL
from mdl_physpretrain.dynamics.records import Runs
from mdl_physpretrain.potentials import base
from mdl_physpretrain.structures import read_structures, write_structures


def fault(kind: str) -> BaseException:
    """What the machine says."""
    return {
        "full disk": OSError(errno.ENOSPC, "No space left on device"),
        "no permission": PermissionError(errno.EACCES, "Permission denied"),
        "broken disk": OSError(errno.EIO, "Input/output error"),
        "too many files": OSError(errno.EMFILE, "Too many open files"),
        "memory": MemoryError(),
        "Ctrl-C": KeyboardInterrupt(),
    }[kind]


KINDS = ["full disk", "no permission", "broken disk", "too many files", "memory", "Ctrl-C"]
COMMANDS = {
    "md": ["md", "{net}", "{cells}", "-o", "{out}", "--steps", "3", "--trajectories", "1"],
    "augment": ["augment", "{cells}", "-o", "{out}/a.extxyz", "--n-aug", "2", "--preset", "algorithm1"],
    "label": ["label", "{cells}", "-o", "{out}/l.extxyz", "--teacher", "{net}"],
    "align": ["align", "{net}", "{net}", "{cells}", "-o", "{out}"],
    "prepare": ["run", "{yaml}", "-o", "{out}", "--only", "prepare"],
}  # fmt: skip


def result(command: str, out: Path) -> Any:
    """What a command left, without times."""
    if command == "md":
        return [(r.structure_id, r.positions.tobytes()) for r in Runs.load(out / "runs.npz")]
    if command == "align":
        return (out / "alignment.csv").read_text()
    file = {"augment": "a.extxyz", "label": "l.extxyz", "prepare": "data/train.extxyz"}[command]
    return [(a.info["structure_id"], a.positions.tobytes()) for a in read_structures(out / file)]


def break_at(patch: pytest.MonkeyPatch, where: str, number: int, kind: str, out: Path) -> Callable[[], bool]:
    """Let the ``number``-th move of a file, opening of one, or evaluation fail; whether it did."""
    calls = [0]

    def due() -> bool:
        calls[0] += 1
        return calls[0] == number

    if where == "move":
        before = files.os.replace

        def replace(*args: Any) -> None:
            if due():
                raise fault(kind)
            before(*args)

        patch.setattr(files.os, "replace", replace)
    elif where == "open":
        opened = Path.open

        def open_(self: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
            if ("w" in mode or "a" in mode) and due():
                raise fault(kind)
            return opened(self, mode, *args, **options)

        patch.setattr(Path, "open", open_)
    else:
        add = base.add_forces

        def add_forces(*args: Any) -> None:
            if due():
                if where == "deleted folder":
                    shutil.rmtree(out, ignore_errors=True)
                else:
                    raise fault(kind)
            add(*args)

        patch.setattr(base, "add_forces", add_forces)
    return lambda: calls[0] >= number


def run(n: int, folder: Path, seed: int) -> tuple[collections.Counter[str], list[str]]:
    """Try ``n`` faults of every command, then the command again."""
    generator, tries, runner = random.Random(seed), Tries(), CliRunner()
    user = folder / "user"
    user.mkdir()
    cells: list[Atoms] = rocksalt_cells()[:4]
    write_structures(user / "cells.extxyz", cells)
    small("cgcnn").save(user / "net.pt")
    (user / "my.yaml").write_text(f"data: {{source: {user / 'cells.extxyz'}}}\nseeds: [0]\n")
    before = {p.name: p.read_bytes() for p in user.iterdir()}
    places = {"net": user / "net.pt", "cells": user / "cells.extxyz", "yaml": user / "my.yaml"}
    for command, usual in COMMANDS.items():
        expected = None
        for number in range(n + 1):
            out = folder / f"{command}-{number}"
            words = [word.format(**places, out=out) for word in usual]
            where = generator.choice(["move", "open", "evaluation", "deleted folder"])
            kind, at = generator.choice(KINDS), generator.choice([1, 1, 2, 3, 5, 8])
            what = f"{command}: {kind} at {where} {at}"
            if number:
                with pytest.MonkeyPatch.context() as patch:
                    break_at(patch, where, at, kind, out)
                    broken = tries.attempt(what, lambda words=words: runner.invoke(app, words))
                if broken is not None:
                    error = broken.exception
                    if INTERNAL in broken.output or (error is not None and not isinstance(error, SystemExit)):
                        tries.fail(what, f"exit {broken.exit_code}: {broken.output[-300:]} {error!r}")
            again = tries.attempt(f"again after {what}", lambda words=words: runner.invoke(app, words))
            if again is None or again.exit_code != 0:
                tries.fail(f"again after {what}", "" if again is None else again.output[-300:])
                continue
            left = result(command, out)
            if expected is None:
                expected = left
            elif not np.array_equal(np.array(left, dtype=object), np.array(expected, dtype=object)):
                tries.fail(f"again after {what}", "another result")
            if list(out.rglob("*.part")):
                tries.fail(what, "left a half file")
            if {p.name: p.read_bytes() for p in user.iterdir()} != before:
                tries.fail(what, "changed files of the user")
    return tries.outcome
