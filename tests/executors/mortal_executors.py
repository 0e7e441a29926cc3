"""Executors for tests: without processes, but with deaths on demand."""

from __future__ import annotations

import os
import pickle
import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path

from ase.calculators.calculator import Calculator, all_changes

from mdl_physpretrain.executors import Processes, WorkerDied


class Springs(Calculator):
    """Atoms on springs, without stress; remembers nothing (ASE's Lennard-Jones keeps its neighbour list)."""

    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        time.sleep(float(os.environ.get("SLOW_SPRINGS", "0")))
        self.results = {"energy": 0.5 * float((atoms.positions**2).sum()), "forces": -atoms.positions}


class Mortal(Executor):
    """Works at once, in this process; ``fatal`` looks at the pickled arguments and decides who dies."""

    def __init__(self, fatal: Callable[[tuple], bool] = lambda arguments: False) -> None:
        self.fatal, self.seen, self.deaths = fatal, [], 0

    def submit(self, fn, /, work, content, ticket):
        future: Future = Future()
        arguments = pickle.loads(content)
        self.seen.append(arguments)
        if self.fatal(arguments):
            self.deaths += 1
            future.set_exception(WorkerDied("killed"))
        else:
            try:
                future.set_result(fn(work, content, ticket))
            except Exception as error:
                future.set_exception(error)
        return future


class Shuffling(ThreadPoolExecutor):
    """Threads that finish in any order."""

    def submit(self, fn, /, *args, **kwargs):
        return super().submit(_later, random.uniform(0, 0.02), fn, *args, **kwargs)


def _later(seconds, fn, *args, **kwargs):
    time.sleep(seconds)
    return fn(*args, **kwargs)


class Killing(Processes):
    """Kills one of its workers with ``kill -9`` as soon as the first task is done."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self.killed: list[int] = []

    def submit(self, fn, /, *args, **kwargs):
        future = super().submit(fn, *args, **kwargs)
        future.add_done_callback(self._kill)
        return future

    def _kill(self, future) -> None:
        if not self.killed and (pids := self.pids()):
            self.killed.append(pids[-1])
            os.kill(pids[-1], signal.SIGKILL)


def die_once(marker: str, value: int) -> int:
    """Kill the own process, but only the first time."""
    path = Path(marker)
    if value == 3 and not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return 10 * value


def one_thread() -> tuple[int, str]:
    """Torch's threads, and the limit of the libraries."""
    import torch

    return torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS", "")
