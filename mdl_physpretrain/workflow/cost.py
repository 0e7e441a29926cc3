"""Estimate of the time of a run: what each task has to do, at measured rates, and when its workers are through."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mdl_physpretrain.augmentation.coverage import PAIRS_PER_ELEMENT, per_bin_of
from mdl_physpretrain.loop.replay_trial import STEPS
from mdl_physpretrain.teacher.driver import drives_by_fit
from mdl_physpretrain.teacher.source import BESIDE

if TYPE_CHECKING:
    from mdl_physpretrain.recipe import Training
    from mdl_physpretrain.workflow.config import RunConfig
    from mdl_physpretrain.workflow.task import Task

__all__ = ["Rates", "Sizes", "finish_times", "first_seed", "n_labelled", "n_trainings", "task_seconds"]

#: Bins of 0.1 Å between the core of a pair of elements and the data, of augment.coverage; typical.
COVERAGE_BINS = 12
#: An error is evaluated in this share of the time of a training pass.
PREDICTION = 1 / 3
#: Seconds per atom of the training set that a teacher takes to fit, on the machines that the text was written on; a
#: kind that another package adds counts as the slowest. The run itself measures it when it comes to it.
TEACHERS = {"eam": 0.02, "classical": 0.012}
#: Seconds per atom and step of a native teacher's MD, and per atom that it labels.
TEACHER_STEP, TEACHER_LABEL = 4e-4, 4e-4
REPORT, TABLES, CURVES = 20.0, 1.0, 3.0


@dataclass(frozen=True)
class Sizes:
    """What the prepared data hold: numbers of structures and of their atoms.

    Attributes
    ----------
    train, val, test, starts
        Structures and their atoms; of ``starts`` all that MD may begin with.
    elements
        Number of elements.
    labelled
        Structures and atoms that the teacher has labelled; ``None``: not yet.
    """

    train: tuple[int, int]
    val: tuple[int, int]
    test: tuple[int, int]
    starts: tuple[int, int]
    elements: int
    labelled: tuple[int, int] | None = None


@dataclass(frozen=True)
class Rates:
    """Seconds measured on this machine with the run's own network and structures.

    Attributes
    ----------
    train
        Per atom of a training step.
    md
        Per atom and step of the network's MD.
    reference
        Per atom and step of the reference potential's MD.
    label
        Per atom that ``teacher.calculator`` labels.
    """

    train: float
    md: float
    reference: float = 0.0
    label: float = TEACHER_LABEL


def n_labelled(config: RunConfig, sizes: Sizes) -> int:
    """About how many structures are labelled, before the filter."""
    if sizes.labelled is not None:
        return sizes.labelled[0]
    options = config.augmentation
    number = options.n_aug * sizes.train[0]
    if options.coverage is not None:
        pairs = sizes.elements * (sizes.elements + 1) // 2
        with_bins = min(pairs, PAIRS_PER_ELEMENT * sizes.elements)
        number += int(per_bin_of(options.coverage, sizes.elements, pairs) * COVERAGE_BINS * with_bins)
    if options.thermal is not None or options.thermal_amplitude is not None:
        number += options.thermal_rounds * _moving(config, sizes)
    return number


def n_trainings(config: RunConfig, arm: str) -> int:
    """Trainings that the finetuning of an arm has at most: two, where what is replayed is still to be chosen."""
    augment = config.augment
    known = augment.anchor and augment.change_error is not None  # the teacher's error, without which all is replayed
    return 2 if config.replay_of(arm) and config.finetune.replay_scope == "auto" and known else 1


def task_seconds(task: Task, config: RunConfig, sizes: Sizes, rates: Rates) -> float:
    """Seconds that a task takes by itself."""
    given = getattr(task.work, "keywords", {})
    train, val = sizes.train[1], sizes.val[1]
    labelled = n_labelled(config, sizes) * _mean(sizes.labelled or sizes.train)
    if task.stage == "teacher":
        return 2.0 if config.teacher.checkpoint else train * _fit(config.teacher.kind)
    if task.stage == "augment":
        return labelled * rates.label + _teacher_motion(config, sizes, rates) + _beside(config, train, rates)
    if task.stage == "pretrain":
        share = config.pretrain.val_fraction
        return _epochs(config.pretrain, labelled * (1 - share), labelled * share, rates)
    if task.stage == "finetune":
        arm = config.arms[given["arm"]]
        options = config.finetune.model_copy(update=arm.changes())
        one = _epochs(options, train / (1 - config.replay_of(given["arm"])), val, rates)
        number = n_trainings(config, given["arm"])
        tried = min(options.replay_trial, sizes.train[0]) * _mean(sizes.train) * STEPS * rates.md if number > 1 else 0.0
        return number * one + tried
    if task.stage == "loop" and "number" in given:
        loop, last = config.loop, given["number"] > config.rounds_of(given["arm"])
        simulated = min(loop.n_structures, sizes.train[0]) * _mean(sizes.train) * loop.steps * rates.md
        options = config.finetune.model_copy(update={"epochs": loop.epochs})
        share = loop.replay or config.replay_of(given["arm"])
        return CURVES + simulated + (0 if last else _epochs(options, train / (1 - share), val, rates))
    if task.stage == "evaluate" and "arm" in given:
        return CURVES + (train + val + sizes.test[1]) * rates.train * PREDICTION
    if task.stage in ("md", "reference") and "label" in given:
        condition = config.md.conditions()[given["label"]]
        n = min(condition.n_structures or sizes.starts[0], sizes.starts[0])
        rate = rates.md
        if task.stage == "reference":
            n, rate = min(n, config.md.reference_structures or n), rates.reference
        return n * _mean(sizes.starts) * condition.steps * rate
    return REPORT if task.stage == "report" else TABLES


def finish_times(
    tasks: Sequence[Task], seconds: Mapping[str, float], jobs: int, *, running: Sequence[str] = ()
) -> dict[str, float]:
    """When each task is through, counted from now, done as :func:`mdl_physpretrain.workflow.run.execute` does them.

    Parameters
    ----------
    tasks
        In the order of the plan.
    seconds
        Of those that are not done yet, by name; tasks without an entry are done.
    jobs
        Tasks at a time.
    running
        Names of those at work now: they come first.
    """
    waiting = sorted((t for t in tasks if t.name in seconds), key=lambda t: t.name not in running)  # stable
    done = {t.name: 0.0 for t in tasks if t.name not in seconds}
    now, busy = 0.0, list[tuple[float, str]]()
    while waiting or busy:
        ready = [t for t in waiting if all(n in done and done[n] <= now for n in t.needs)]
        task = next((t for t in ready if t.parallel and jobs > 1 and len(busy) < jobs), None)
        if task is not None:
            waiting.remove(task)
            heapq.heappush(busy, (now + seconds[task.name], task.name))
            continue
        task = next((t for t in ready if not t.parallel or jobs == 1), None)
        if task is not None:  # in the command's own process: nothing begins meanwhile, what is at work goes on
            waiting.remove(task)
            now += seconds[task.name]
            done[task.name] = now
            continue
        if not busy:  # needs that nothing fulfils (an unfinished stage that was not selected)
            return done | {t.name: now for t in waiting}
        end, name = heapq.heappop(busy)
        now = max(now, end)
        done[name] = end
    return done


def first_seed(tasks: Sequence[Task], config: RunConfig) -> list[str]:
    """Names of the tasks that judge the networks of the first seed."""
    seed = config.seeds[0]
    return [
        t.name for t in tasks if t.stage in ("evaluate", "md") and getattr(t.work, "keywords", {}).get("seed") == seed
    ]


def _epochs(options: Training, train: float, val: float, rates: Rates) -> float:
    """Seconds of a training on so many atoms."""
    passes = 2 if options.optimizer == "sam" else 1
    return options.epochs * rates.train * (passes * train + PREDICTION * val)


def _fit(kind: str) -> float:
    """Seconds per atom of the fit of a native teacher."""
    every = sum(TEACHERS.values())
    return ({"auto": every} | TEACHERS).get(kind, every)


def _beside(config: RunConfig, train: int, rates: Rates) -> float:
    """The potential that is fitted beside a calculator, and the calculator's frames that it is compared by."""
    teacher = config.teacher
    if teacher.with_fitted:
        return train * (_fit(teacher.kind) + rates.label)
    moving = teacher.calculator is not None and drives_by_fit(config.augmentation, calculator=True)
    return train * _fit(BESIDE.kind) if moving else 0.0


def _mean(part: tuple[int, int]) -> float:
    return part[1] / part[0] if part[0] else 0.0


def _moving(config: RunConfig, sizes: Sizes) -> int:
    """Structures that are displaced."""
    return min(sizes.train[0], config.augment.thermal_structures or sizes.train[0])


def _teacher_motion(config: RunConfig, sizes: Sizes, rates: Rates) -> float:
    options: Any = config.augmentation
    if options.thermal is None or options.thermal_method != "md":
        return 0.0
    calculator = config.teacher.calculator is not None
    fitted = drives_by_fit(options, calculator=calculator)
    step = rates.label if calculator and not fitted else TEACHER_STEP
    return _moving(config, sizes) * _mean(sizes.train) * options.thermal_time / 2 * step
