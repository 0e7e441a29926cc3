"""A calculator and a fitted potential as one teacher."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress
from typer.testing import CliRunner

import mdl_physpretrain as pp
from mdl_physpretrain.cli import app
from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.executors import Processes
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.identity import potential_fingerprint
from mdl_physpretrain.recipe import Augment, Teacher, refuse_unanchored
from mdl_physpretrain.structures import get_labels
from mdl_physpretrain.teacher import engines, source
from mdl_physpretrain.teacher.by_composition import ByComposition, better_by_composition
from mdl_physpretrain.teacher.change_errors import ChangeErrors, compared_change_errors, measured_change_errors
from mdl_physpretrain.teacher.driver import thermal_driver
from mdl_physpretrain.teacher.labelled_set import augmented_labels, change_errors
from mdl_physpretrain.teacher.source import fitted_beside, obtain_teacher
from mdl_physpretrain.workflow.config import RunConfig
from mdl_physpretrain.workflow.dependencies import calculator_section


def right_for_magnesia() -> pp.ASECalculator:
    """The truth about MgO, and too little about everything else."""
    return _Weaker(pp.ZBL(inner=1.2, outer=2.6).double())


class _Weaker(pp.ASECalculator):
    share = 0.7

    def calculate(self, atoms=None, properties=("energy",), system_changes=()) -> None:  # type: ignore[no-untyped-def]
        super().calculate(atoms, properties, system_changes)
        if "Ca" in self.atoms.symbols:
            self.results = {name: self.share * value for name, value in self.results.items()}


class FailsOnMost(_Weaker):
    """Answers one pair of frames of calcium oxide, and rightly."""

    def __init__(self) -> None:
        super().__init__(pp.ZBL(inner=1.2, outer=2.6).double())

    def calculate(self, atoms=None, properties=("energy",), system_changes=()) -> None:  # type: ignore[no-untyped-def]
        if "Ca" in atoms.symbols and not np.isclose(atoms.positions[0, 0], FIRST[:2]).any():
            raise RuntimeError("not this one")
        pp.ASECalculator.calculate(self, atoms, properties, system_changes)


class FailsOnLarge(_Weaker):
    """Most of the truth about calcium oxide, and nothing about some frames."""

    share = 0.92

    def __init__(self) -> None:
        super().__init__(pp.ZBL(inner=1.2, outer=2.6).double())

    def calculate(self, atoms=None, properties=("energy",), system_changes=()) -> None:  # type: ignore[no-untyped-def]
        if "Ca" in atoms.symbols and np.isclose(atoms.positions[0, 0], FAILING).any():
            raise RuntimeError("too far")
        super().calculate(atoms, properties, system_changes)


FIRST: list[float] = []
FAILING: list[float] = []


def _fitted(outer: float = 2.1) -> EnergyModel:
    """Knows both oxides fairly well."""
    model = pp.ZBL(inner=0.6, outer=outer).double()
    model.metadata = {"teacher": "classical", "examination": {"passed": True}}
    return model


@pytest.fixture
def frames(rocksalt: list[Atoms]) -> list[Atoms]:
    """Frames of MgO and CaO with the labels of one ZBL."""
    rng = np.random.default_rng(0)
    frames = []
    for name in ("Mg", "Ca"):
        for k in range(6):
            atoms = rocksalt[0].copy()
            atoms.symbols = [name if s == "Mg" else s for s in atoms.symbols]
            atoms.positions += rng.normal(0, 0.04, (len(atoms), 3))
            atoms.info = {"structure_id": f"{name}-{k}"}
            frames.append(atoms)
    FIRST[:] = [float(atoms.positions[0, 0]) for atoms in frames if "Ca" in atoms.symbols]
    return list(pp.label(frames, pp.ZBL(inner=1.2, outer=2.6).double()))


def test_each_labels_what_it_knows_better(frames: list[Atoms]) -> None:
    fitted = _fitted()
    teacher = better_by_composition(right_for_magnesia, fitted, frames)
    assert isinstance(teacher, ByComposition)
    magnesia, calcia = frames[0].get_chemical_formula(), frames[-1].get_chemical_formula()
    assert teacher.compositions == {calcia}
    assert (teacher.labels(magnesia), teacher.labels(calcia)) == ("calculator", "classical")
    alone = {name: measured_change_errors(t, frames) for name, t in (("c", right_for_magnesia), ("f", fitted))}
    assert teacher.errors.skills[magnesia] == alone["c"].skills[magnesia]
    assert teacher.errors.skills[calcia] == alone["f"].skills[calcia]
    measured = measured_change_errors(teacher, frames)
    assert measured is not None
    assert teacher.errors.overall == pytest.approx(measured.overall)
    assert teacher.errors.of_composition == pytest.approx(dict(measured.of_composition))
    assert measured.overall < min(errors.overall for errors in alone.values())
    for atoms, label in zip(frames, pp.label(frames, teacher), strict=True):
        expected = right_for_magnesia() if "Mg" in atoms.symbols else pp.ASECalculator(fitted)
        np.testing.assert_allclose(get_labels(label).forces, expected.get_forces(atoms), atol=1e-10)
        np.testing.assert_allclose(
            get_labels(label).stress, voigt_6_to_full_3x3_stress(expected.get_stress(atoms)), atol=1e-10
        )
        assert label.info["label_source"] == ("_weaker" if "Mg" in atoms.symbols else "classical")
        assert get_labels(label).energy == pytest.approx(teacher().get_potential_energy(atoms))


def test_it_travels_to_other_processes(frames: list[Atoms]) -> None:
    teacher = better_by_composition(right_for_magnesia, _fitted(), frames)
    with Processes(2) as workers:
        elsewhere = pp.label(frames, teacher, executor=workers)
    for one, two in zip(elsewhere, pp.label(frames, teacher), strict=True):
        np.testing.assert_array_equal(get_labels(one).forces, get_labels(two).forces)


def test_a_journal_of_another_pair_of_teachers_is_not_taken(frames: list[Atoms], tmp_path: Path) -> None:
    teacher, stronger = (better_by_composition(right_for_magnesia, fit, frames) for fit in (_fitted(), _fitted(2.2)))
    everything = ByComposition(right_for_magnesia, _fitted(), {"Mg4O4", "Ca4O4"}, teacher.errors)
    for number, other in enumerate((stronger, everything)):
        journal = tmp_path / f"{number}.journal"
        pp.label(frames, teacher, resume=journal)
        with pytest.raises(ConfigError, match="another teacher"):
            pp.label(frames, other, resume=journal)
        assert potential_fingerprint(other) != potential_fingerprint(teacher)


def test_the_fit_is_held_to_what_its_examination_vouches_for(
    frames: list[Atoms], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "_within", lambda labels, atoms, limit: f"beyond {limit}")
    fitted = _fitted()
    fitted.metadata = {**fitted.metadata, "examination": {"passed": True, "max_force": 7.0}}
    teacher = ByComposition(right_for_magnesia, fitted, {"Ca4O4"}, ChangeErrors(0.1))
    labelled = pp.label(frames, teacher)
    assert {atoms.get_chemical_formula() for atoms in labelled} == {"Mg4O4"}
    assert {failure.reason for failure in labelled.failures} == {"beyond 7.0"}


def test_where_the_calculator_fails_the_fit_labels(frames: list[Atoms]) -> None:
    teacher = better_by_composition(FailsOnMost, _fitted(), frames)
    assert teacher.compositions == {"Ca4O4"}
    assert teacher.errors.skills["Ca4O4"].pairs == 15


def test_they_are_compared_on_the_frames_that_both_answer(frames: list[Atoms]) -> None:
    """A calculator that fails on the frames with large changes is not better for it."""
    for atoms in frames[-1:]:
        atoms.positions += np.random.default_rng(1).normal(0, 0.15, atoms.positions.shape)
    frames = list(pp.label(frames, pp.ZBL(inner=1.2, outer=2.6).double()))
    FAILING[:] = [float(atoms.positions[0, 0]) for atoms in frames[-1:]]
    calculator, fit, better = compared_change_errors(FailsOnLarge, _fitted(), frames)
    assert calculator is not None
    assert fit is not None
    assert calculator.skills["Ca4O4"].error < fit.skills["Ca4O4"].error
    assert calculator.skills["Ca4O4"].pairs < fit.skills["Ca4O4"].pairs
    assert "Ca4O4" not in better
    assert "Ca4O4" in better_by_composition(FailsOnLarge, _fitted(), frames).compositions


def test_a_fit_that_failed_or_knows_nothing_better_labels_nothing(frames: list[Atoms]) -> None:
    fitted = _fitted()
    fitted.metadata = {"examination": {"passed": False, "failures": ["O-O: attractive"]}}
    with pytest.warns(UserWarning, match=r"with_fitted: the calculator labels all, as .* O-O: attractive"):
        failed = better_by_composition(right_for_magnesia, fitted, frames)
    assert not failed.compositions
    assert failed.errors == measured_change_errors(right_for_magnesia, frames)
    assert {atoms.info["label_source"] for atoms in pp.label(frames, failed)} == {"_weaker"}
    with pytest.warns(UserWarning, match=r"the fitted potential answers no two frames: .*unknown"):
        assert not better_by_composition(right_for_magnesia, pp.EAM(["Cu"]).double(), frames).compositions
    teacher = better_by_composition(right_for_magnesia, _fitted(), frames[:6])
    assert not teacher.compositions
    assert teacher.labels("Mg4O4") == "calculator"
    assert thermal_driver(frames, teacher, Augment(thermal=300.0, thermal_method="md")) is teacher.fitted
    with pytest.raises(ConfigError, match=r"teacher\.with_fitted: no force changes between the frames"):
        better_by_composition(right_for_magnesia, _fitted(), frames[::6])
    options = Teacher(calculator=f"{__name__}:right_for_magnesia", with_fitted=True)
    with pytest.raises(
        ConfigError,
        match=r"teacher\.with_fitted compares .* no two such frames between which forces change",
    ):
        obtain_teacher(frames[::6], None, options)


def test_labels_of_both_are_anchored(frames: list[Atoms]) -> None:
    teacher = better_by_composition(right_for_magnesia, _fitted(), frames)
    options = {"n_aug": 0, "coverage": None, "thermal_amplitude": 0.1, "thermal_rounds": 1, "change_error": "auto"}
    made = augmented_labels(frames, teacher, Augment(**options))
    assert made.change_errors == change_errors(teacher, frames, Augment(**options)) == teacher.errors
    assert len(made.labelled) == 12
    with pytest.raises(ConfigError, match=r"augment\.anchor has to be true"):
        augmented_labels(frames, teacher, Augment(**options, anchor=False))


def test_a_calculator_alone_is_told_of_a_fit_that_knows_more(
    frames: list[Atoms], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "fitted_teacher", lambda *_, **__: _fitted())
    options = Augment(n_aug=0, thermal=100.0, thermal_method="md", thermal_time=4.0, change_error="auto")
    words = r"changes of force of Ca4O4 better than the calculator that teaches \(wrong by \d+% of them, .* by 30%\)"
    with pytest.warns(UserWarning, match=words):
        augmented_labels(frames, right_for_magnesia, options)
    with warnings.catch_warnings(record=True) as told:
        augmented_labels(frames[:6], right_for_magnesia, options)
    assert not [w for w in told if "with_fitted" in str(w.message)]


def test_the_fit_is_kept_for_the_same_structures_only(
    frames: list[Atoms], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits: list[int] = []

    def fit(kind, structures, val, options, progress=False):  # type: ignore[no-untyped-def]
        fits.append(len(structures))
        return _fitted()

    monkeypatch.setattr(source, "fitted_teacher", fit)
    file = tmp_path / "a" / "fitted.pt"
    first = fitted_beside(frames, file=file)
    assert fitted_beside(frames, file=file).metadata["fitted_to"] == first.metadata["fitted_to"]
    assert fits == [12]
    other = [atoms.copy() for atoms in frames]
    other[3].positions[0] += 0.01
    fitted_beside(list(pp.label(other, _fitted())), file=file)
    fitted_beside(frames)
    fitted_beside(frames, Teacher(kind="classical"), file)
    assert fits == [12, 12, 12, 12]
    file.write_bytes(b"torn")
    with pytest.warns(UserWarning, match="fitted again, as .*is damaged"):
        fitted_beside(frames, file=file)
    options = Teacher(calculator=f"{__name__}:right_for_magnesia", with_fitted=True, force=True)
    teacher = obtain_teacher(frames, None, options, directory=tmp_path / "b")
    assert isinstance(teacher, ByComposition)
    assert (tmp_path / "b" / "fitted.pt").is_file()
    monkeypatch.setattr(source, "better_by_composition", lambda *_: pytest.fail("compared again"))
    again = obtain_teacher(frames, None, options, directory=tmp_path / "b")
    assert (again.compositions, again.errors) == (teacher.compositions, teacher.errors)


def test_on_the_command_line(frames: list[Atoms], tmp_path: Path) -> None:
    children = []
    for parent in frames:
        child = parent.copy()
        child.arrays["aug_displacement"] = np.full((8, 3), 0.0)
        child.info = {"structure_id": f"{parent.info['structure_id']}-0", "parent_id": parent.info["structure_id"]}
        children.append(child)
    files = [str(tmp_path / name) for name in ("parents.extxyz", "children.extxyz", "fitted.pt", "out.extxyz")]
    pp.write_structures(files[0], frames)
    pp.write_structures(files[1], children)
    _fitted().save(files[2])
    calculator = f"{Path(__file__).stem}:right_for_magnesia"
    call = ["label", files[1], "-o", files[3], "--parents", files[0]]
    result = CliRunner().invoke(app, [*call, "--teacher", calculator, "--with-fitted", files[2]])
    assert result.exit_code == 0, result.output
    sources = {a.get_chemical_formula(): a.info["label_source"] for a in pp.read_structures(files[3])}
    assert sources == {"Mg4O4": "_weaker-anchored", "Ca4O4": "classical-anchored"}
    for wrong, words in (
        (["--teacher", calculator, "--with-fitted", files[2], "--no-anchored"], "have to be anchored"),
        (["--teacher", files[2], "--with-fitted", files[2]], "module:factory of a calculator"),
        (["--teacher", calculator, "--with-fitted", calculator], "has to be a fitted teacher"),
    ):
        told = CliRunner().invoke(app, [*call[: 4 if "--no-anchored" in wrong else 6], *wrong])
        assert told.exit_code == 2
        assert words in " ".join(told.output.split())


def test_what_goes_with_it_is_checked_at_once() -> None:
    with pytest.raises(ValueError, match="'with_fitted' fits a potential beside a calculator: give 'calculator'"):
        Teacher(with_fitted=True)
    with pytest.raises(ConfigError, match=r"augment\.anchor has to be true"):
        refuse_unanchored(Teacher(calculator="ase.calculators.emt:EMT", with_fitted=True), Augment(anchor=False))
    teacher = {"calculator": "ase.calculators.emt:EMT", "with_fitted": True}
    with pytest.raises(ValueError, match=r"augment\.anchor has to be true"):
        RunConfig.model_validate({"data": {"source": ["demo"]}, "teacher": teacher, "augment": {"anchor": False}})


def test_its_options_count_in_what_a_run_does_again() -> None:
    def section(**options: object) -> list[object]:
        teacher = {"calculator": "ase.calculators.emt:EMT", "with_fitted": True, **options}
        return calculator_section(RunConfig.model_validate({"data": {"source": ["demo"]}, "teacher": teacher}))

    usual = section(kind="classical")
    assert usual == section(kind="classical")
    assert usual != section(kind="classical", args={"cutoff": 5.0})
    assert section(kind="eam") != section(kind="eam", seed=3)
    assert usual != section(kind="classical", with_fitted=False)
