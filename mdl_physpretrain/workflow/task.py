"""A task of a run or a check, and everything that its result depends on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Task", "Work"]

Work = Callable[[Any, Path, bool], list[str]]


@dataclass(frozen=True)
class Task:
    """A piece of work that is done, skipped or resumed as a whole.

    Attributes
    ----------
    name
        Unique, e.g. ``"finetune seed 0 baseline"``.
    stage
        One of :data:`mdl_physpretrain.workflow.plan.STAGES`.
    work
        Called with configuration, folder, and whether to show progress;
        returns the files it wrote, relative to the folder. Picklable.
    section
        The part of the configuration that the result depends on.
    inputs
        Files it reads: relative ones of the folder (which may be absent),
        absolute ones of the user.
    needs
        Names of the tasks that write them.
    scratch
        Files and folders that an interrupted attempt leaves to go on with.
    dear
        Files that are dear to make: kept when they are made again.
    fixed
        Further named hashes.
    growing
        Named hashes of single items (structures), of which more may come
        without making the scratch worthless.
    modules
        Whose code it runs beside what the module of ``work`` imports: of
        potentials and probes, which are looked up by name.
    parallel
        Whether it may run in a worker process beside others.
    own_process
        Whether it needs a process of its own (a training on several devices).
    """

    name: str
    stage: str
    work: Work
    section: Any
    inputs: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    scratch: tuple[str, ...] = ()
    dear: tuple[str, ...] = ()
    fixed: tuple[tuple[str, str], ...] = ()
    growing: tuple[tuple[str, str], ...] = ()
    modules: tuple[str, ...] = ()
    parallel: bool = False
    own_process: bool = False

    @property
    def code(self) -> list[str]:
        """Modules whose code, with all that they import, its result depends on: of the work and of what it is given."""
        argument_modules = [getattr(value, "__module__", None) for value in getattr(self.work, "keywords", {}).values()]
        return [getattr(self.work, "func", self.work).__module__, *filter(None, argument_modules), *self.modules]
