"""Doing the tasks of a run: what is unchanged is skipped, what was interrupted goes on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdl_physpretrain.errors import ConfigError, PhysPretrainError
from mdl_physpretrain.source_graph import dependencies, source_hash
from mdl_physpretrain.workflow.config import RunConfig
from mdl_physpretrain.workflow.device_process import needs_own_process
from mdl_physpretrain.workflow.folder import describe, preflight, write_timings
from mdl_physpretrain.workflow.lock import locked, prepare_folder
from mdl_physpretrain.workflow.plan import STAGES, Task, plan
from mdl_physpretrain.workflow.records import Records, fingerprint
from mdl_physpretrain.workflow.workers import Inline, Workers

__all__ = ["RunResult", "execute", "run_pipeline", "selected_stages"]

ABSENT = "absent"
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
        (unchanged), or ``"not selected"``.
    seconds
        Time each task took when it was done.
    """

    folder: Path
    status: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

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
        Called with ``"start"``, ``"resume"``, ``"done"``, ``"skip"`` (unchanged)
        or ``"leave"`` (not selected), the task and the seconds.

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
    if jobs < 1:
        raise ConfigError(f"jobs must be at least 1, not {jobs}")
    folder = Path(output or config.output or "runs/run")
    prepare_folder(folder)
    if needs_own_process(config, "finetune"):
        jobs = 1  # one training already has all devices
    with locked(folder):
        preflight(config)
        tasks = plan(config)
        describe(config, folder)
        result = RunResult(folder)
        records = Records(folder)

        def note(event: str, task: Task, seconds: float) -> None:
            if event != "start" and event != "resume":
                write_timings(folder, tasks, result.status, result.seconds)
            if listener is not None:
                listener(event, task, seconds)

        execute(tasks, config, records, result, chosen=chosen, force=force, jobs=jobs, progress=progress, listener=note)
        write_timings(folder, tasks, result.status, result.seconds)
    return result


def selected_stages(only: str | None, start: str | None) -> frozenset[str]:
    """The stages to look at.

    Raises
    ------
    ConfigError
        If a stage does not exist, or both are given.
    """
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
    config: RunConfig,
    records: Records,
    result: RunResult,
    *,
    chosen: Iterable[str] = STAGES,
    force: bool = False,
    jobs: int = 1,
    progress: bool = False,
    listener: Listener | None = None,
) -> None:
    """Do tasks in the order of their needs, ``jobs`` at a time.

    Raises
    ------
    PhysPretrainError
        Of the first task that failed, with its name; tasks at work beside it
        are ended (they go on from their checkpoints next time).
    """
    chosen = frozenset(chosen)
    tell = listener or (lambda event, task, seconds: None)
    waiting = list(tasks)
    # a report is made of what there is
    needed = {name for t in tasks if t.stage in chosen and t.stage != "report" for name in t.needs}
    settled: set[str] = set()
    marks: dict[str, str] = {}
    pool = Workers(jobs) if jobs > 1 else Inline()

    def settle(task: Task, status: str, seconds: float, event: str) -> None:
        settled.add(task.name)
        result.status[task.name], result.seconds[task.name] = status, seconds
        tell(event, task, seconds)

    with pool:
        while waiting or pool.busy:
            ready = [t for t in waiting if settled.issuperset(t.needs) and not pool.full(t)]
            if ready:
                task = pool.first(ready)
                waiting.remove(task)
                if task.stage not in chosen:
                    if task.name in needed:
                        _require(task, records)
                    known = records.read(task.name)
                    settle(task, "not selected", known["seconds"] if known else 0.0, "leave")
                    continue
                mark = _fingerprint(task, records)
                known = None if force else records.done(task.name)
                if known is not None and known["fingerprint"] == mark:
                    settle(task, "skipped", known["seconds"], "skip")
                    continue
                resumes = records.start(task.name, mark, task.scratch, afresh=force)
                result.status[task.name] = "resumed" if resumes else "done"
                tell("resume" if resumes else "start", task, 0.0)
                marks[task.name] = mark
                pool.submit(task, config, records.folder, progress)
                continue
            for task, outputs, seconds in pool.finished():
                records.finish(task.name, marks.pop(task.name), outputs, seconds)
                settle(task, result.status[task.name], seconds, "done")


def _fingerprint(task: Task, records: Records) -> str:
    hashes = []
    for name in task.inputs:
        path = records.folder / name
        hashes.append(
            (Path(name).name if Path(name).is_absolute() else name, records.hash(name) if path.is_file() else ABSENT)
        )
    return fingerprint(
        [task.stage, task.section], [*hashes, *task.fixed], source_hash(dependencies([_module(task.work)]))
    )


def _module(work: Any) -> str:
    """The module whose code a task is."""
    return getattr(work, "func", work).__module__


def _require(task: Task, records: Records) -> None:
    """A stage that is not looked at must have left what a selected one needs."""
    known = records.done(task.name)
    if known is None:
        raise PhysPretrainError(
            f"{task.name}: not done yet, or its files are gone or changed; run without --only and --from first"
        )
    if known["fingerprint"] != _fingerprint(task, records):
        warnings.warn(
            f"{task.name}: out of date (other configuration, input or code), but taken as it is", stacklevel=2
        )
