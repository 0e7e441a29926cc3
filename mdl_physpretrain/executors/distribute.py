"""Distribution of work to an executor, with a repeat when a worker dies."""

from __future__ import annotations

import contextlib
import pickle
import sys
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from dataclasses import dataclass
from typing import Any

from mdl_physpretrain.errors import ConfigError, PhysPretrainError

__all__ = ["LostWork", "distribute"]

ATTEMPTS = 3  # workers that a portion may cost before it is suspected
IN_FLIGHT, BYTES_IN_FLIGHT = 128, 1 << 29  # portions sent and not yet back; bounds the memory


@dataclass(frozen=True)
class LostWork:
    """Instead of a result: every worker that took this piece of work died."""

    reason: str


def distribute(
    executor: Executor,
    work: Callable[..., Any],
    portions: Iterable[Sequence[int]],
    arguments: Callable[[Sequence[int]], tuple[Any, ...]],
) -> Iterator[tuple[Sequence[int], Any]]:
    """Let an executor do portions of work; yield them as they are finished.

    A portion whose worker died is sent again. After three deaths its pieces
    are sent one by one, so that a piece that always kills its worker does not
    cost the others.

    Parameters
    ----------
    executor
        Threads, processes or a cluster.
    work
        Function of a module; may be executed more than once for a portion.
    portions
        Indices of the pieces that are done together.
    arguments
        Of ``work`` for some indices; called when they are sent.

    Yields
    ------
    indices, result
        What ``work`` returned, or :class:`LostWork` for a single piece.

    Raises
    ------
    ConfigError
        If this is no executor, or an argument cannot be pickled.
    PhysPretrainError
        If the executor takes no more work or cancels it, as where Dask's scheduler died.
    """
    if not isinstance(executor, Executor):
        raise ConfigError(
            "executor must be a concurrent.futures.Executor (of Dask: client.get_executor()), "
            f"not {type(executor).__name__}"
        )
    fresh = iter(portions)
    retries: deque[tuple[Sequence[int], int]] = deque()
    running: dict[Future[Any], tuple[Sequence[int], int]] = {}
    sizes: dict[Future[Any], int] = {}
    try:
        while True:
            while len(running) < IN_FLIGHT and sum(sizes.values()) < BYTES_IN_FLIGHT:
                indices, deaths = retries.popleft() if retries else (next(fresh, None), 0)
                if indices is None:
                    break
                future, size = _submit(executor, work, arguments(indices))
                running[future], sizes[future] = (indices, deaths), size
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                indices, deaths = running.pop(future)
                del sizes[future]
                try:
                    result = future.result()
                except Exception as error:
                    if not _worker_died(error):
                        raise
                    if deaths + 1 < ATTEMPTS:
                        retries.append((indices, deaths + 1))
                    elif isinstance(error, CancelledError):
                        raise PhysPretrainError(f"the executor cancelled the same work {ATTEMPTS} times") from error
                    elif len(indices) > 1:
                        retries.extend(([k], 1) for k in indices)
                    else:
                        yield indices, LostWork(f"every worker process that took it died ({_first_line(error)})")
                else:
                    yield indices, result
    finally:
        with contextlib.suppress(*_lost_connection()):  # nobody is there to cancel anything
            for future in running:
                future.cancel()


def _submit(executor: Executor, work: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Future[Any], int]:
    try:
        content = pickle.dumps(arguments, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # whatever a foreign object raises when it is pickled
        raise ConfigError(f"cannot be sent to another process: {_first_line(error)}") from error
    gone: tuple[type[Exception], ...] = (BrokenExecutor, RuntimeError, *_lost_connection())
    try:
        return executor.submit(_do, work, content, uuid.uuid4().hex), len(content)
    except gone as error:
        raise PhysPretrainError(
            f"the executor takes no more work ({_first_line(error)}); the same call with a new executor goes on from "
            "what is saved. mdl_physpretrain.executors.Processes replaces workers that die"
        ) from error


def _do(work: Callable[..., Any], content: bytes, ticket: str) -> Any:
    """In the worker. The ticket tells a second attempt from the first: Dask knows tasks by their arguments."""
    return work(*pickle.loads(content))


def _lost_connection() -> tuple[type[Exception], ...]:
    """What Dask raises where its scheduler is gone."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return ()
    closed = getattr(distributed.client, "ClosedClientError", RuntimeError)  # RuntimeError in earlier versions
    return closed, distributed.comm.CommClosedError


def _worker_died(error: BaseException) -> bool:
    distributed = sys.modules.get("distributed")
    foreign = (distributed.KilledWorker,) if distributed is not None else ()
    return isinstance(error, (BrokenExecutor, CancelledError, *foreign, *_lost_connection()))


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
