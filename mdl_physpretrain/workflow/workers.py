"""Workers that do the tasks: this process, or several processes."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch

from mdl_physpretrain.errors import PhysPretrainError
from mdl_physpretrain.executors.processes import begin_worker, single_threaded
from mdl_physpretrain.structures.validation import doubts_known
from mdl_physpretrain.workflow.device_process import run_in_own_process
from mdl_physpretrain.workflow.heartbeat import beating

if TYPE_CHECKING:
    from mdl_physpretrain.workflow.task import Task, Work

__all__ = ["Inline", "Outcome", "Workers", "default_jobs"]

READING = "prepare"  # the task that reads the data, and tells what is doubtful about them
ENDED = (
    "a worker process was ended from outside (out of memory?); the same command goes on from here, "
    "fewer --jobs need less memory"
)


@dataclass(frozen=True)
class Outcome:
    """What became of a task: the files that it wrote and its time, or the error that it ended with."""

    task: Task
    outputs: list[str] = field(default_factory=list)
    seconds: float = 0.0
    error: Exception | None = None


def default_jobs(n_tasks: int) -> int:
    """Workers that make sense: one per CPU core, but a single one where a GPU does the work."""
    if torch.cuda.is_available():
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, n_tasks))


class Inline:
    """Does a task at once, in this process."""

    def __init__(self) -> None:
        self._done: list[Outcome] = []

    def __enter__(self) -> Inline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    @property
    def busy(self) -> bool:
        """Whether there are results that nobody fetched."""
        return bool(self._done)

    def full(self, task: Task) -> bool:
        """Whether a task must wait."""
        return self.busy

    def first(self, ready: Sequence[Task]) -> Task:
        """Which of several tasks to begin with."""
        return ready[0]

    def submit(self, task: Task, config: Any, folder: Path, progress: bool) -> None:
        """Do it."""
        try:
            work = partial(_in_own_process, name=task.name) if task.own_process else task.work
            self._done.append(Outcome(task, *_timed(task.name, work, config, folder, progress)))
        except Exception as error:
            self._done.append(Outcome(task, error=error))

    def finished(self) -> list[Outcome]:
        """Tasks done since the last call, with their outputs and seconds."""
        done, self._done = self._done, []
        return done


class Workers:
    """Does parallel tasks in worker processes with one thread each, the others in this one.

    Workers end with this process, however it ends, so that none goes on
    writing into a folder that the next run has taken over.

    Parameters
    ----------
    jobs
        Number of processes.
    """

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self._inline = Inline()
        self._futures: dict[Future[tuple[list[str], float]], Task] = {}
        self._pool: ProcessPoolExecutor | None = None
        self._before: set[multiprocessing.process.BaseProcess] = set()

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is None:
            return
        if kind is not None:  # an error or Ctrl-C: what is at work goes on from its checkpoints next time
            self._pool.shutdown(wait=False, cancel_futures=True)
            for child in set(multiprocessing.active_children()) - self._before:
                child.terminate()
        self._pool.shutdown(wait=True)

    @property
    def busy(self) -> bool:
        """Whether something is at work, or results wait."""
        return bool(self._futures) or self._inline.busy

    def full(self, task: Task) -> bool:
        """Whether a task must wait for a free worker."""
        return task.parallel and len(self._futures) >= self.jobs

    def first(self, ready: Sequence[Task]) -> Task:
        """Tasks for the workers before those that occupy this process."""
        return next((t for t in ready if t.parallel), ready[0])

    def submit(self, task: Task, config: Any, folder: Path, progress: bool) -> None:
        """Start a task."""
        if not task.parallel:
            self._inline.submit(task, config, folder, progress)
            return
        if self._pool is None:
            self._start()
        assert self._pool is not None
        try:
            self._futures[self._pool.submit(_timed, task.name, task.work, config, folder, False)] = task
        except BrokenProcessPool:
            raise PhysPretrainError(f"{task.name}: {ENDED}") from None

    def finished(self) -> list[Outcome]:
        """Tasks done since the last call; waits for one when all workers are busy."""
        if self._inline.busy or not self._futures:
            return self._inline.finished()
        ready, _ = wait(self._futures, return_when=FIRST_COMPLETED)
        done = []
        for future in ready:
            task = self._futures.pop(future)
            try:
                done.append(Outcome(task, *future.result()))
            except BrokenProcessPool:
                raise PhysPretrainError(f"{task.name}: {ENDED}") from None
            except Exception as error:
                done.append(Outcome(task, error=error))
        return done

    def _start(self) -> None:
        self._before = set(multiprocessing.active_children())
        with single_threaded():
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.jobs, mp_context=context, initializer=begin_worker)
            for _ in range(self.jobs):
                self._pool.submit(os.getpid)  # starts the processes while the environment is set


def _timed(name: str, work: Work, config: Any, folder: Path, progress: bool) -> tuple[list[str], float]:
    """Do a task where it is done, without the start of a worker in its time."""
    began = time.perf_counter()
    with beating(folder, name), nullcontext() if name == READING else doubts_known():
        outputs = work(config, folder, progress)
    return outputs, time.perf_counter() - began


def _in_own_process(config: Any, folder: Path, progress: bool, *, name: str) -> list[str]:
    return run_in_own_process(folder, name)
