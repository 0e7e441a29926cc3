"""One set of defaults: functions, commands, YAML files and both plugins have those of the recipe."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import typer

import mdl_physpretrain as pp
from mdl_physpretrain import presets, recipe
from mdl_physpretrain.augmentation import augment_iter, filter_labels
from mdl_physpretrain.cli import app
from mdl_physpretrain.cli.options import _value
from mdl_physpretrain.cli.steps import LABELLED
from mdl_physpretrain.dynamics.settings import MDSettings
from mdl_physpretrain.option_types import Section, validated
from mdl_physpretrain.probes import rdf
from mdl_physpretrain.probes.registry import probe_classes
from mdl_physpretrain.workflow.check_suite import CheckSettings
from mdl_physpretrain.workflow.config import RunConfig

FITTED = tuple(recipe.EAMFit.model_fields)
AUGMENTED = tuple(recipe.Perturbation.model_fields)
LIMITS = ("max_force", "max_energy_per_atom", "max_stress", "min_distance", "filter_distance_factor")
SIMULATED = (
    "ensemble", "temperature", "timestep", "steps", "friction", "pressure", "barostat", "taut", "taup",
    "npt_evaluations", "engine", "interval", "trace_interval", "skin", "stop_on",
)  # fmt: skip
CHECKED = ("ensemble", "temperature", "timestep", "steps", "friction", "pressure", "barostat", "engine")
JUDGED = tuple(recipe.Check.model_fields)
RENAMED = {"filter_distance_factor": "min_distance_factor"}  # of `filter_labels`, which has but one
FUNCTIONS: list[tuple[Callable[..., Any], type[Section], tuple[str, ...]]] = [
    (pp.fit_eam, recipe.Teacher, FITTED),
    (pp.augment, recipe.Augment, AUGMENTED),
    (augment_iter, recipe.Augment, AUGMENTED),
    (pp.label, recipe.Augment, ("batch_size",)),
    (pp.label, recipe.Teacher, ("force",)),
    (filter_labels, recipe.Augment, LIMITS),
    (pp.train, recipe.Training, tuple(recipe.Training.model_fields)),
    (pp.train, recipe.Finetune, ("replay_fraction",)),
    (pp.simulate, recipe.MolecularDynamics, SIMULATED),
    (CheckSettings, recipe.MolecularDynamics, CHECKED),
    (CheckSettings, recipe.Check, JUDGED),
    (rdf, recipe.Check, ("r_max",)),
    (MDSettings, recipe.MolecularDynamics, tuple(n for n in SIMULATED if n not in ("engine", "skin"))),
]
#: Fields of a section that a command has as options, and those that it has in other words.
COMMANDS: list[tuple[str, type[Section], tuple[str, ...]]] = [
    ("fit-eam", recipe.Teacher, FITTED),
    ("label", recipe.Teacher, ("force",)),
    ("augment", recipe.Augment, tuple(recipe.Augmentation.model_fields)),
    ("label", recipe.Augment, tuple(LABELLED)),
    ("train", recipe.Training, tuple(recipe.Training.model_fields)),
    ("train", recipe.Finetune, ("replay_fraction", "replay_tolerance", "replay_final_weight")),
    ("pretrain", recipe.Pretrain, tuple(recipe.Pretrain.model_fields)),
    ("finetune", recipe.Finetune, tuple(recipe.Finetune.model_fields)),
    ("md", recipe.MolecularDynamics, CHECKED),
    ("check", recipe.MolecularDynamics, CHECKED),
    ("check", recipe.Check, JUDGED),
]
#: Commands of steps follow the default preset, whose section this is; those of MD and checks have no preset.
OF_PRESET = {
    "augment": "augment",
    "label": "augment",
    "train": "finetune",
    "pretrain": "pretrain",
    "finetune": "finetune",
}
OTHER_WORDS = {
    # fit-teacher --kind and --arg, label --teacher, --arg and --with-fitted
    recipe.Teacher: {"kind", "args", "checkpoint", "calculator", "calculator_args", "core", "with_fitted"},
    recipe.MolecularDynamics: set(recipe.MolecularDynamics.model_fields) - set(CHECKED),
}


def plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize(("function", "section", "names"), FUNCTIONS, ids=lambda p: getattr(p, "__name__", ""))
def test_functions(function: Callable[..., Any], section: type[Section], names: tuple[str, ...]) -> None:
    parameters = inspect.signature(function).parameters
    for name in names:
        its_name = RENAMED.get(name, name) if function is filter_labels else name
        assert plain(parameters[its_name].default) == plain(section.model_fields[name].default), name


@pytest.mark.parametrize(("command", "section", "names"), COMMANDS, ids=lambda p: str(getattr(p, "__name__", p))[:20])
def test_commands(command: str, section: type[Section], names: tuple[str, ...]) -> None:
    parameters = {p.name: p for p in typer.main.get_command(app).commands[command].params}  # type: ignore[attr-defined]
    for name in names:
        spelling = "trajectories" if (command, name) == ("check", "trajectory_interval") else name
        assert spelling in parameters, f"{command} has no option for {name}"
        default, field = parameters[spelling].default, section.model_fields[name]
        if isinstance(default, str) and field.annotation is not str:
            default = _value(default)
        usual = presets.PRESETS["default"].get(OF_PRESET.get(command, ""), {})
        expected = validated(section, {k: v for k, v in usual.items() if k in section.model_fields})
        assert getattr(validated(section, {name: default}), name) == getattr(expected, name), name


@pytest.mark.parametrize(("function", "section"), [(pp.pretrain, recipe.Pretrain), (pp.finetune, recipe.Finetune)])
def test_steps_in_python_are_those_of_a_run(function: Callable[..., Any], section: type[Section]) -> None:
    run = RunConfig.model_validate(presets.over_preset({"data": {"source": "demo"}}))
    parameters = inspect.signature(function).parameters
    for name in section.model_fields:
        assert parameters[name].default == getattr(getattr(run, function.__name__), name), name


@pytest.mark.parametrize("section", [s for _, s, _ in COMMANDS])
def test_every_option_of_the_recipe_has_one_on_the_command_line(section: type[Section]) -> None:
    there = {name for _, of, names in COMMANDS if issubclass(section, of) for name in names}
    assert there | OTHER_WORDS.get(section, set()) >= set(section.model_fields)


def test_yaml_files() -> None:
    config = RunConfig.model_validate({"data": {"source": "demo"}})
    whole = recipe.Recipe()
    for name in recipe.Recipe.model_fields:
        assert getattr(config, name) == getattr(whole, name), name
    for name, value in recipe.MolecularDynamics():
        assert getattr(config.md, name) == value, name


def test_probes() -> None:
    options = {name: value for cls in probe_classes().values() for name, value in cls.Options()}
    config = RunConfig.model_validate({"data": {"source": "demo"}})
    assert options["r_max"] == config.md.r_max == recipe.CHECK.r_max
    assert options["n_compressed"] == config.probe.n_compressed == recipe.CHECK.compressed  # type: ignore[attr-defined]


def test_networks() -> None:
    """Of the preset, in Python and on the command line."""
    assert inspect.signature(pp.pretrain_and_finetune).parameters["model"].default is None
    for command in ("pretrain", "finetune", "train"):
        parameters = {p.name: p for p in typer.main.get_command(app).commands[command].params}  # type: ignore[attr-defined]
        assert parameters["model"].default is None


def test_the_papers_preset_has_options_that_exist() -> None:
    paper = dict(presets.PRESETS["paper"])
    md = paper.pop("md")
    assert validated(recipe.MolecularDynamics, md).steps == 5000
    assert validated(recipe.Recipe, paper).augment.pairs == "closest"


def of_preset(name: str) -> recipe.Recipe:
    content = presets.over_preset({"preset": name})
    return validated(recipe.Recipe, {k: v for k, v in content.items() if k in recipe.Recipe.model_fields})


def test_matdeeplearn() -> None:
    from mdl_physpretrain.hosts.matdeeplearn.settings import Settings, read_settings

    settings, default = Settings(), recipe.Recipe()
    assert settings.augment == default.augment
    for name, value in default.teacher:
        assert getattr(settings.teacher, name) == value, name
    assert (settings.epochs, settings.force_scale) == (default.pretrain.epochs, default.pretrain.force_scale)
    assert settings.val_fraction == default.pretrain.val_fraction
    assert settings.replay_fraction == default.finetune.replay_fraction
    for name in ("default", "algorithm1"):
        chosen = read_settings({"physpretrain": {"preset": name, "md": {"temperature": 700}}})
        expected = of_preset(name)
        assert chosen.augment == expected.augment
        assert chosen.teacher.kind == expected.teacher.kind
        assert chosen.augmentation.thermal == (700 if name == "default" else None)
    paper = read_settings({"physpretrain": {"preset": "paper"}})
    expected = validated(recipe.Recipe, {k: v for k, v in presets.PRESETS["paper"].items() if k != "md"})
    assert paper.augment == expected.augment
    assert (paper.epochs, paper.force_scale) == (expected.pretrain.epochs, expected.pretrain.force_scale)
    assert paper.replay_fraction == expected.finetune.replay_fraction
    for name, value in expected.teacher:
        assert getattr(paper.teacher, name) == value, name


def test_mattertune() -> None:
    pytest.importorskip("mattertune", reason="MatterTune is not installed here")
    importlib.import_module("mdl_physpretrain.hosts.mattertune.plugin")
    data = importlib.import_module("mdl_physpretrain.hosts.mattertune.data")
    order = importlib.import_module("mdl_physpretrain.hosts.mattertune.recipe_order")
    sam = importlib.import_module("mdl_physpretrain.hosts.mattertune.recipe_sam")
    default, fields = recipe.Recipe(), data.EAMLabelledDatasetConfig.model_fields
    assert fields["teacher"].get_default(call_default_factory=True) == default.teacher
    assert fields["augment"].get_default(call_default_factory=True) == default.augment
    section = {"dataset": {"type": "xyz", "src": "cells.xyz"}}
    for name in ("default", "algorithm1", "paper"):
        chosen = data.EAMLabelledDatasetConfig.model_validate({**section, "preset": name, "augment": {"seed": 3}})
        assert chosen.augment == of_preset(name).augment.model_copy(update={"seed": 3})
        assert chosen.teacher == of_preset(name).teacher
    assert data.EAMLabelledDatasetConfig.model_validate(section).augment == default.augment
    assert fields["validation_share"].default == default.pretrain.val_fraction
    assert order.ReplayRecipeConfig.model_fields["fraction"].default == default.finetune.replay_fraction
    assert sam.SAMRecipeConfig.model_fields["rho"].default == default.finetune.rho
