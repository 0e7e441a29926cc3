"""The stage of a native teacher that is no EAM: its files, its tasks, its errors, its page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from ase import Atoms

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.potentials.zbl import ZBL
from mdl_physpretrain.structures import write_structures
from mdl_physpretrain.teacher import registry
from mdl_physpretrain.teacher.base import NativeTeacher
from mdl_physpretrain.teacher.kinds.eam import EAMTeacher
from mdl_physpretrain.workflow.config import RunConfig
from mdl_physpretrain.workflow.config_files import load_config
from mdl_physpretrain.workflow.folder import preflight
from mdl_physpretrain.workflow.plan import plan
from mdl_physpretrain.workflow.records import WRITTEN
from mdl_physpretrain.workflow.stages.labels import label_augmented
from mdl_physpretrain.workflow.stages.teacher import teach


class CoreTeacher(NativeTeacher):
    name = "core"
    potentials = ("zbl",)

    def fit(self, structures: Any, *, val: Any, options: Any, progress: bool) -> ZBL:
        return ZBL().double()


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {kind.name: kind for kind in (CoreTeacher(), EAMTeacher())}
    monkeypatch.setattr(registry, "teacher_kinds", lambda: kinds)


def config(**options: Any) -> RunConfig:
    return RunConfig.model_validate({"data": {"source": "demo"}, "seeds": [0], **options})


@pytest.mark.usefixtures("core")
def test_files(rocksalt: list[Atoms], tmp_path: Path) -> None:
    for part, structures in (("train", rocksalt[:4]), ("val", rocksalt[4:6]), ("test", rocksalt[6:])):
        write_structures(tmp_path / "data" / f"{part}.extxyz", structures)
    eam = config(teacher={"epochs": 1, "cutoff": 4.5, "n_basis": 2})
    names = {"teacher.pt", "errors.json", "examination.json", "curves.csv", "decomposition.csv", "history.csv"}
    assert set(teach(eam, tmp_path, False)) == {f"teacher/{name}" for name in names}
    assert {file.name for file in (tmp_path / "teacher").iterdir()} == names
    (tmp_path / WRITTEN).parent.mkdir()
    (tmp_path / WRITTEN).write_text("\n".join(f"teacher/{name}" for name in names))  # as a run notes its files
    assert set(teach(config(teacher={"kind": "core"}), tmp_path, False)) == {
        "teacher/teacher.pt",
        "teacher/errors.json",
    }
    assert {file.name for file in (tmp_path / "teacher").iterdir()} == {"teacher.pt", "errors.json"}
    errors = json.loads((tmp_path / "teacher" / "errors.json").read_text())
    assert list(errors) == ["train", "val", "trivial", "test"]
    assert all(errors[part]["forces_mae"] > 0 for part in errors)


@pytest.mark.usefixtures("core")
def test_tasks() -> None:
    tasks = {task.name: task for task in plan(config(teacher={"kind": "core"}))}
    assert tasks["teacher"].modules == (__name__, "mdl_physpretrain.potentials.zbl")
    assert "teacher/teacher.pt" in tasks["augment"].inputs
    assert "mdl_physpretrain.potentials.zbl" in tasks["augment"].modules
    judged = tasks["evaluate seed 0 pretrained"]
    assert "teacher/teacher.pt" in judged.inputs, "forces are compared with the teacher's, whatever its kind"
    assert "mdl_physpretrain.probes.force_alignment" in judged.modules
    sections = {str(plan(config(teacher=t))[1].section) for t in ({"kind": "core"}, {}, {"seed": 1})}
    assert len(sections) == 3


@pytest.mark.usefixtures("core")
def test_errors(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("data: {source: demo}\nteacher:\n  kind: core\narms: {a: {pretrain: false, hybrid: joint}}\n")
    with pytest.raises(ConfigError, match=r"arms.a.hybrid adds an EAM, but teacher.kind is 'core'"):
        load_config(path)
    for section, message in (
        ("{kind: cor}", "teacher.kind: unknown kind of teacher 'cor', did you mean 'core'?"),
        ("{kind: core, args: {reach: 1}}", "unknown key 'teacher.args.reach'"),
    ):
        path.write_text(f"data: {{source: demo}}\nteacher: {section}\n")
        with pytest.raises(ConfigError) as told:
            preflight(load_config(path))
        assert message in str(told.value)


def test_coverage_is_written_and_holes_are_named(rocksalt: list[Atoms], tmp_path: Path) -> None:
    for part, structures in (("train", rocksalt[:4]), ("val", rocksalt[4:6]), ("test", rocksalt[6:])):
        write_structures(tmp_path / "data" / f"{part}.extxyz", structures)
    teacher = {"kind": "classical", "args": {"cutoff": 5.0}, "force": True}
    teach(config(teacher=teacher), tmp_path, False)
    with pytest.warns(UserWarning, match=r"neither data nor augmented structures cover: .*O-O .* Å"):
        written = label_augmented(config(teacher=teacher, augment={"n_aug": 1}), tmp_path, False)
    assert "augment/coverage.csv" in written
    before = pd.read_csv(tmp_path / "augment" / "coverage.csv")
    assert list(before) == ["pair", "low", "high", "data", "count", "wanted", "covered"]
    augment = {"n_aug": 1, "coverage": 3, "max_force": None}
    label_augmented(config(teacher=teacher, augment=augment), tmp_path, False)
    after = pd.read_csv(tmp_path / "augment" / "coverage.csv")
    assert (after["data"] == before["data"]).all()
    assert after["covered"].mean() > 0.9 > before["covered"].mean()


def test_errors_expected_of_labels_are_written_where_they_are_measured(rocksalt: list[Atoms], tmp_path: Path) -> None:
    for part, structures in (("train", rocksalt[:4]), ("val", rocksalt[4:6]), ("test", rocksalt[6:])):
        write_structures(tmp_path / "data" / f"{part}.extxyz", structures)
    teacher = {"kind": "classical", "args": {"cutoff": 5.0}, "force": True}
    teach(config(teacher=teacher), tmp_path, False)
    file = tmp_path / "augment" / "change_errors.csv"
    for choice, written in (("auto", True), (0.3, False)):
        augment = {"n_aug": 1, "change_error": choice, "max_force": None}
        names = label_augmented(config(teacher=teacher, augment=augment), tmp_path, False)
        assert ("augment/change_errors.csv" in names) == written
    table = pd.read_csv(file)
    assert list(table) == ["composition", "pairs", "error", "trivial", "expected"]
    assert table["composition"].tolist() == [rocksalt[0].get_chemical_formula()]
    assert 0 < table["expected"].item() <= 1
