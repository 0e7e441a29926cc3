"""What is doubtful about the data is said when they are read, and not by every training."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from ase.build import bulk
from labelled_cells import random_labels

from mdl_physpretrain.structures import get_labels, read_structures, set_labels, validate_structures, write_structures
from mdl_physpretrain.structures.labels import Labels
from mdl_physpretrain.workflow.config import RunConfig
from mdl_physpretrain.workflow.plan import plan
from mdl_physpretrain.workflow.task import Task
from mdl_physpretrain.workflow.workers import Inline


def _said(task: Task, config: RunConfig, folder: Path, about: str = "no stress") -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        workers = Inline()
        workers.submit(task, config, folder, False)
        (outcome,) = workers.finished()
    assert outcome.error is None
    return [str(w.message) for w in caught if about in str(w.message)]


def test_missing_stress_is_said_once(tmp_path):
    rng = np.random.default_rng(7)
    cells = [random_labels(bulk("MgO", "rocksalt", a=4.2, cubic=True), rng, f"mgo-{k}") for k in range(10)]
    for atoms in cells:
        labels = get_labels(atoms)
        set_labels(atoms, Labels(labels.energy, labels.forces))
    write_structures(tmp_path / "mgo.extxyz", cells)
    config = RunConfig(data={"source": str(tmp_path / "mgo.extxyz")})
    (tmp_path / ".stages").mkdir()
    prepare = plan(config)[0]
    assert [words[:45] for words in _said(prepare, config, tmp_path)] == [
        "10 of 10 structures have no stress (first: mg"
    ]

    def train(config: RunConfig, folder: Path, show: bool) -> list[str]:
        validate_structures(read_structures(folder / "data" / "train.extxyz"), require=())
        return []

    assert not _said(Task("finetune seed 0 a", "finetune", train, None), config, tmp_path)
    assert _said(Task("prepare", "prepare", train, None), config, tmp_path)  # which it is that tells


def test_elements_that_no_structure_holds_are_said(tmp_path):
    rng = np.random.default_rng(7)
    cells = [random_labels(bulk("MgO", "rocksalt", a=4.2, cubic=True), rng, f"mgo-{k}") for k in range(10)]
    write_structures(tmp_path / "mgo.extxyz", cells)
    (tmp_path / ".stages").mkdir()
    for elements, words in (
        (["Mg", "O"], []),
        (["Mg", "O", "Fe"], ["data.elements: no structure that is used holds Fe"]),
    ):
        config = RunConfig(data={"source": str(tmp_path / "mgo.extxyz"), "elements": elements})
        assert _said(plan(config)[0], config, tmp_path, "data.elements") == words
