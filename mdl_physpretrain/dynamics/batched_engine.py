"""The batched engine: many structures in one tensor batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from ase import Atoms
from torch import Tensor

from mdl_physpretrain.dynamics.frame_blocks import FrameBlock
from mdl_physpretrain.dynamics.running_batch import RunningBatch
from mdl_physpretrain.progress import track

__all__ = ["BatchedRun", "split_batches"]


def split_batches(structures: Sequence[Atoms], max_atoms: int) -> list[list[int]]:
    """Group structures, in order, into batches of at most ``max_atoms`` atoms (at least one structure)."""
    batches: list[list[int]] = []
    size = max_atoms
    for k, atoms in enumerate(structures):
        if size + len(atoms) > max_atoms:
            batches.append([])
            size = 0
        batches[-1].append(k)
        size += len(atoms)
    return batches


class BatchedRun(RunningBatch):
    """A running batch whose steps are looked at one by one, on a GPU several at a time; parameters as of that class."""

    block: FrameBlock | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.state.positions.device.type != "cpu" and len(self.state):
            self.block = FrameBlock(self)

    @classmethod
    def simulate(cls, *args: Any, title: str = "MD", progress: bool = False, **options: Any) -> None:
        """Simulate one batch to the end; parameters as of the class, and those of a progress bar."""
        with torch.no_grad():
            run = cls(*args, **options)
            for step in track(range(run.settings.steps), title, enabled=progress):
                if not len(run.state):
                    break
                while run.done <= step and len(run.state):  # a GPU may go back some steps
                    run.step()
            run.finish()

    def step(self) -> None:
        """One MD step of all structures that still run, and a look at them, on a GPU some steps later."""
        if self.block is None:
            self.careful_step()
            return
        self.advance()
        self.block.add()

    def keep(self, stay: Tensor, atoms: Tensor) -> None:
        if self.block is not None:
            self.block.keep(stay, atoms)
        super().keep(stay, atoms)
