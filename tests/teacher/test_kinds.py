"""Every kind of native teacher keeps its contract; a kind of another package is found by its entry point."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from pydantic import Field

import mdl_physpretrain as pp
from mdl_physpretrain import plugin_classes, recipe
from mdl_physpretrain.errors import ConfigError, TeacherRefused
from mdl_physpretrain.option_types import Section, validated
from mdl_physpretrain.potentials.zbl import ZBL
from mdl_physpretrain.teacher import registry
from mdl_physpretrain.teacher.base import NativeTeacher
from mdl_physpretrain.teacher.registry import kind_of, kind_options, teacher_kind, teacher_kinds
from mdl_physpretrain.teacher.source import fitted_teacher, native_teacher, obtain_teacher

EAM_FIT = {"epochs": 2, "cutoff": 4.5, "n_basis": 2}
QUICK: dict[str, dict[str, Any]] = {"eam": EAM_FIT, "auto": {"eam": EAM_FIT}, "classical": {"cutoff": 5.0}}
KINDS = sorted(teacher_kinds())


class CoreTeacher(NativeTeacher):
    """A kind of another package, with the defaults of the contract."""

    name = "core"
    potentials = ("zbl",)

    class Options(Section):
        strength: float = Field(default=1.0, gt=0, description="Of nothing.")

    def fit(self, structures: Sequence[Atoms], *, val: Any, options: Any, progress: bool) -> ZBL:
        model = ZBL().double()
        model.metadata = {"strength": options.strength, "n": len(structures)}
        return model


class Entry:
    name, value = "core", "my_package:CoreTeacher"

    def __init__(self, load: Any) -> None:
        self.load = load


@pytest.fixture
def another_package(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def declare(load: Any) -> None:
        monkeypatch.setattr(plugin_classes, "entry_points", lambda group: [Entry(load)] if "teachers" in group else [])
        registry.teacher_kinds.cache_clear()

    yield declare
    monkeypatch.undo()
    registry.teacher_kinds.cache_clear()


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    one, two = a.state_dict(), b.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("name", KINDS)
def test_contract(name: str, rocksalt: list[Atoms], tmp_path: Path) -> None:
    kind = teacher_kind(name)
    options = validated(kind.Options, QUICK.get(name, {}))
    model = fitted_teacher(kind, rocksalt[:6], rocksalt[6:], options)
    again = fitted_teacher(kind, rocksalt[:6], rocksalt[6:], options)
    assert same(model, again), "the same data and options give the same teacher"
    assert kind_of(model) is kind or not kind.potentials, "or one that chooses"
    forces = pp.label(rocksalt[:1], model, force=True)[0].get_forces()
    assert forces.shape == (8, 3)
    assert np.isfinite(forces).all()

    model.save(tmp_path / "teacher.pt")
    section = {} if name == "eam" else {"kind": name}
    read = native_teacher(rocksalt, None, recipe.Teacher(checkpoint=str(tmp_path / "teacher.pt"), **section))
    assert same(read, model)
    assert kind_of(read) is kind_of(model)
    examination = kind.examine(model, rocksalt)
    if examination is None:
        assert "examination" not in model.metadata
    else:
        assert read.metadata["examination"] == examination.to_dict(), "examined by these structures"
        first = kind.examine(model, rocksalt[:6]).with_forces(model.metadata["examination"]["forces"])
        assert model.metadata["examination"] == first.to_dict(), "forces are those of val"
        assert model.metadata["examination"]["forces"]["structures"] == len(rocksalt) - 6
    curves = kind.curves(model, rocksalt)
    if curves is not None:
        assert {"pair", "r", "total"} <= set(curves)
        assert set(curves["pair"]) == {"Mg-Mg", "O-Mg", "O-O"}
    parts = kind.decomposition(model, rocksalt)
    assert parts is None or {"part", "forces_mae", "total"} <= set(parts)


def test_the_eam_is_what_fit_eam_fits(rocksalt: list[Atoms]) -> None:
    options = recipe.Teacher(**QUICK["eam"], seed=3)
    model = native_teacher(rocksalt[:6], rocksalt[6:], options)
    direct = pp.fit_eam(rocksalt[:6], val=rocksalt[6:], **QUICK["eam"], seed=3)
    assert same(model, direct)
    assert {**direct.metadata, "teacher": "eam"} == model.metadata


def test_a_kind_of_another_package_teaches_like_ours(
    another_package: Any, rocksalt: list[Atoms], tmp_path: Path
) -> None:
    another_package(lambda: CoreTeacher)
    assert list(teacher_kinds()) == sorted([*KINDS, "core"])
    teacher = obtain_teacher(rocksalt, None, recipe.Teacher(kind="core", args={"strength": 2.0}), directory=tmp_path)
    assert teacher.metadata == {"strength": 2.0, "n": 8, "teacher": "core"}
    whole = pp.pretrain_and_finetune(
        rocksalt[:4],
        val=rocksalt[4:6],
        teacher={"kind": "core"},
        preset="paper",
        model_args={"dim1": 8, "dim2": 8, "gc_count": 1, "cutoff": 4.0},
        augment={"n_aug": 1},
        pretrain={"epochs": 1},
        finetune={"epochs": 1},
        directory=tmp_path / "method",
    )
    assert whole.teacher.registry_name == "zbl"
    assert whole.recipe.teacher.preset == "default", "the preset's EAM is no other kind's"
    assert whole.recipe.teacher.force

    path = str(tmp_path / "teacher.pt")
    with pytest.raises(ConfigError, match=r"teacher.pt is of the kind 'core', not 'eam': set 'teacher.kind: core'"):
        native_teacher(rocksalt, None, recipe.Teacher(checkpoint=path))
    network = tmp_path / "method" / "finetune" / "best.pt"
    with pytest.raises(ConfigError, match=r"holds 'cgcnn', which is no native teacher \(auto, classical, core, "):
        native_teacher(rocksalt, None, recipe.Teacher(checkpoint=str(network)))


def test_one_that_fails_its_examination_is_refused(another_package: Any, rocksalt: list[Atoms]) -> None:
    class Failing(CoreTeacher):
        def examine(self, model: Any, structures: Sequence[Atoms]) -> Any:
            return pp.examine(pp.EAM(["O", "Mg"], core=False), structures)

    another_package(lambda: Failing)
    with pytest.raises(TeacherRefused, match=r"O-Mg: well at .*Change the section teacher"):
        obtain_teacher(rocksalt, None, recipe.Teacher(kind="core"))
    assert obtain_teacher(rocksalt, None, recipe.Teacher(kind="core", force=True)).metadata["strength"] == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"kind": "cores"},
            r"mine.kind: unknown kind of teacher 'cores', did you mean 'core'\?; known: auto, classical, core, ",
        ),
        (
            {"kind": "core", "args": {"strenth": 1}},
            "unknown key 'mine.args.strenth'; did you mean 'mine.args.strength'",
        ),
        ({"kind": "core", "args": {"strength": -1}}, "mine.args.strength: .*greater than 0"),
        ({"kind": "core", "cutoff": 5.0}, "mine.cutoff is an option of the EAM; those of 'core' .*: strength"),
        ({"args": {"cutoff": 5.0}}, "mine.args is for other kinds than 'eam', whose options are mine.preset"),
    ],
)
def test_errors_of_options(another_package: Any, options: dict[str, Any], message: str) -> None:
    another_package(lambda: CoreTeacher)
    with pytest.raises(ConfigError, match=message):
        kind_options(recipe.Teacher(**options), "mine")


def test_errors_of_other_packages(another_package: Any) -> None:
    def broken() -> None:
        raise ImportError("no module named gone")

    another_package(broken)
    with pytest.raises(ConfigError, match=r"teacher 'core' .*no module named gone"):
        teacher_kinds()
    another_package(lambda: dict)
    with pytest.raises(ConfigError, match="does not inherit from NativeTeacher"):
        teacher_kinds()
    another_package(lambda: type("Second", (CoreTeacher,), {"potentials": ("eam",)}))
    with pytest.raises(ConfigError, match="two kinds of teachers are, or are made of, 'eam'"):
        teacher_kinds()
