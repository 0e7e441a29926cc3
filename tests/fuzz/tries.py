"""Counting what becomes of odd input: fine, refused in clear words, or bad (a traceback, a hang, a loss)."""

from __future__ import annotations

import collections
import contextlib
import io
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from mdl_physpretrain.errors import PhysPretrainError

LONGEST_LINE = 1500


class Hang(BaseException):
    """It took more time of the processor than anybody waits."""


class Tries:
    """Counts by outcome, and a description of everything bad."""

    def __init__(self) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        self.bad: list[str] = []

    def attempt(self, what: str, function: Callable[[], Any], *, seconds: float = 30.0) -> Any:
        """Call a function; its result, or None when it was refused or is bad."""
        try:
            with _limit(seconds), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                result = function()
        except PhysPretrainError as error:
            lines = str(error).splitlines()
            if not lines or max(map(len, lines)) > LONGEST_LINE:
                self.fail(what, f"unclear: {str(error)[:200]!r}")
            else:
                self.counts["refused"] += 1
        except Hang:
            self.fail(what, f"more than {seconds} s of the processor")
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            where = traceback.extract_tb(error.__traceback__)[-1]
            self.fail(what, f"{type(error).__name__}: {str(error)[:200]} ({where.filename}:{where.lineno})")
        else:
            self.counts["fine"] += 1
            return result
        return None

    def fail(self, what: str, reason: str) -> None:
        """Note something bad."""
        self.counts["bad"] += 1
        self.bad.append(f"{what[:300]}: {reason}")

    @property
    def outcome(self) -> tuple[collections.Counter[str], list[str]]:
        """What ``run`` of every module returns."""
        return self.counts, self.bad


@contextlib.contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Raise after so much time of the processor: waiting for other programs does not count."""

    def end(*_: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
