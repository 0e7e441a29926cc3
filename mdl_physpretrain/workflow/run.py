"""Execution of a run's tasks: unchanged ones are skipped, interrupted ones resumed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from mdl_physpretrain.errors import ConfigError, PhysPretrainError
from mdl_physpretrain.locking import locked, prepare_folder
from mdl_physpretrain.ownership import claim_folder
from mdl_physpretrain.workflow.budget import limit_words
from mdl_physpretrain.workflow.config import RunConfig
from mdl_physpretrain.workflow.dependencies import input_files
from mdl_physpretrain.workflow.early import check_prepared
from mdl_physpretrain.workflow.first_verdict import is_first_verdict, write_first_verdict
from mdl_physpretrain.workflow.folder import describe, preflight, write_timings
from mdl_physpretrain.workflow.forecast import Forecast, basis_of, fitted_before, forecast, is_prepared
from mdl_physpretrain.workflow.left import fingerprint_parts, task_fingerprint, tasks_left, undone_tasks, without_ended
from mdl_physpretrain.workflow.plan import STAGES, plan
from mdl_physpretrain.workflow.records import Records
from mdl_physpretrain.workflow.task import Task
from mdl_physpretrain.workflow.watch import Watch
from mdl_physpretrain.workflow.workers import Inline, Workers

__all__ = ["RunResult", "execute", "run_pipeline", "selected_stages", "task_fingerprint"]

MAX_JOBS = 1024
LONG = {"teacher", "augment", "pretrain", "finetune", "loop", "reference", "md"}  # stages worth an estimate
Listener = Callable[[str, Task, float], None]


@dataclass
class RunResult:
    """What a call of :func:`run_pipeline` did.

    Attributes
    ----------
    folder
        The run folder.
    status
        Of each task: ``"done"``, ``"resumed"`` (and done), ``"skipped"``
        (unchanged), ``"not selected"``, or ``"failed"`` (and so did what
        needed it).
    seconds
        Time each task took when it was done.
    left
        Names of the tasks that were to be done once the data were prepared.
    """

    folder: Path
    status: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)

    @property
    def report(self) -> Path | None:
        """The page, when there is one."""
        page = self.folder / "report" / "index.html"
        return page if page.is_file() else None


def run_pipeline(
    config: RunConfig,
    *,
    output: str | Path | None = None,
    only: str | None = None,
    start: str | None = None,
    force: bool = False,
    jobs: int = 1,
    progress: bool = False,
    listener: Listener | None = None,
    planned: Callable[[Forecast], None] | None = None,
    say: Callable[[str], None] | None = None,
    only_plan: bool = False,
) -> RunResult:
    """Do a run, or what is left of it.

    Parameters
    ----------
    config
        What to do.
    output
        Run folder; default: that of the configuration.
    only, start
        Do this stage only, or begin with it; earlier results are taken as they
        are.
    force
        Do the selected stages again although nothing changed.
    jobs
        Trainings and MD runs of different seeds and arms at the same time,
        each in a process with one thread.
    progress
        Show progress bars.
    listener
        Called with ``"start"``, ``"resume"``, ``"done"``, ``"skip"`` (unchanged),
        ``"leave"`` (not selected) or ``"verdict"`` (all of the first seed is
        done), the task and the seconds.
    planned
        Called with the forecast before anything but the data is worked on.
    say
        Called now and then with a line on what is at work and what remains.
    only_plan
        Stop after the forecast, of which there is none where nothing that takes long is left: only the data are
        prepared.

    Returns
    -------
    RunResult

    Raises
    ------
    PhysPretrainError
        If something is wrong with the configuration, the data, the folder or a
        stage; what was finished is kept.
    """
    chosen = selected_stages(only, start)
    if not 1 <= jobs <= MAX_JOBS:
        raise ConfigError(f"jobs must lie between 1 and {MAX_JOBS}, not {jobs}")
    folder = Path(output or config.output or "runs/run")
    prepare_folder(folder)
    claim_folder(folder, "run", inputs=input_files(config))
    with locked(folder), Watch(folder, say or (lambda line: None), bars=progress) as watch:
        preflight(config)
        basis, limits = basis_of(config), limit_words(config)
        tasks = plan(config)
        if any(task.own_process for task in tasks):
            jobs = 1  # one training already has all devices
        result, records, ended = RunResult(folder), Records(folder), set[str]()
        undone: list[str] | None = None  # until config.yaml has the configuration

        def note_left(*, forced: bool = force) -> None:
            nonlocal undone
            undone = undone_tasks(tasks, records, chosen, force=forced)
            note_ended()

        def note_ended() -> None:
            nonlocal undone
            if undone is not None:
                undone = without_ended(undone, ended, tasks)
                records.note_left(undone)

        def note(event: str, task: Task, seconds: float) -> None:
            if event == "start" and task.stage == "report":
                note_left(forced=False)  # whether what was forced came out as it was
            if task.name == "prepare" and event in ("done", "skip"):
                check_prepared(config, folder, chosen)
            if event != "start" and event != "resume":
                write_timings(folder, tasks, result.status, result.seconds)
            watch.note(event, task, seconds)
            if listener is not None:
                listener(event, task, seconds)
            if event in ("done", "skip"):
                ended.add(task.name)
                note_ended()
            is_first = event == "done" and is_first_verdict(tasks, config, ended, task)
            if is_first and write_first_verdict(folder) and listener is not None:
                listener("verdict", task, 0.0)

        options: dict[str, Any] = {"chosen": chosen, "force": force, "jobs": jobs, "progress": progress}
        if not limits:
            describe(config, folder)
            note_left()
        if "prepare" in chosen:
            execute(tasks[:1], config, records, result, listener=note, **options)
            if undone is not None:
                note_left()
        # results that are taken as they are have the seeds and epochs of the fit that they were made with
        before = fitted_before(config, folder, same_data="pretrain" in chosen)
        if before is not None:
            config, tasks = before, plan(before)
            describe(config, folder)
            note_left()
        if only_plan and not is_prepared(folder):
            raise PhysPretrainError(
                "the data are not prepared, so there is no plan; say --plan without --from and --only"
            )
        result.left = left = tasks_left(tasks, records, chosen, force=force) if is_prepared(folder) else []
        is_long = any(task.stage in LONG and task.name in left for task in tasks)
        if is_long and ((limits and before is None) or planned is not None):
            expected = _forecast(config, folder, jobs, tasks, left, needed=bool(limits) or only_plan)
            if expected is not None:
                watch.forecast, config, tasks = expected, expected.config, expected.tasks
                if before is None:
                    expected.write(folder, basis, limited=bool(limits))
                if planned is not None:
                    planned(expected)
        if only_plan:
            return result
        if limits and before is None:
            describe(config, folder)
            note_left()
        execute(tasks, config, records, result, listener=note, earlier=set(result.status), **options)
        write_timings(folder, tasks, result.status, result.seconds)
        note_left(forced=False)
    return result


def _forecast(
    config: RunConfig, folder: Path, jobs: int, tasks: Sequence[Task], left: Sequence[str], *, needed: bool
) -> Forecast | None:
    """The forecast; ``None`` where there is none and it is not ``needed``."""
    try:
        return forecast(config, folder, jobs, tasks=tasks, left=left)
    except (PhysPretrainError, RuntimeError, ValueError) as error:  # what is wrong is told by the stage that meets it
        if needed:
            raise
        warnings.warn(f"no estimate of the time: {error}", stacklevel=2)
        return None


def selected_stages(only: str | None, start: str | None) -> frozenset[str]:
    """The stages to look at; raises ConfigError if one does not exist, or both are given."""
    for option, value in (("--only", only), ("--from", start)):
        if value is not None and value not in STAGES:
            raise ConfigError(f"{option}: there is no stage {value!r}; the stages are {', '.join(STAGES)}")
    if only is not None and start is not None:
        raise ConfigError("--only and --from exclude each other")
    if only is not None:
        return frozenset({only})
    return frozenset(STAGES[STAGES.index(start) :] if start else STAGES)


def execute(
    tasks: Sequence[Task],
    config: Any,
    records: Records,
    result: RunResult,
    *,
    chosen: Iterable[str] | None = None,
    force: bool = False,
    jobs: int = 1,
    progress: bool = False,
    listener: Listener | None = None,
    tolerate: Callable[[Task, Exception], bool] | None = None,
    earlier: Collection[str] = (),
) -> None:
    """Do tasks in the order of their needs, ``jobs`` at a time.

    Parameters
    ----------
    tasks, config, records
        What to do, what the work is called with, and what is known.
    result
        Gets status and seconds of every task.
    chosen
        Stages; default: all.
    force, jobs, progress, listener
        See :func:`run_pipeline`.
    tolerate
        Called with a task and the error it ended with: whether the others go
        on (but for those that need it).
    earlier
        Names of tasks that this call did before.

    Raises
    ------
    PhysPretrainError
        Of the first task that failed, with its name; tasks at work beside it
        are ended (they go on from their checkpoints next time).
    """
    chosen = frozenset(task.stage for task in tasks) if chosen is None else frozenset(chosen)
    notify = listener or (lambda event, task, seconds: None)
    settled = set(earlier)
    waiting = [task for task in tasks if task.name not in settled]
    # a report is made of what there is
    needed = {name for t in tasks if t.stage in chosen and t.stage != "report" for name in t.needs}
    failed: set[str] = set()
    marks: dict[str, tuple[str, str | None]] = {}
    parts: dict[str, dict[str, Any]] = {}
    pool = Workers(jobs) if jobs > 1 else Inline()

    def settle(task: Task, status: str, seconds: float, event: str) -> None:
        settled.add(task.name)
        result.status[task.name], result.seconds[task.name] = status, seconds
        notify(event, task, seconds)

    with pool:
        while waiting or pool.busy:
            ready = [t for t in waiting if settled.issuperset(t.needs) and not pool.full(t)]
            if ready:
                task = pool.first(ready)
                waiting.remove(task)
                if not failed.isdisjoint(task.needs):
                    failed.add(task.name)
                    settle(task, "failed", 0.0, "fail")
                    continue
                if task.stage not in chosen:
                    if task.name in needed:
                        _require(task, records)
                    record = records.read(task.name)
                    settle(task, "not selected", record["seconds"] if record else 0.0, "leave")
                    continue
                mark = task_fingerprint(task, records)
                record = None if force else records.done(task.name)
                parts[task.name] = fingerprint_parts(task, records)
                if record is not None and record["fingerprint"] == mark:
                    settle(task, "skipped", record["seconds"], "skip")
                    continue
                basis = task_fingerprint(task, records, growing=False) if task.growing else None
                resumes = records.start(
                    task.name,
                    basis or mark,
                    task.scratch,
                    dear=task.dear,
                    afresh=force,
                    growing=basis is not None,
                    parts=parts[task.name],
                )
                result.status[task.name] = "resumed" if resumes else "done"
                notify("resume" if resumes else "start", task, 0.0)
                marks[task.name] = mark, basis
                pool.submit(task, config, records.folder, progress)
                continue
            for outcome in pool.finished():
                task, error = outcome.task, outcome.error
                if error is not None:
                    if tolerate is None or not tolerate(task, error):
                        _raise_named(task, error)
                    failed.add(task.name)
                    settle(task, "failed", outcome.seconds, "fail")
                    continue
                mark, basis = marks.pop(task.name)
                records.finish(
                    task.name, mark, outcome.outputs, outcome.seconds, basis=basis, parts=parts[task.name]
                )  # fmt: skip
                settle(task, result.status[task.name], outcome.seconds, "done")


def _raise_named(task: Task, error: Exception) -> NoReturn:
    """Raise the error with the task's name."""
    if isinstance(error, PhysPretrainError):
        raise PhysPretrainError(f"{task.name}: {error}") from error
    if isinstance(error, OSError) and error.strerror:  # a full disk, a folder that is gone
        where = f" ({error.filename})" if error.filename else ""
        raise PhysPretrainError(f"{task.name}: {error.strerror}{where}; finished work is kept") from error
    error.add_note(f"(in {task.name})")
    raise error


def _require(task: Task, records: Records) -> None:
    """A stage that is not looked at must have left what a selected one needs."""
    record = records.done(task.name)
    if record is None:
        raise PhysPretrainError(
            f"{task.name}: not done yet, or its files are gone or changed; run without --only and --from first"
        )
    if record["fingerprint"] != task_fingerprint(task, records):
        warnings.warn(
            f"{task.name}: out of date (other configuration, input or code), but taken as it is", stacklevel=2
        )
