"""Executors from a text, as on the command line."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager

from mdl_physpretrain.errors import ConfigError, PhysPretrainError
from mdl_physpretrain.executors.processes import Processes, cores

__all__ = ["open_executor"]

KINDS = "serial, processes[:N], threads[:N] or dask://host:port"
CONNECT_SECONDS, MAX_WORKERS = 30, 4096


@contextmanager
def open_executor(text: str) -> Iterator[Executor | None]:
    """What a text names, closed at the end (at once, dropping work, after an error).

    Parameters
    ----------
    text
        ``serial`` (nothing is opened), ``processes`` or ``processes:4``
        (:class:`~mdl_physpretrain.executors.Processes`), ``threads`` or
        ``threads:4``, or the address of a Dask scheduler, ``dask://host:port``.

    Yields
    ------
    Executor or None

    Raises
    ------
    ConfigError
        If the text means nothing, or Dask is not installed.
    PhysPretrainError
        If there is no scheduler at that address.
    """
    kind, colon, rest = text.partition(":")
    if text == "serial":
        yield None
    elif kind == "dask" and rest.startswith("//") and rest[2:]:
        with _dask(rest[2:]) as executor:
            yield executor
    elif kind in ("processes", "threads") and (rest.isdecimal() if colon else True):
        workers = int(rest) if colon else cores()
        if not 1 <= workers <= MAX_WORKERS:
            raise ConfigError(f"executor {text[:60]}: between 1 and {MAX_WORKERS} workers are possible")
        with Processes(workers) if kind == "processes" else ThreadPoolExecutor(workers) as executor:
            yield executor
    else:
        raise ConfigError(f"executor must be {KINDS}, not {text!r}")


@contextmanager
def _dask(address: str) -> Iterator[Executor]:
    try:
        from distributed import Client
    except ImportError as error:
        raise ConfigError("executor dask:// needs Dask: pip install 'mdl-physpretrain[cluster]'") from error
    try:
        client = Client(f"tcp://{address}", timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise PhysPretrainError(f"no Dask scheduler at {address}: {error}") from error
    with client:
        if not client.ncores():
            warnings.warn(f"the Dask scheduler at {address} has no workers yet: waiting for them", stacklevel=4)
        executor = client.get_executor(pure=False)
        try:
            yield executor
        except BaseException:
            with contextlib.suppress(Exception):  # the scheduler may be what failed
                executor.shutdown(wait=False)
            raise
        executor.shutdown()
