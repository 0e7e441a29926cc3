"""One progress bar for everything that takes long."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")

__all__ = ["track"]


def track(iterable: Iterable[T], description: str, *, total: int | None = None, enabled: bool = True) -> Generator[T]:
    """Iterate with a progress bar on stderr (rate and time left)."""
    if not enabled:
        yield from iterable
        return

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield from bar.track(iterable, description=description, total=total)
