"""Task of the HTML report of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mdl_physpretrain.report import write_report

__all__ = ["report"]


def report(config: Any, folder: Path, show: bool) -> list[str]:
    """Write the page."""
    return [str(write_report(folder).relative_to(folder))]
