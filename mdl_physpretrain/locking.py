"""Lock of a folder that is written to: one process at a time."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from mdl_physpretrain.errors import PhysPretrainError
from mdl_physpretrain.files import make_writable

__all__ = ["is_first_rank", "locked", "prepare_folder"]

_held: dict[Path, int] = {}  # by this process: in which thread


def is_first_rank() -> bool:
    """Whether this process writes files (of all ranks of a training only the first one does)."""
    return os.environ.get("LOCAL_RANK", "0") == "0" and os.environ.get("NODE_RANK", "0") == "0"


def prepare_folder(folder: Path) -> None:
    """Create the run folder; raises PhysPretrainError if it cannot be written to."""
    try:
        make_writable(folder)
    except OSError as error:
        raise PhysPretrainError(f"cannot write to the run folder {folder}: {error.strerror or error}") from error


@contextmanager
def locked(folder: Path | None) -> Iterator[None]:
    """Hold the folder's lock, or raise PhysPretrainError saying who holds it; ``None``: no folder, no lock.

    The operating system holds the lock (``flock``) and releases it when the process ends in whatever way, so a lock
    that is left behind cannot exist; the file only says who holds it. Where there is no such lock (Windows, some
    network file systems) the run goes on without. Within a lock the same thread may take it again; of a training on
    several devices the first process has it.
    """
    try:
        import fcntl
    except ImportError:
        folder = None
    if folder is None:
        yield
        return
    path = folder / ".lock"
    if _held.get(path.resolve()) == threading.get_ident() or not is_first_rank():
        yield
        return
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise PhysPretrainError(f"another run is at work in {folder} ({_holder(file.read())})") from None
        except OSError:
            yield
            return
        file.seek(0)
        file.truncate()
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": now}, file)
        file.flush()
        _held[path.resolve()] = threading.get_ident()
        try:
            yield
        finally:
            del _held[path.resolve()]


def _holder(text: str) -> str:
    try:
        holder = json.loads(text)
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return "its lock file does not say which"
