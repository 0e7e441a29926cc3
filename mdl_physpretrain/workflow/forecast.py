"""Forecast of a run: its plan with sizes and times before the work, and what remains while it is done."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdl_physpretrain.files import file_hash
from mdl_physpretrain.ownership import write_again
from mdl_physpretrain.workflow.budget import Fit, fitted
from mdl_physpretrain.workflow.cost import Rates, Sizes, finish_times, first_seed, n_labelled, n_trainings, task_seconds
from mdl_physpretrain.workflow.heartbeat import heartbeat
from mdl_physpretrain.workflow.layout import arm_folder
from mdl_physpretrain.workflow.measure import data_sizes, measured_rates
from mdl_physpretrain.workflow.pace import Pace, expected_pace
from mdl_physpretrain.workflow.plan import plan
from mdl_physpretrain.workflow.records import fingerprint

if TYPE_CHECKING:
    from mdl_physpretrain.workflow.config import RunConfig
    from mdl_physpretrain.workflow.task import Task

__all__ = ["PLAN", "Forecast", "basis_of", "fitted_before", "forecast", "is_prepared"]

PLAN = "plan.json"
#: Stages whose loop is the whole task, so that its rate says when it ends; others have several loops.
ONE_LOOP = {"pretrain", "finetune"}
#: Stages whose loop, where they are resumed, has only the trajectories that are left.
MOTION = {"reference", "md"}


@dataclass
class Forecast:
    """What a run has to do and how long that takes.

    Attributes
    ----------
    config
        As it is done: fitted to its budget.
    fit
        What the budget changed.
    sizes, rates, jobs
        Of the data, of this machine, and tasks at a time.
    tasks
        Of the run.
    seconds
        Estimated, of every task that is to be done.
    """

    config: RunConfig
    fit: Fit
    sizes: Sizes
    rates: Rates
    jobs: int
    tasks: list[Task]
    seconds: dict[str, float]
    _done: list[Pace] = field(default_factory=list)

    @property
    def total(self) -> float:
        """Seconds of what is to be done."""
        return max(finish_times(self.tasks, self.seconds, self.jobs).values(), default=0.0)

    @property
    def first_verdict(self) -> float:
        """Seconds until the first seed is judged."""
        return _first(self.tasks, self.config, finish_times(self.tasks, self.seconds, self.jobs))

    def rows(self) -> list[tuple[str, int, str, float]]:
        """Each stage: number of tasks, what one of them has to do, and seconds of one."""
        stages: dict[str, list[Task]] = {}
        for task in self.tasks:
            if task.name in self.seconds:
                stages.setdefault(task.stage, []).append(task)
        rows = []
        for stage, tasks in stages.items():
            dear = [t for t in tasks if getattr(t.work, "keywords", {}).get("seed") is not None] or tasks
            dear = [t for t in dear if "number" in getattr(t.work, "keywords", {})] or dear  # rounds of a loop
            each = sum(self.seconds[t.name] for t in dear) / len(dear)
            rows.append((stage, len(dear), self._size(stage), each))
        return rows

    def finished(self, task: Task, seconds: float, *, resumed: bool = False) -> None:
        """A task took so long: its like are judged by it from now on, unless it was done in part before."""
        if (estimate := self.seconds.get(task.name)) and not resumed:
            self._done.append(Pace(task, estimate, seconds))
        self.seconds.pop(task.name, None)

    def remaining(
        self, folder: Path, elapsed: Mapping[str, float], resumed: Collection[str] = ()
    ) -> tuple[float, dict[str, float]]:
        """Seconds until the run ends, and until each task at work does.

        Parameters
        ----------
        folder
            Of the run.
        elapsed
            Seconds that each task at work has taken in this call.
        resumed
            Names of those that an earlier call began: their seconds are not those of the whole task.
        """
        tasks = {t.name: t for t in self.tasks if t.name in self.seconds}
        paces = list(self._done)
        left: dict[str, float] = {}
        for name, gone in elapsed.items():
            if name not in tasks:
                continue
            task, beat = tasks[name], heartbeat(folder, name)
            estimate, rest = self.seconds[name] * expected_pace(task, paces), None if beat is None else beat.remaining
            if name in resumed and beat is not None and self._is_one_loop(task):
                estimate *= 1 - beat.first / max(beat.total, 1)  # the loop began where the earlier call ended
            last = self._is_one_loop(task) or self._in_second_training(folder, task)
            if rest is not None and (last or (name in resumed and task.stage in MOTION)):
                left[name] = rest
                if name not in resumed:
                    paces.append(Pace(task, self.seconds[name], gone + rest))
            elif rest is not None and name in resumed and task.stage == "finetune":  # in the first of two trainings
                left[name] = rest + estimate / 2
            else:
                left[name] = max(estimate - gone, rest or 0.0)
        rest_of = {name: self.seconds[name] * expected_pace(task, paces) for name, task in tasks.items()} | left
        times = finish_times(self.tasks, rest_of, self.jobs, running=list(elapsed))
        return max(times.values(), default=0.0), left

    def write(self, folder: Path, basis: str, *, limited: bool) -> None:
        """Write ``plan.json``: the estimate, what the budget changed, and for which configuration.

        Where nothing is ``limited``, that of an earlier call with the same configuration and data stays: it has the
        whole run.
        """
        stored, data = _stored(folder), _data_hash(folder)
        if not limited and (stored.get("basis"), stored.get("data")) == (basis, data):
            return
        changes = {key: list(values) for key, values in self.fit.changes.items()}
        content = {
            "limits": self.fit.limits,
            "changes": changes,
            "basis": basis,
            "data": data,
            "config": self.config.model_dump(mode="json") if limited else None,
            "jobs": self.jobs,
            "seconds": {"total": round(self.total), "first_verdict": round(self.first_verdict)},
            "tasks": {name: round(seconds, 1) for name, seconds in self.seconds.items()},
            "rates": asdict(self.rates),
        }
        write_again(folder, PLAN, json.dumps(content, indent=1), unknown=True)

    def _is_one_loop(self, task: Task) -> bool:
        return task.stage in ONE_LOOP and (
            task.stage != "finetune" or n_trainings(self.config, str(_given(task, "arm"))) == 1
        )

    def _in_second_training(self, folder: Path, task: Task) -> bool:
        """Whether a finetuning that chooses what it replays is in the training that ends it."""
        if task.stage != "finetune" or self._is_one_loop(task):
            return False
        return (folder / arm_folder(_given(task, "seed"), str(_given(task, "arm"))) / "last.ckpt").is_file()

    def _size(self, stage: str) -> str:
        config, sizes = self.config, self.sizes
        labelled, (n_train, atoms) = n_labelled(config, sizes), sizes.train
        about = "" if sizes.labelled else "about "
        if stage == "teacher":
            return f"{config.teacher.kind}: {n_train} structures, {atoms:,} atoms"
        if stage == "augment":
            return f"{about}{labelled:,} structures to label"
        if stage == "pretrain":
            return f"{config.pretrain.epochs} epochs of {about}{labelled:,} structures"
        if stage == "finetune":
            epochs = sorted({arm.epochs or config.finetune.epochs for arm in config.arms.values()})
            most = max(n_trainings(config, arm) for arm in config.arms)
            size = f"{' to '.join(map(str, dict.fromkeys((epochs[0], epochs[-1]))))} epochs of {n_train} structures"
            return size + ("; arms with replay: at most two trainings" if most > 1 else "")
        if stage == "loop":
            loop, most = config.loop, max(map(config.rounds_of, config.arms))
            n = min(loop.n_structures, n_train)
            work = f"{n} trajectories of {loop.steps:,} steps, {loop.epochs} epochs"
            return f"at most {most} rounds an arm, and an examination: {work}"
        if stage in ("md", "reference"):
            md = config.md
            n = min(md.n_structures or sizes.starts[0], sizes.starts[0])
            return f"{n} trajectories of {md.steps:,} steps ({md.steps * md.timestep / 1000:g} ps)"
        return ""


def _given(task: Task, name: str) -> Any:
    """What a task was made with: its seed, its arm."""
    return getattr(task.work, "keywords", {})[name]


def is_prepared(folder: Path) -> bool:
    """Whether a run folder has its data."""
    return (folder / "data" / "train.extxyz").is_file()


def forecast(config: RunConfig, folder: Path, jobs: int, *, tasks: Sequence[Task], left: Sequence[str]) -> Forecast:
    """Estimate of a run whose data are prepared, fitted to its budget.

    Parameters
    ----------
    config
        Of the run, with its budget.
    folder
        Of the run.
    jobs
        Tasks at a time.
    tasks
        Of the run.
    left
        Names of those that are to be done; with a budget all of the fitted run.

    Raises
    ------
    ConfigError
        If the budget cannot be kept.
    """
    sizes, rates = data_sizes(config, folder), measured_rates(config, folder, jobs)

    def seconds_of_tasks(candidate: RunConfig, of: Sequence[Task]) -> dict[str, float]:
        return {t.name: task_seconds(t, candidate, sizes, rates) for t in of if t.stage != "prepare"}

    plans: dict[Any, list[Task]] = {}

    def estimate(candidate: RunConfig) -> tuple[float, float]:
        shape = (len(candidate.seeds), *(candidate.rounds_of(arm) for arm in candidate.arms))
        of = plans[shape] = plans.get(shape) or plan(candidate)  # which reads and hashes the user's files
        times = finish_times(of, seconds_of_tasks(candidate, of), jobs)
        return max(times.values(), default=0.0), _first(of, candidate, times)

    if config.budget is None and config.first_verdict is None:
        seconds = {name: s for name, s in seconds_of_tasks(config, tasks).items() if name in left}
        return Forecast(config, Fit(config), sizes, rates, jobs, list(tasks), seconds)
    fit = fitted(config, estimate)
    tasks = plan(fit.config)
    return Forecast(fit.config, fit, sizes, rates, jobs, tasks, seconds_of_tasks(fit.config, tasks))


def basis_of(config: RunConfig) -> str:
    """Hash of a configuration with its budget."""
    return fingerprint(config.model_dump(mode="json", exclude={"output", "name"}), (), "")


def fitted_before(config: RunConfig, folder: Path, *, same_data: bool) -> RunConfig | None:
    """The configuration that this one was fitted to in an earlier call, so that it goes on as it began.

    ``None`` before the first training: a later call may find a faster machine. With ``same_data`` only if the data are
    those of then.
    """
    if not any(folder.glob("seed-*")):
        return None
    stored = _stored(folder)
    if stored.get("basis") != basis_of(config) or not stored.get("config"):
        return None
    if same_data and stored.get("data") != _data_hash(folder):
        return None
    try:
        fitted_config = type(config).model_validate(stored["config"])
    except ValueError:  # written by another version
        return None
    return fitted_config.model_copy(update={"output": config.output, "name": config.name})


def _data_hash(folder: Path) -> str:
    """Hash of the prepared data."""
    return fingerprint(None, ((file.name, file_hash(file)) for file in (folder / "data").glob("*.extxyz")), "")


def _stored(folder: Path) -> dict[str, Any]:
    """``plan.json``; empty where there is none that can be read."""
    try:
        content = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _first(tasks: Sequence[Task], config: RunConfig, times: Mapping[str, float]) -> float:
    return max((times.get(name, 0.0) for name in first_seed(tasks, config)), default=0.0)
