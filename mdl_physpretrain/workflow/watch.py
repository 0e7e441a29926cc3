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
#: What remains is said after each task, where it is more than this many seconds.
WORTH_SAYING = 60.0
GROWTH = 1.5  # of the pauses


class Watch:
    """A thread that says how far the tasks at work are and when the run ends, less and less often.

    Parameters
    ----------
    folder
        Of the run.
    say
        Takes a line.
    bars
        Whether progress bars show what is at work: then it is said what remains after each task, and no more.
    """

    def __init__(self, folder: Path, say: Callable[[str], None], *, bars: bool = False) -> None:
        self.folder, self.say, self.bars, self.pause = folder, say, bars, FIRST
        self.forecast: Forecast | None = None
        self._began: dict[str, float] = {}
        self._resumed: set[str] = set()
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
                if event == "resume":
                    self._resumed.add(task.name)
                return
            self._began.pop(task.name, None)
            if self.forecast is not None:
                if event == "done":
                    self.forecast.finished(task, seconds, resumed=task.name in self._resumed)
                else:
                    self.forecast.seconds.pop(task.name, None)
        if event == "done" and self.forecast is not None:
            rest, _ = self._remaining()
            if rest is not None and rest > WORTH_SAYING:
                self.say(f"whole run: about {about(rest)} left")

    def line(self) -> str:
        """What is at work and what remains; empty: nothing is at work."""
        total, left = self._remaining()
        now = time.monotonic()
        with self._lock:
            elapsed = {name: now - began for name, began in self._began.items()}
        words = []
        for name, gone in elapsed.items():
            beat = heartbeat(self.folder, name)
            rest = left.get(name, beat.remaining if beat is not None else None)
            state = f"{beat.what}, {beat.done / max(beat.total, 1):.0%}" if beat is not None else f"since {about(gone)}"
            words.append(f"{name}: {state}" + (f", {about(rest)} left" if rest else ""))
        if words and total is not None:
            words.append(f"whole run: about {about(total)} left")
        return "; ".join(words)

    def _remaining(self) -> tuple[float | None, dict[str, float]]:
        with self._lock:
            if self.forecast is None:
                return None, {}
            now = time.monotonic()
            elapsed = {name: now - t for name, t in self._began.items()}
            return self.forecast.remaining(self.folder, elapsed, self._resumed)

    def _watch(self) -> None:
        while not self._ended.wait(self.pause):
            if not self.bars and (line := self.line()):
                self.say(line)
            self.pause = min(self.pause * GROWTH, LONGEST)
