"""Plan of a run: its tasks with inputs, outputs and dependencies."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mdl_physpretrain.files import file_hash
from mdl_physpretrain.potentials.factories import FACTORY
from mdl_physpretrain.potentials.identity import named_files
from mdl_physpretrain.probes.base import Probe
from mdl_physpretrain.probes.registry import table_kinds
from mdl_physpretrain.statistics.reference import REFERENCE_POTENTIAL
from mdl_physpretrain.teacher.registry import kind_modules, kind_options
from mdl_physpretrain.training.replay_scope import SCOPE
from mdl_physpretrain.workflow.config import RunConfig
from mdl_physpretrain.workflow.dependencies import (
    calculator_section,
    driver_modules,
    external_inputs,
    network_modules,
    probe_modules,
    teacher_modules,
)
from mdl_physpretrain.workflow.layout import (
    FITTED,
    JOURNAL,
    LABELLED,
    MOTION,
    REFERENCE,
    TEACHER,
    best_file,
    md_file,
    md_scratch,
)
from mdl_physpretrain.workflow.records import refuse_shared_records
from mdl_physpretrain.workflow.reference import reference_modules, versions_of
from mdl_physpretrain.workflow.run_suite import RunSuite
from mdl_physpretrain.workflow.stages.collect import collect, collected_kinds
from mdl_physpretrain.workflow.stages.evaluate import evaluate_potential
from mdl_physpretrain.workflow.stages.frames import read_frames
from mdl_physpretrain.workflow.stages.labels import label_augmented
from mdl_physpretrain.workflow.stages.md import simulate_potential
from mdl_physpretrain.workflow.stages.prepare import prepare
from mdl_physpretrain.workflow.stages.reference import look_at_reference, simulate_reference
from mdl_physpretrain.workflow.stages.reference_errors import MOST_STRUCTURES, REFERENCE_ERRORS, measure_reference
from mdl_physpretrain.workflow.stages.report import report
from mdl_physpretrain.workflow.stages.teacher import teach
from mdl_physpretrain.workflow.task import Task
from mdl_physpretrain.workflow.training_tasks import TRAIN_AND_VAL, loop_tasks, training_tasks

__all__ = ["STAGES", "plan"]

#: In the order of the method; ``--only`` and ``--from`` name these.
STAGES = ("prepare", "teacher", "augment", "pretrain", "finetune", "loop", "evaluate", "reference", "md", "report")

#: Options of ``md`` that a simulation itself does not depend on.
NOT_OF_MD = {"source", "reference", "also", "r_max", "reference_potential", "reference_potential_args",
             "reference_structures", "compiled"}  # fmt: skip
_DATA: tuple[str, ...] = (*TRAIN_AND_VAL, "data/test.extxyz")


def plan(config: RunConfig) -> list[Task]:
    """The tasks of a run in an order in which they can be done.

    What no arm needs (teacher and labels, when none is pretrained) is left out.
    """
    tasks = [_prepare(config)]
    references = _references(config)
    tasks += references[:1]  # a look at it, before anything that takes long
    tasks += _teacher_tasks(config)
    suite = RunSuite(config, Path())
    for number, seed in enumerate(config.seeds):  # the first through all stages, for a first verdict; then the others
        tasks += training_tasks(config, seed)
        tasks += loop_tasks(config, seed)
        tasks += references[1:] if number == 0 else []
        tasks += _evaluations(config, suite, seed)
    tasks += _collections(config, suite, tasks)
    tasks.append(_report(config, suite, tasks))
    refuse_shared_records(task.name for task in tasks)
    every = suite.probes("potential", "labels", "teacher") + suite.probes("simulation", "nvt", "npt", "nve")
    labels = config.md.conditions()
    cells = [(arm, seed, label) for arm in config.arms for seed in config.seeds for label in labels]
    suite.refuse_shared_files(cells, [*every, *suite.probes("frames")])
    return tasks


def _prepare(config: RunConfig) -> Task:
    section = config.data.model_dump(exclude={"source", "train", "val", "test"})
    files: list[str] = []
    named: list[tuple[str, str]] = []
    for part in ("source", "train", "val", "test"):
        paths, names = external_inputs(getattr(config.data, part))
        files += paths
        # the part a file belongs to and its name (which makes ids) count, not its folder
        named += names + [(f"{part}:{Path(f).name}", file_hash(Path(f)) if Path(f).is_file() else "") for f in paths]
    return Task("prepare", "prepare", prepare, section, needs=(), fixed=tuple(named))


def _teacher_tasks(config: RunConfig) -> list[Task]:
    teacher, train = config.teacher, "data/train.extxyz"
    tasks = []
    section: Any = config.augmentation.model_dump()
    inputs: tuple[str, ...] = (train,)
    if config.uses_native_teacher:
        fit: Any = [teacher.kind, kind_options(teacher).model_dump()]
        files = _DATA
        if teacher.checkpoint:
            fit, files = [teacher.kind, "checkpoint"], (*_DATA, str(Path(teacher.checkpoint).resolve()))
        modules = kind_modules(teacher.kind)
        tasks.append(Task("teacher", "teacher", teach, fit, files, ("prepare",), dear=(TEACHER,), modules=modules))
        inputs = (train, TEACHER)
    else:
        section = [section, *calculator_section(config)]
    if config.uses_labels:
        needs = ("prepare", *(t.name for t in tasks))
        modules = (*teacher_modules(config), *driver_modules(config))
        tasks.append(
            Task("augment", "augment", label_augmented, section, inputs, needs, (JOURNAL, MOTION, FITTED), (LABELLED,),
                 fixed=tuple(named_files(teacher.calculator_args)), modules=modules)
        )  # fmt: skip
    return tasks


def _evaluations(config: RunConfig, suite: RunSuite, seed: int) -> list[Task]:
    tasks = []
    files, named = external_inputs(config.md.source)
    arguments: dict[str, Any] = {"suite_class": RunSuite}
    for name, arm in config.arms.items():
        best = best_file(config, seed, name)
        trained = f"{'loop' if config.rounds_of(name) else 'finetune'} seed {seed} {name}"
        taught = ("teacher",) if config.uses_native_teacher else ()
        models = network_modules(config, config.core_of(name), arm.hybrid)
        of_teacher = teacher_modules(config) if config.uses_native_teacher else ()
        common: dict[str, Any] = {"needs": ("prepare", trained, *taught), "parallel": True}
        arguments |= {"arm": name, "seed": seed}
        probes = suite.probes("potential", "labels", *(("teacher",) if config.uses_native_teacher else ()))
        tasks.append(
            Task(
                name=f"evaluate seed {seed} {name}",
                stage="evaluate",
                work=partial(evaluate_potential, **arguments, probes=tuple(probe.name for probe in probes)),
                section=[seed, name, config.data.seed, _probe_options(probes)],
                inputs=(*_DATA, best, *((TEACHER,) if config.uses_native_teacher else ())),
                modules=(*models, *probe_modules(probes), *of_teacher),
                **common,
            )
        )
        for label, md in config.md.conditions().items():
            start = md_file(seed, name, label)
            probes = suite.probes("simulation", md.ensemble)
            options = md.model_dump(exclude=NOT_OF_MD)
            tasks.append(
                Task(
                    name=f"md seed {seed} {name}" + (f" {label}" if label else ""),
                    stage="md",
                    work=partial(simulate_potential, **arguments, label=label),
                    section=[config.velocity_seed(seed), config.data.seed, options, _probe_options(probes)],
                    inputs=(*files, best),
                    scratch=md_scratch(start),
                    fixed=tuple(named),
                    modules=(*models, *probe_modules(probes)),
                    **common,
                )
            )
        references, reference_names = external_inputs(config.md.reference)
        for probe in suite.probes("frames"):
            tasks.append(
                Task(
                    name=f"md seed {seed} {name} {probe.name}",
                    stage="md",
                    work=partial(read_frames, **arguments, probe=probe.name),
                    section=[_probe_options([probe]), config.md.n_structures, config.md.max_atoms, config.data.seed],
                    inputs=(*files, *references, f"{md_file(seed, name)}.runs.npz"),
                    needs=(f"md seed {seed} {name}",),
                    fixed=tuple(named + reference_names),
                    modules=probe_modules([probe]),
                    parallel=True,
                )
            )
    return tasks


def _references(config: RunConfig) -> list[Task]:
    """A look at the reference potential, its errors on the test structures, and its MD."""
    md = config.md
    if md.reference_potential is None:
        return []
    files, named = external_inputs(md.source)
    checkpoints, arguments = list[str](), named_files(md.reference_potential_args)
    identity: list[Any] = [versions_of(md.reference_potential), md.reference_potential_args]
    if FACTORY.fullmatch(md.reference_potential):
        identity.append(md.reference_potential)
    else:
        checkpoints.append(str(Path(md.reference_potential).resolve()))
    common: dict[str, Any] = {
        "stage": "reference",
        "inputs": (*files, *checkpoints),
        "fixed": (*named, *arguments),
        "modules": reference_modules(md),
    }
    numbers = [md.reference_structures, *(c.n_structures for c in md.conditions().values())]
    ensembles = [c.ensemble for c in md.conditions().values()]
    look = [identity, numbers, ensembles, md.max_atoms, config.data.seed]
    tasks = [
        Task("reference potential", work=look_at_reference, section=look, needs=("prepare",), **common),
        Task(
            "reference errors",
            work=partial(measure_reference, suite_class=RunSuite, tolerate=True),
            section=[identity, MOST_STRUCTURES],
            needs=("prepare", "reference potential"),
            parallel=True,
            **{**common, "inputs": ("data/test.extxyz", *checkpoints), "fixed": arguments},
        ),
    ]
    seed = config.velocity_seed(config.seeds[0])
    for label, condition in md.conditions().items():
        start = md_file(seed, REFERENCE_POTENTIAL, label)
        options = condition.model_dump(exclude=NOT_OF_MD | {"n_structures", "engine"})
        tasks.append(
            Task(
                name="reference md" + (f" {label}" if label else ""),
                work=partial(simulate_reference, suite_class=RunSuite, seed=seed, label=label),
                section=[identity, seed, config.data.seed, options],
                needs=("prepare", "reference potential"),
                scratch=md_scratch(start),
                growing=(("structures", f"{md.reference_structures} of {condition.n_structures}"),),
                parallel=True,
                **common,
            )
        )
    return tasks


def _collections(config: RunConfig, suite: RunSuite, tasks: Sequence[Task]) -> list[Task]:
    """The tables of all seeds and arms together."""
    conditions = [suite.conditions(label) for label in config.md.conditions()]
    tables = table_kinds()
    collections = []
    for stage, applies_to in (("evaluate", ("potential",)), ("md", ("simulation", "frames"))):
        kinds = collected_kinds(suite, applies_to)
        probes = [suite.probe(tables[kind].name) for kind in kinds]
        inputs = [
            suite.table_file(probe, kind, cell)
            for kind, probe in zip(kinds, probes, strict=True)
            for cell in suite.cells(probe)
        ]
        stages = {stage}
        if "physicality" in kinds and config.md.reference_potential is not None:
            stages.add("reference")
            seed, probe = config.velocity_seed(config.seeds[0]), suite.probe(tables["physicality"].name)
            cells = [(REFERENCE_POTENTIAL, seed, label) for label in config.md.conditions()]
            inputs += [suite.table_file(probe, "physicality", cell) for cell in cells]
        collections.append(
            Task(
                stage,
                stage,
                partial(collect, suite_class=RunSuite, applies_to=applies_to),
                [config.seeds, list(config.arms), conditions if stage == "md" else None],
                tuple(inputs),
                tuple(t.name for t in tasks if t.stage in stages),
                modules=probe_modules(probes),
            )
        )
    return collections


def _report(config: RunConfig, suite: RunSuite, tasks: Sequence[Task]) -> Task:
    kinds = collected_kinds(suite, ("potential", "simulation", "frames"))
    inputs = [f"{kind}.csv" for kind in kinds]
    inputs += ["data/summary.json", REFERENCE, REFERENCE_ERRORS, "teacher/decomposition.csv"]
    inputs += [
        "teacher/errors.json",
        "teacher/examination.json",
        "teacher/curves.csv",
        "teacher/history.csv",
        "teacher/comparison.csv",
    ]
    inputs += ["augment/filter.json", "augment/min_distances.csv", "augment/coverage.csv"]
    inputs.append("augment/change_errors.csv")
    inputs += [f"{t.scratch[0]}/history.csv" for t in tasks if t.stage in ("pretrain", "finetune")]
    inputs += [f"{t.scratch[0]}/{SCOPE}" for t in tasks if t.stage == "finetune"]
    needs = tuple(t.name for t in tasks)
    section = hashlib.sha256(config.model_dump_json(exclude={"output"}).encode()).hexdigest()
    probes = [cls() for cls in table_kinds().values()]
    return Task("report", "report", report, section, tuple(inputs), needs, modules=probe_modules(probes))


def _probe_options(probes: Sequence[Probe]) -> Mapping[str, Any]:
    """Names and options of probes."""
    return {probe.name: probe.options.model_dump() for probe in probes}
