"""First verdict of a run: the report of its first seed, while the others are at work."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mdl_physpretrain.report import write_report
from mdl_physpretrain.workflow.cost import first_seed

if TYPE_CHECKING:
    from mdl_physpretrain.workflow.config import RunConfig
    from mdl_physpretrain.workflow.task import Task

__all__ = ["is_first_verdict", "write_first_verdict"]

#: Tables of all seeds, which a finished run has.
TABLES = ("physicality.csv", "efs.csv")


def is_first_verdict(tasks: Sequence[Task], config: RunConfig, ended: Collection[str], task: Task) -> bool:
    """Whether this task was the last of the first of several seeds."""
    names = first_seed(tasks, config)
    return len(config.seeds) > 1 and task.name in names and set(names) <= set(ended)


def write_first_verdict(folder: Path) -> bool:
    """Write the report of what there is, unless there is that of a finished run; whether it was written."""
    if any((folder / name).is_file() for name in TABLES):
        return False
    write_report(folder)
    return True
