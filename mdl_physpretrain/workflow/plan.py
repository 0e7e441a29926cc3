"""Which tasks a configuration means, what each reads and writes, and when it is out of date."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mdl_physpretrain.files import file_hash
from mdl_physpretrain.report import write_report
from mdl_physpretrain.workflow.config import RunConfig
from mdl_physpretrain.workflow.data import prepare
from mdl_physpretrain.workflow.evaluation import (
    collect_errors,
    collect_md,
    compare_rdfs,
    evaluate_arm,
    evaluate_tables,
    md_file,
    md_tables,
    simulate_arm,
)
from mdl_physpretrain.workflow.teacher import JOURNAL, TEACHER, label_augmented, teach
from mdl_physpretrain.workflow.training import LABELLED, arm_folder, finetune_arm, pretrain_folder, pretrain_student

__all__ = ["STAGES", "Task", "external_inputs", "plan", "report"]

#: In the order of the method; ``--only`` and ``--from`` name these.
STAGES = ("prepare", "teacher", "augment", "pretrain", "finetune", "evaluate", "md", "report")

Work = Callable[[RunConfig, Path, bool], list[str]]


@dataclass(frozen=True)
class Task:
    """A piece of work that is done, skipped or resumed as a whole.

    Attributes
    ----------
    name
        Unique, e.g. ``"finetune seed 0 baseline"``.
    stage
        One of :data:`STAGES`.
    work
        Called with configuration, run folder, and whether to show progress;
        returns the files it wrote, relative to the run folder. Picklable.
    section
        The part of the configuration that the result depends on.
    inputs
        Files it reads: relative ones of the run folder (which may be absent),
        absolute ones of the user.
    needs
        Names of the tasks that write them.
    scratch
        Files and folders that an interrupted attempt leaves to go on with.
        Rooms of the package whose source the result depends on.
    fixed
        Further named hashes.
    parallel
        Whether it may run in a worker process beside others.
    """

    name: str
    stage: str
    work: Work
    section: Any
    inputs: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    scratch: tuple[str, ...] = ()
    fixed: tuple[tuple[str, str], ...] = field(default=())
    parallel: bool = False


_DATA = tuple(f"data/{name}.extxyz" for name in ("train", "val", "test"))


def plan(config: RunConfig) -> list[Task]:
    """The tasks of a run in an order in which they can be done.

    What no arm needs (teacher and labels, when none is pretrained) is left out.
    """
    tasks = [_prepare(config)]
    tasks += _teaching(config)
    for seed in config.seeds:
        tasks += _trainings(config, seed)
    for seed in config.seeds:
        tasks += _judgements(config, seed)
    tasks += _collections(config, tasks)
    tasks.append(_report(config, tasks))
    return tasks


def report(config: RunConfig, folder: Path, show: bool) -> list[str]:
    """The HTML report."""
    return [str(write_report(folder).relative_to(folder))]


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


def _prepare(config: RunConfig) -> Task:
    section = config.data.model_dump(exclude={"source", "train", "val", "test"})
    files: list[str] = []
    named: list[tuple[str, str]] = []
    for part in ("source", "train", "val", "test"):
        more, names = external_inputs(getattr(config.data, part))
        files += more
        # the part a file belongs to and its name (which makes ids) count, not its folder
        named += names + [(f"{part}:{Path(f).name}", file_hash(Path(f)) if Path(f).is_file() else "") for f in more]
    return Task("prepare", "prepare", prepare, section, needs=(), fixed=tuple(named))


def _teaching(config: RunConfig) -> list[Task]:
    teacher, train = config.teacher, "data/train.extxyz"
    tasks = []
    section: Any = config.augment.model_dump()
    inputs: tuple[str, ...] = (train,)
    if config.uses_eam:
        own = teacher.model_dump(exclude={"force", "checkpoint", "calculator", "calculator_args"})
        more = (str(Path(teacher.checkpoint).resolve()),) if teacher.checkpoint else ()
        if teacher.checkpoint:
            own = {"checkpoint": True}
        tasks.append(Task("teacher", "teacher", teach, own, (*_DATA, *more), ("prepare",)))
        inputs = (train, TEACHER)
    else:
        section = [section, teacher.calculator, teacher.calculator_args]
    if config.uses_labels:
        needs = ("prepare", *(t.name for t in tasks))
        tasks.append(Task("augment", "augment", label_augmented, section, inputs, needs, (JOURNAL,)))
    return tasks


def _trainings(config: RunConfig, seed: int) -> list[Task]:
    common = [seed, config.accelerator, config.devices, config.strategy]
    foreign = config.teacher.calculator is not None and not config.augment.anchor
    backbone = [config.backbone.name, config.backbone.args]
    tasks = []
    cores = dict.fromkeys(config.core_of(name) for name, arm in config.arms.items() if arm.pretrain)
    for core in cores:
        tasks.append(
            Task(
                name=_pretrain_name(seed, core),
                stage="pretrain",
                work=partial(pretrain_student, seed=seed, core=core),
                section=[*common, *backbone, core, config.pretrain.model_dump(), config.data.seed, foreign],
                inputs=(LABELLED, "data/train.extxyz"),
                needs=("prepare", "augment"),
                scratch=(pretrain_folder(seed, core),),
                parallel=True,
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
                parallel=True,
            )
        )
    return tasks


def _judgements(config: RunConfig, seed: int) -> list[Task]:
    tasks = []
    for name in config.arms:
        best, trained = f"{arm_folder(seed, name)}/best.pt", f"finetune seed {seed} {name}"
        taught = ("teacher",) if config.uses_eam else ()
        common: dict[str, Any] = {"needs": ("prepare", trained, *taught), "parallel": True}
        tasks.append(
            Task(
                name=f"evaluate seed {seed} {name}",
                stage="evaluate",
                work=partial(evaluate_arm, seed=seed, arm=name),
                section=[seed, name, config.data.seed, config.probe.model_dump()],
                inputs=(*_DATA, best, *((TEACHER,) if config.uses_eam else ())),
                **common,
            )
        )
        files, named = external_inputs(config.md.source)
        for label, md in config.md.conditions().items():
            start = md_file(seed, name, label)
            tasks.append(
                Task(
                    name=f"md seed {seed} {name}" + (f" {label}" if label else ""),
                    stage="md",
                    work=partial(simulate_arm, seed=seed, arm=name, label=label),
                    section=[seed, config.data.seed, md.model_dump(exclude={"source", "reference", "also", "r_max"})],
                    inputs=(*files, best),
                    scratch=(f"{start}.parts", f"{start}.runs.npz", f"{start}.trajectories"),
                    fixed=tuple(named),
                    **common,
                )
            )
        if config.md.trajectory_interval is not None:
            tasks.append(_rdfs(config, seed, name))
    return tasks


def _rdfs(config: RunConfig, seed: int, arm: str) -> Task:
    sources, named = external_inputs(config.md.source)
    references, others = external_inputs(config.md.reference)
    return Task(
        name=f"md seed {seed} {arm} rdf",
        stage="md",
        work=partial(compare_rdfs, seed=seed, arm=arm),
        section=[config.md.r_max, config.md.n_structures, config.md.max_atoms, config.data.seed],
        inputs=(*sources, *references, f"{md_file(seed, arm)}.runs.npz"),
        needs=(f"md seed {seed} {arm}",),
        fixed=tuple(named + others),
        parallel=True,
    )


def _collections(config: RunConfig, tasks: Sequence[Task]) -> list[Task]:
    """The tables of all seeds and arms together."""
    each = [(s, a) for s in config.seeds for a in config.arms]
    evaluated = [f"seed-{s}/evaluate/{a}.{kind}.csv" for s, a in each for kind in evaluate_tables(config)]
    conditions = config.md.conditions()
    simulated = [f"{md_file(s, a, label)}.csv" for s, a in each for label in conditions]
    simulated += [f"{md_file(s, a, label)}.{kind}.csv" for s, a in each for kind, label in md_tables(config)]
    shown = [[x.ensemble, x.temperature, x.timestep, x.steps] for x in conditions.values()]
    names = [config.seeds, list(config.arms)]
    found = []
    for stage, work, files, section in (
        ("evaluate", collect_errors, evaluated, names),
        ("md", collect_md, simulated, [*names, shown]),
    ):
        needs = tuple(t.name for t in tasks if t.stage == stage)
        found.append(Task(stage, stage, work, section, tuple(files), needs))
    return found


def _report(config: RunConfig, tasks: Sequence[Task]) -> Task:
    inputs = [f"{kind}.csv" for kind in (*evaluate_tables(config), *(name for name, _ in md_tables(config)))]
    inputs += ["physicality.csv", "data/summary.json", "teacher/decomposition.csv"]
    inputs += ["teacher/errors.json", "teacher/examination.json", "teacher/curves.csv", "teacher/history.csv"]
    inputs += ["augment/filter.json", "augment/min_distances.csv"]
    inputs += [f"{t.scratch[0]}/history.csv" for t in tasks if t.stage in ("pretrain", "finetune")]
    needs = tuple(t.name for t in tasks)
    section = hashlib.sha256(config.model_dump_json(exclude={"output"}).encode()).hexdigest()
    return Task("report", "report", report, section, tuple(inputs), needs)


def _pretrain_name(seed: int, core: str) -> str:
    return f"pretrain seed {seed}" + ("" if core == "none" else f" {core}")
