"""Remaining time of a run while it is done, said now and then, also where no terminal shows bars."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from mdl_physpretrain.workflow.forecast import Forecast
from mdl_physpretrain.workflow.heartbeat import heartbeat
from mdl_physpretrain.workflow.task import Task
from mdl_physpretrain.workflow.time_words import about

__all__ = ["Watch"]

#: Seconds after which the state is said for the first time, and the longest pause between two times.
FIRST, LONGEST = 30.0, 600.0
GROWTH = 1.5  # of the pauses


class Watch:
    """A thread that says how far the tasks at work are and when the run ends, less and less often.

    Parameters
    ----------
    folder
        Of the run.
    say
        Takes a line.
    first
        Seconds until the first line.
    """

    def __init__(self, folder: Path, say: Callable[[str], None], *, first: float = FIRST) -> None:
        self.folder, self.say, self.pause = folder, say, first
        self.forecast: Forecast | None = None
        self._began: dict[str, float] = {}
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def note(self, event: str, task: Task, seconds: float) -> None:
        """A task began or ended."""
        with self._lock:
            if event in ("start", "resume"):
                self._began[task.name] = time.monotonic()
                return
            self._began.pop(task.name, None)
            if self.forecast is not None:
                if event == "done":
                    self.forecast.finished(task, seconds)
                else:
                    self.forecast.seconds.pop(task.name, None)

    def line(self) -> str:
        """What is at work and what remains; empty: nothing is at work."""
        with self._lock:
            now = time.monotonic()
            elapsed = {name: now - began for name, began in self._began.items()}
            total, left = self.forecast.remaining(self.folder, elapsed) if self.forecast is not None else (None, {})
        words = []
        for name, gone in elapsed.items():
            beat = heartbeat(self.folder, name)
            rest = left.get(name, beat.remaining if beat is not None else None)
            state = f"{beat.what}, {beat.done / max(beat.total, 1):.0%}" if beat is not None else f"since {about(gone)}"
            words.append(f"{name}: {state}" + (f", {about(rest)} left" if rest else ""))
        if words and total is not None:
            words.append(f"whole run: about {about(total)} left")
        return "; ".join(words)

    def _watch(self) -> None:
        while not self._ended.wait(self.pause):
            if line := self.line():
                self.say(line)
            self.pause = min(self.pause * GROWTH, LONGEST)
