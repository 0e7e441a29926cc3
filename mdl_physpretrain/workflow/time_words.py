"""Estimated times in words."""

from __future__ import annotations

__all__ = ["about"]


def about(seconds: float) -> str:
    """A time as exact as an estimate can be: ``5 s``, ``40 s``, ``12 min``, ``1 h 20 min``, ``15 h``."""
    if seconds < 10:
        return f"{max(1, round(seconds))} s"
    if seconds < 55:
        return f"{round(seconds / 5) * 5} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, rest = divmod(round(minutes / 5) * 5, 60)
    return f"{hours} h {rest} min" if rest and hours < 10 else f"{round(minutes / 60)} h"
