"""Plan of a run: its tasks with inputs, outputs and dependencies."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mdl_physpretrain.files import file_hash
from mdl_physpretrain.potentials.identity import named_files
from mdl_physpretrain.potentials.registry import model_class
from mdl_physpretrain.probes.base import Probe
from mdl_physpretrain.probes.registry import table_kinds
from mdl_physpretrain.teacher.registry import kind_modules, kind_options, teacher_kind
from mdl_physpretrain.training.references import is_another_energy_scale
from mdl_physpretrain.workflow.config import RunConfig
from mdl_physpretrain.workflow.layout import JOURNAL, LABELLED, TEACHER, arm_folder, md_file, pretrain_folder
from mdl_physpretrain.workflow.records import refuse_shared_records
from mdl_physpretrain.workflow.run_suite import RunSuite
from mdl_physpretrain.workflow.stages.collect import collect, collected_kinds
from mdl_physpretrain.workflow.stages.evaluate import evaluate_potential
from mdl_physpretrain.workflow.stages.finetune import finetune_arm
from mdl_physpretrain.workflow.stages.frames import read_frames
from mdl_physpretrain.workflow.stages.labels import label_augmented
from mdl_physpretrain.workflow.stages.md import simulate_potential
from mdl_physpretrain.workflow.stages.prepare import prepare
from mdl_physpretrain.workflow.stages.pretrain import pretrain_network
from mdl_physpretrain.workflow.stages.report import report
from mdl_physpretrain.workflow.stages.teacher import teach
from mdl_physpretrain.workflow.task import Task

__all__ = ["STAGES", "external_inputs", "input_files", "plan", "probe_modules"]

#: In the order of the method; ``--only`` and ``--from`` name these.
STAGES = ("prepare", "teacher", "augment", "pretrain", "finetune", "evaluate", "md", "report")

_DATA = tuple(f"data/{name}.extxyz" for name in ("train", "val", "test"))


def plan(config: RunConfig) -> list[Task]:
    """The tasks of a run in an order in which they can be done.

    What no arm needs (teacher and labels, when none is pretrained) is left out.
    """
    tasks = [_prepare(config)]
    tasks += _teaching(config)
    for seed in config.seeds:
        tasks += _trainings(config, seed)
    suite = RunSuite(config, Path())
    for seed in config.seeds:
        tasks += _evaluations(config, suite, seed)
    tasks += _collections(config, suite, tasks)
    tasks.append(_report(config, suite, tasks))
    refuse_shared_records(task.name for task in tasks)
    every = suite.probes("potential", "labels", "eam") + suite.probes("simulation", "nvt", "npt", "nve")
    labels = config.md.conditions()
    cells = [(arm, seed, label) for arm in config.arms for seed in config.seeds for label in labels]
    suite.refuse_shared_files(cells, [*every, *suite.probes("frames")])
    return tasks


def external_inputs(sources: Sequence[str] | None) -> tuple[list[str], list[tuple[str, str]]]:
    """Files that sources stand for, and names with hashes for those that are no files."""
    files: list[str] = []
    named: list[tuple[str, str]] = []
    for source in sources or ():
        if source == "demo":
            files.append(str(Path(__file__).parents[1] / "data" / "demo.extxyz"))
        elif source in ("train", "val", "test"):
            files.append(f"data/{source}.extxyz")
        elif source.startswith("load-atoms:"):
            named.append((source, ""))
        elif any(c in source for c in "*?[") and not Path(source).exists():
            root = Path(source).anchor or "."
            pattern = str(Path(source).relative_to(root)) if Path(source).is_absolute() else source
            files += sorted(str(p.resolve()) for p in Path(root).glob(pattern) if p.is_file())
        else:
            files.append(str(Path(source).resolve()))
    return files, named


def input_files(config: RunConfig) -> list[str]:
    """Files of the user that a run reads, but for those of its own folder."""
    data, md = config.data, config.md
    sources = [s or [] for s in (data.source, data.train, data.val, data.test, md.source, md.reference)]
    files = [name for part in sources for name in external_inputs(part)[0] if Path(name).is_absolute()]
    return files + ([config.teacher.checkpoint] if config.teacher.checkpoint else [])


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


def _teaching(config: RunConfig) -> list[Task]:
    teacher, train = config.teacher, "data/train.extxyz"
    tasks = []
    section: Any = config.augment.model_dump()
    inputs: tuple[str, ...] = (train,)
    if config.uses_native_teacher:
        fit: Any = [teacher.kind, kind_options(teacher).model_dump()]
        files = _DATA
        if teacher.checkpoint:
            fit, files = [teacher.kind, "checkpoint"], (*_DATA, str(Path(teacher.checkpoint).resolve()))
        modules = kind_modules(teacher.kind)
        tasks.append(
            Task("teacher", "teacher", teach, fit, files, ("prepare",), dear=(TEACHER,), modules=modules)
        )  # fmt: skip
        inputs = (train, TEACHER)
    else:
        section = [section, teacher.calculator, teacher.calculator_args]
    if config.uses_labels:
        needs = ("prepare", *(t.name for t in tasks))
        files_of_args: tuple[tuple[str, str], ...] = ()
        if teacher.calculator is None:
            modules = _model_modules(*teacher_kind(teacher.kind).potentials)
        else:
            modules = (teacher.calculator.partition(":")[0],)
        files_of_args = tuple(named_files(teacher.calculator_args))
        tasks.append(
            Task("augment", "augment", label_augmented, section, inputs, needs, (JOURNAL,), (LABELLED,),
                 fixed=files_of_args, modules=modules)
        )  # fmt: skip
    return tasks


def _trainings(config: RunConfig, seed: int) -> list[Task]:
    common = [seed, config.accelerator, config.devices, config.strategy]
    foreign = is_another_energy_scale(config.teacher, anchor=config.augment.anchor)
    backbone = [config.backbone.name, config.backbone.args]
    tasks = []
    cores = dict.fromkeys(config.core_of(name) for name, arm in config.arms.items() if arm.pretrain)
    for core in cores:
        tasks.append(
            Task(
                name=_pretrain_name(seed, core),
                stage="pretrain",
                work=partial(pretrain_network, seed=seed, core=core),
                section=[*common, *backbone, core, config.pretrain.model_dump(), config.data.seed, foreign],
                inputs=(LABELLED, "data/train.extxyz"),
                needs=("prepare", "augment"),
                scratch=(pretrain_folder(seed, core),),
                modules=_network_modules(config, core, "none"),
                parallel=True,
                own_process=str(config.devices) != "1",
            )
        )
    for name, arm in config.arms.items():
        core, replay = config.core_of(name), config.replay_of(name)
        irrelevant = {"replay_fraction"} if arm.pretrain else {"replay_fraction", "shift_energies"}
        options = config.finetune.model_dump(exclude=irrelevant)
        options |= arm.changes()
        inputs, needs = list(_DATA[:2]), ["prepare"]
        if arm.pretrain:
            inputs.append(f"{pretrain_folder(seed, core)}/best.pt")
            needs.append(_pretrain_name(seed, core))
        if replay > 0:
            inputs.append(LABELLED)
            needs.append("augment")
        if arm.hybrid != "none":
            inputs.append(TEACHER)
            needs.append("teacher")
        tasks.append(
            Task(
                name=f"finetune seed {seed} {name}",
                stage="finetune",
                work=partial(finetune_arm, seed=seed, arm=name),
                section=[*common, None if arm.pretrain else backbone, core, arm.hybrid, replay, options],
                inputs=tuple(inputs),
                needs=tuple(needs),
                scratch=(arm_folder(seed, name),),
                modules=_network_modules(config, core, arm.hybrid),
                parallel=True,
                own_process=str(config.devices) != "1",
            )
        )
    return tasks


def _evaluations(config: RunConfig, suite: RunSuite, seed: int) -> list[Task]:
    tasks = []
    files, named = external_inputs(config.md.source)
    arguments: dict[str, Any] = {"suite_class": RunSuite}
    for name, arm in config.arms.items():
        best, trained = f"{arm_folder(seed, name)}/best.pt", f"finetune seed {seed} {name}"
        taught = ("teacher",) if config.uses_eam else ()
        models = _network_modules(config, config.core_of(name), arm.hybrid)
        common: dict[str, Any] = {"needs": ("prepare", trained, *taught), "parallel": True}
        arguments |= {"arm": name, "seed": seed}
        probes = suite.probes("potential", "labels", *(("eam",) if config.uses_eam else ()))
        tasks.append(
            Task(
                name=f"evaluate seed {seed} {name}",
                stage="evaluate",
                work=partial(evaluate_potential, **arguments, probes=tuple(probe.name for probe in probes)),
                section=[seed, name, config.data.seed, _probe_options(probes)],
                inputs=(*_DATA, best, *((TEACHER,) if config.uses_eam else ())),
                modules=(*models, *probe_modules(probes), *(_model_modules("eam") if config.uses_eam else ())),
                **common,
            )
        )
        for label, md in config.md.conditions().items():
            start = md_file(seed, name, label)
            probes = suite.probes("simulation", md.ensemble)
            options = md.model_dump(exclude={"source", "reference", "also", "r_max"})
            tasks.append(
                Task(
                    name=f"md seed {seed} {name}" + (f" {label}" if label else ""),
                    stage="md",
                    work=partial(simulate_potential, **arguments, label=label),
                    section=[seed, config.data.seed, options, _probe_options(probes)],
                    inputs=(*files, best),
                    scratch=(f"{start}.runs.npz", f"{start}.trajectories"),
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
        collections.append(
            Task(
                stage,
                stage,
                partial(collect, suite_class=RunSuite, applies_to=applies_to),
                [config.seeds, list(config.arms), conditions if stage == "md" else None],
                tuple(inputs),
                tuple(t.name for t in tasks if t.stage == stage),
                modules=probe_modules(probes),
            )
        )
    return collections


def _report(config: RunConfig, suite: RunSuite, tasks: Sequence[Task]) -> Task:
    kinds = collected_kinds(suite, ("potential", "simulation", "frames"))
    inputs = [f"{kind}.csv" for kind in kinds]
    inputs += ["data/summary.json", "teacher/decomposition.csv"]
    inputs += ["teacher/errors.json", "teacher/examination.json", "teacher/curves.csv", "teacher/history.csv"]
    inputs += ["augment/filter.json", "augment/min_distances.csv", "augment/coverage.csv"]
    inputs += [f"{t.scratch[0]}/history.csv" for t in tasks if t.stage in ("pretrain", "finetune")]
    needs = tuple(t.name for t in tasks)
    section = hashlib.sha256(config.model_dump_json(exclude={"output"}).encode()).hexdigest()
    probes = [cls() for cls in table_kinds().values()]
    return Task("report", "report", report, section, tuple(inputs), needs, modules=probe_modules(probes))


def probe_modules(probes: Sequence[Probe]) -> tuple[str, ...]:
    """Modules of probes, which are looked up by name."""
    return tuple(dict.fromkeys(type(probe).__module__ for probe in probes))


def _probe_options(probes: Sequence[Probe]) -> Mapping[str, Any]:
    """Names and options of probes."""
    return {probe.name: probe.options.model_dump() for probe in probes}


def _model_modules(*names: str) -> tuple[str, ...]:
    """Modules of potentials, which are looked up by name."""
    return tuple(model_class(name).__module__ for name in names)


def _network_modules(config: RunConfig, core: str, hybrid: str) -> tuple[str, ...]:
    """Modules of all potentials that an arm's network is made of."""
    parts = [config.backbone.name]
    parts += ["zbl"] if core == "zbl" else []
    parts += ["eam"] if hybrid != "none" else []
    return _model_modules(*parts, *(["sum"] if len(parts) > 1 else []))


def _pretrain_name(seed: int, core: str) -> str:
    return f"pretrain seed {seed}" + ("" if core == "none" else f" {core}")
