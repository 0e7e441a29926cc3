"""Checkpoint paths with patterns, for results folders whose names hold the time of the start."""

from __future__ import annotations

from glob import glob, has_magic
from pathlib import Path

from mdl_physpretrain.errors import CheckpointError

__all__ = ["newest"]


def newest(pattern: str | Path) -> Path:
    """A file, or of all that match a pattern the one of the latest job; raises CheckpointError if nothing matches."""
    text = str(pattern)
    files = sorted(glob(text)) if has_magic(text) else [text]  # noqa: PTH207 - patterns may be absolute
    if not files or not Path(files[-1]).is_file():
        raise CheckpointError(f"checkpoint {text} does not exist (looked in {Path.cwd()})")
    return Path(files[-1])
