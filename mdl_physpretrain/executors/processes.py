"""Worker processes that are replaced when they die."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any, TypeVar

import torch

from mdl_physpretrain.errors import ConfigError, PhysPretrainError

__all__ = ["Processes", "WorkerDied", "begin_worker", "cores", "single_threaded"]

T = TypeVar("T")
STARTS = 3  # attempts to start a worker
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class WorkerDied(BrokenExecutor):
    """The process that worked on a task ended before the task did."""


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Processes(Executor):
    """Local worker processes, one torch thread each.

    Unlike in a ``ProcessPoolExecutor`` the death of a worker costs its own
    task only, which fails with :class:`WorkerDied`; the next task gets a new
    worker. Workers end with this process, however it ends. They are spawned:
    a script that uses this needs ``if __name__ == "__main__":``.

    Parameters
    ----------
    workers
        Number of processes; default: one per core.

    Raises
    ------
    ConfigError
        If ``workers`` is less than 1.
    """

    def __init__(self, workers: int | None = None) -> None:
        if workers is not None and workers < 1:
            raise ConfigError(f"there must be at least 1 worker process, not {workers}")
        self.workers = workers or cores()
        self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="worker")  # each cares for one process
        self._of_thread = threading.local()
        self._pools: dict[ProcessPoolExecutor, int] = {}  # with the process id of its one worker
        self._lock = threading.Lock()
        self._dropped = False

    def pids(self) -> list[int]:
        """Process ids of the workers that run now."""
        with self._lock:
            return list(self._pools.values())

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        return self._threads.submit(self._one, fn, args, kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._threads.shutdown(wait=wait, cancel_futures=cancel_futures)
        with self._lock:
            pools, self._pools = self._pools, {}
        for pool in pools:
            pool.shutdown(wait=wait)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:  # nobody waits for what is at work
            self._dropped = True
            self._threads.shutdown(wait=False, cancel_futures=True)
            for pid in self.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
        self.shutdown()

    def _one(self, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
        pool: ProcessPoolExecutor | None = getattr(self._of_thread, "pool", None)
        if pool is None:
            pool = self._of_thread.pool = self._start()
        if self._dropped:
            raise WorkerDied("the executor was closed")
        try:
            return pool.submit(fn, *args, **kwargs).result()
        except BrokenProcessPool:
            self._of_thread.pool = None
            with self._lock:
                pid = self._pools.pop(pool, 0)
            pool.shutdown(wait=False)
            raise WorkerDied(f"worker process {pid} ended before its task") from None

    def _start(self) -> ProcessPoolExecutor:
        for _ in range(STARTS):
            pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=begin_worker)
            try:
                with self._lock, single_threaded():
                    first = pool.submit(os.getpid)  # starts the process
                pid = first.result()
                break
            except BrokenProcessPool:  # killed from outside, or the script has no guard
                pool.shutdown(wait=False)
        else:
            raise PhysPretrainError(
                "a worker process ended while it started; a script that uses worker processes needs "
                'the line if __name__ == "__main__": before what it does'
            )
        with self._lock:
            self._pools[pool] = pid
        return pool


@contextlib.contextmanager
def single_threaded() -> Any:
    """Let processes started inside use one thread: libraries read these variables when they are imported."""
    previous = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in previous.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def begin_worker() -> None:
    """First thing in a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    threading.Thread(target=_end_with_parent, daemon=True).start()

    torch.set_num_threads(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
