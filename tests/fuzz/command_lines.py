"""Odd command lines: an exit code and one clear line; no traceback, and no file of the user changed."""

# ruff: noqa: E501 - one kind of odd input, one line
from __future__ import annotations

import collections
import contextlib
import random
from pathlib import Path

from labelled_cells import rocksalt_cells
from small_potentials import small
from tries import Tries
from typer.testing import CliRunner

from mdl_physpretrain.cli import app
from mdl_physpretrain.cli.application import INTERNAL
from mdl_physpretrain.structures import write_structures

WORDS = ["", " ", "x", "0", "-1", "1.5", "nan", "inf", "1e400", "9" * 40, "Å", "\t", "[red]", "../..", "~", "*", "[", "{",
         "a=b", "=", "a=", "=b", "none", "cuda:99", "gpu", "0,1", "0,0", "1,x", "--", "-o", "x" * 300, "demo:", ":", "a:b",
         "os:getcwd", "math:pi", "json:loads", "Si,O", "Xx", "10%", "load-atoms:", "null", "[]", "a=[", "a=&a [*a]"]  # fmt: skip
COMMANDS: dict[str, tuple[list[str], list[str]]] = {
    "md": (["{net}", "{cells}", "-o", "{out}", "--steps", "1"],
           ["--temperature", "--timestep", "--steps", "--friction", "--pressure", "--ensemble", "--engine", "--seed",
            "--seeds", "--trajectories", "--executor", "--batch-atoms", "--device", "--also"]),
    "check": (["{net}", "-s", "{cells}", "-o", "{out}", "--steps", "1", "--max-structures", "1"],
              ["--temperature", "--timestep", "--steps", "--friction", "--ensemble", "--seeds", "--nve-steps",
               "--compressed", "--r-max", "--probe", "--skip", "--jobs", "--device", "--reference"]),
    "train": (["{cells}", "-o", "{out}", "--devices", "0"],
              ["--model", "--arg", "--core", "--eam", "--val", "--replay", "--replay-fraction", "--lr", "--weights",
               "--force-scale", "--accelerator", "--devices", "--strategy", "--loss", "--optimizer", "--ema"]),
    "augment": (["{cells}", "-o", "{out}.extxyz", "--n-aug", "1", "--preset", "algorithm1"],
                ["--n-aug", "--n-pairs", "--pull", "--perturb", "--ladder", "--pairs", "--seed", "--thermal",
                 "--coverage", "--teacher", "--compression", "--shear", "--min-distance-factor"]),
    "label": (["{cells}", "-o", "{out}.extxyz", "--teacher", "{net}"],
              ["--teacher", "--parents", "--arg", "--resume", "--executor", "--device", "--max-force",
               "--min-distance", "--batch-size"]),
    "evaluate": (["{net}", "{cells}"], ["--device"]),
    "align": (["{net}", "{net}", "{cells}", "-o", "{out}"], ["--min-force", "--device"]),
    "assess": (["{cells}", "-o", "{out}.csv"], ["--temperature", "--variant", "--interval"]),
    "convert": (["{net}", "{out}.ckpt"], ["--from", "--to", "--config", "--elements", "--member", "--references"]),
    "export-lammps": (["{net}"], ["-o", "--points", "--density-points"]),
    "mdl-data": (["{cells}", "-o", "{out}"], ["--fractions", "--usage", "--elements", "--max-structures", "--seed"]),
    "config": (["{yaml}"], []),
    "init": (["{out}.yaml"], ["--data"]),
    "compare": (["{out}"], ["--csv"]),
    "report": (["{out}"], []),
    "examine": (["{net}", "{cells}"], []),
    "run": (["{yaml}", "-o", "{out}", "--only", "prepare"], ["--only", "--from", "--jobs"]),
}  # fmt: skip


def run(n: int, folder: Path, seed: int) -> tuple[collections.Counter[str], list[str]]:
    """Try every option of every command with ``n`` odd words each."""
    (folder / "here").mkdir()
    with contextlib.chdir(folder / "here"):  # relative names are written there
        return _run(n, folder, seed)


def _run(n: int, folder: Path, seed: int) -> tuple[collections.Counter[str], list[str]]:
    generator, tries, runner = random.Random(seed), Tries(), CliRunner()
    user = folder / "user"
    user.mkdir()
    write_structures(user / "cells.extxyz", rocksalt_cells()[:3])
    small("cgcnn").save(user / "net.pt")
    (user / "my.yaml").write_text(f"data: {{source: {user / 'cells.extxyz'}}}\n")
    (user / "thesis.tex").write_text("mine")
    before = {p.name: p.read_bytes() for p in user.iterdir()}
    places = {"net": user / "net.pt", "cells": user / "cells.extxyz", "yaml": user / "my.yaml"}
    number = 0
    for command, (usual, options) in COMMANDS.items():
        for option in [*options, None]:
            for _ in range(n):
                number += 1
                words = [word.format(**places, out=folder / f"out-{number}") for word in usual]
                if option is None:  # instead of a word that belongs there
                    words[generator.randrange(len(words))] = generator.choice([*WORDS, str(user)])
                else:
                    words += [option, generator.choice(WORDS)]
                what = f"{command} {' '.join(words)}"
                result = tries.attempt(what, lambda command=command, words=words: runner.invoke(app, [command, *words]))
                if result is None:
                    continue
                error = result.exception
                if INTERNAL in result.output or (error is not None and not isinstance(error, SystemExit)):
                    tries.fail(what, f"exit {result.exit_code}: {result.output[-300:]} {error!r}")
                if {p.name: p.read_bytes() for p in user.iterdir()} != before:
                    tries.fail(what, f"changed {sorted(p.name for p in user.iterdir())}")
                    return tries.outcome
    return tries.outcome
