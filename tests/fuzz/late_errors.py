"""What can be known before the work is told before the work: no training begins, no MD is lost."""

# ruff: noqa: E501 - one kind of mistake, one line
from __future__ import annotations

import collections
import copy
from pathlib import Path
from typing import Any

import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from labelled_cells import rocksalt_cells
from tries import Tries

from mdl_physpretrain.structures import write_structures
from mdl_physpretrain.workflow import run as workflow_run
from mdl_physpretrain.workflow.config_files import build_config
from mdl_physpretrain.workflow.workers import Inline


class WorkBegan(Exception):
    """A stage after ``prepare`` was started."""


def other(symbol: str) -> list[Atoms]:
    """A labelled structure of an element that the data have not."""
    atoms = bulk(symbol, "fcc", a=4.0)
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=[[0.0] * 3])
    atoms.info["structure_id"] = f"{symbol}-0"
    return [atoms]


def files(folder: Path) -> dict[str, str]:
    """Data and files that are wrong in some way."""
    cells = rocksalt_cells()
    write_structures(folder / "cells.extxyz", cells)
    write_structures(folder / "gold.extxyz", other("Au"))
    molecule = Atoms("MgO", [[0, 0, 0], [0, 0, 1.8]])
    molecule.info["structure_id"] = "molecule"
    write_structures(folder / "molecule.extxyz", [molecule])
    large = cells[0].repeat(3)
    large.info["structure_id"] = "large"
    large.calc = None
    write_structures(folder / "large.extxyz", [large])
    (folder / "empty.extxyz").write_text("")
    (folder / "text.extxyz").write_text("no structure at all\n")
    (folder / "folder").mkdir()
    (folder / "net.pt").write_bytes(b"PK")
    names = ("cells", "gold", "molecule", "large", "empty", "text")
    return {name: str(folder / f"{name}.extxyz") for name in names}


def cases(at: dict[str, str], folder: Path) -> dict[str, dict[str, Any]]:
    """Configurations that the data or the machine forbid, by what is wrong."""
    missing = str(folder / "missing.extxyz")
    wrong_files = {**{k: at[k] for k in ("gold", "empty", "text")}, "missing": missing, "folder": str(folder / "folder"),
                   "pattern": str(folder / "no-*.xyz")}  # fmt: skip
    made: dict[str, dict[str, Any]] = {}
    for name, path in wrong_files.items():
        made[f"md.source: {name}"] = {"md": {"source": [path]}}
        made[f"md.source after a good one: {name}"] = {"md": {"source": ["test", path]}}
        made[f"md.reference: {name}"] = {"md": {"reference": [path], "trajectory_interval": 10}}
        made[f"data.test: {name}"] = {"data": {"train": [at["cells"]], "test": [path]}}
        made[f"data.val: {name}"] = {"data": {"train": [at["cells"]], "val": [path]}}
        if name != "gold":
            made[f"data.source: {name}"] = {"data": {"source": [path]}}
    made["references of other structures"] = {"md": {"reference": [at["large"]], "trajectory_interval": 10}}
    made["no start is small enough"] = {"md": {"source": [at["large"]], "max_atoms": 8}}
    made["starts from a part that is empty"] = {"data": {"fractions": [0.9, 0.1, 0.0]}, "md": {"source": ["test"]}}
    for ensemble in ("npt",):
        made[f"{ensemble} of a molecule"] = {"md": {"source": [at["molecule"]], "ensemble": ensemble}}
    made["npt beside nvt of a molecule"] = {"md": {"source": [at["molecule"]], "also": [{"ensemble": "npt"}]}}
    for key, values in {
        "devices": [0, -1, "abc", 1000, "0", "1,2,3,4,5,6,7,8,9"],
        "strategy": ["no-such", "fsdp2000", "", "deepspeed"],
        "accelerator": ["gpu", "cuda", "mps"],
        "device": ["cuda", "cuda:7", "mps"],
    }.items():
        for value in values:
            made[f"{key}: {value!r}"] = {key: value}
    for option, values in {
        "friction": [10.0, 3.0], "steps": [10**12], "skin": [1e9], "timestep": [1e3], "trace_interval": [0],
    }.items():  # fmt: skip
        for value in values:
            made[f"md.{option}: {value!r}"] = {"md": {option: value}}
    for name, args in (
        ("cgcnn", {"cutoff": 1e6}), ("cgcnn", {"cutoff": 200.0}), ("cgcnn", {"cutoff": float("inf")}),
        ("cgcnn", {"gc_count": 10**9}), ("cgcnn", {"dim1": 10**9}), ("cgcnn", {"act": "no-such"}), ("no-such", {}),
        ("cgcnn", {"cutof": 5.0}), ("torchmd_et", {"num_heads": 7}), ("torchmd_et", {"hidden_channels": 10**8}),
        ("cgcnn", {"cutoff": "5"}), ("cgcnn", {"dim1": 0}), ("cgcnn", {"dim1": "x"}), ("torchmd_et", {"num_layers": -1}),
    ):  # fmt: skip
        made[f"backbone {name} {args}"] = {"backbone": {"name": name, "args": args}}
    for teacher in (
        {"calculator": "no_such_module:f"}, {"calculator": "math:no_such"}, {"calculator": "math:pi"},
        {"kind": "no-such"},
        {"checkpoint": str(folder / "missing.pt")}, {"checkpoint": str(folder / "net.pt")},
        {"kind": "classical", "args": {"no_such": 1}},
    ):  # fmt: skip
        made[f"teacher {teacher}"] = {"teacher": teacher}
    return made


def run(n: int, folder: Path, seed: int) -> tuple[collections.Counter[str], list[str]]:
    """Start a run with every case (``n`` does not matter); only ``prepare`` may be done."""
    tries, at = Tries(), files(folder)
    submit = Inline.submit

    def only_prepare(self: Inline, task: Any, *rest: Any) -> None:
        if task.stage != "prepare":
            raise WorkBegan(task.name)
        submit(self, task, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Inline, "submit", only_prepare)
        for number, (what, change) in enumerate(cases(at, folder).items()):
            content: dict[str, Any] = {"data": {"source": [at["cells"]]}, "seeds": [0]}
            for key, value in copy.deepcopy(change).items():
                fresh = key == "data" and "fractions" not in value
                content[key] = value if fresh or not isinstance(value, dict) else {**content.get(key, {}), **value}

            def start(content: dict[str, Any] = content, number: int = number) -> None:
                config = build_config(content, base=folder)
                workflow_run.run_pipeline(config, output=folder / f"run-{number}")

            refused = tries.counts["refused"]
            tries.attempt(what, start)
            if tries.counts["refused"] == refused and not (tries.bad and tries.bad[-1].startswith(what[:300])):
                tries.fail(what, "was not refused")
    return tries.outcome
