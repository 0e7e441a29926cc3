"""How far work is: one progress bar for everything that takes long, and listeners where there is no terminal."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sized
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")
#: Called with what is done, how many of its steps, and of how many (``None``: unknown).
Listener = Callable[[str, int, int | None], None]

__all__ = ["Listener", "announce", "announced_to", "track"]

_LISTENERS: list[Listener] = []


@contextmanager
def announced_to(listener: Listener) -> Generator[None]:
    """Tell a listener how far everything is that is done inside, in this process."""
    _LISTENERS.append(listener)
    try:
        yield
    finally:
        _LISTENERS.remove(listener)


def announce(description: str, done: int, total: int | None) -> None:
    """Tell the listeners, if any, that ``done`` of ``total`` steps are done."""
    for listener in _LISTENERS:
        listener(description, done, total)


def track(iterable: Iterable[T], description: str, *, total: int | None = None, enabled: bool = True) -> Generator[T]:
    """Iterate with a progress bar on stderr (rate and time left), or without one; listeners are told in any case."""
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    if not enabled:
        yield from _announced(iterable, description, total)
        return

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield from bar.track(_announced(iterable, description, total), description=description, total=total)


def _announced(iterable: Iterable[T], description: str, total: int | None) -> Generator[T]:
    announce(description, 0, total)
    for done, item in enumerate(iterable, start=1):
        yield item
        announce(description, done, total)
