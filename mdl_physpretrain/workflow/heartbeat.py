"""How far each task at work is: a small file per task that whoever works on it keeps up to date."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from mdl_physpretrain.files import write_atomic
from mdl_physpretrain.progress import announced_to

__all__ = ["Heartbeat", "beating", "heartbeat"]

EVERY = 2.0  # seconds between two writings


@dataclass(frozen=True)
class Heartbeat:
    """State of the innermost loop of a task: what it does, steps now, at its start and in all, and both times."""

    what: str
    done: int
    first: int
    total: int
    began: float
    now: float

    @property
    def remaining(self) -> float | None:
        """Seconds until the loop ends, at its rate so far; ``None`` before there is one."""
        if self.done <= self.first or self.now <= self.began:
            return None
        return (self.total - self.done) * (self.now - self.began) / (self.done - self.first)


@contextmanager
def beating(folder: Path, task: str) -> Iterator[None]:
    """Write what is announced inside to ``.stages/<task>.progress``, which goes when the work ends."""
    file = _file(folder, task)
    with suppress(OSError):
        file.unlink(missing_ok=True)  # of an attempt that was killed
    state: Heartbeat | None = None
    written = 0.0

    def hear(what: str, done: int, total: int | None) -> None:
        nonlocal state, written
        if total is None:
            return
        now = time.time()
        same = state is not None and state.total == total and done >= state.done
        first, began = (state.first, state.began) if same and state is not None else (done, now)
        state = Heartbeat(what, done, first, total, began, now)
        if now - written >= EVERY:
            written = now
            with suppress(OSError):  # a full disk is for the work to tell
                write_atomic(file, json.dumps(asdict(state)))

    try:
        with announced_to(hear):
            yield
    finally:
        with suppress(OSError):
            file.unlink(missing_ok=True)


def heartbeat(folder: Path, task: str) -> Heartbeat | None:
    """The last state of a task's innermost loop; ``None``: there is none."""
    try:
        return Heartbeat(**json.loads(_file(folder, task).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _file(folder: Path, task: str) -> Path:
    return folder / ".stages" / f"{task.replace('/', '-').replace(' ', '-')}.progress"
