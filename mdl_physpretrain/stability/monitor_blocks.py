"""Looks at several frames at once, on a GPU: what nothing ended in is counted, and the host is asked once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mdl_physpretrain.stability.monitor_torch import update_smallest

if TYPE_CHECKING:
    from mdl_physpretrain.stability.monitor import Monitor

__all__ = ["BlockLook", "Frames"]


@dataclass
class Frames:
    """``F`` consecutive frames of the same structures, which share a list of near pairs.

    Attributes
    ----------
    steps
        Their MD steps.
    positions, forces
        Shapes (F, N, 3), Å and eV/Å.
    cells
        Of each frame, shape (B, 3, 3), Å; the same object while they do not change.
    temperature, energy
        Shapes (F, B), K and eV.
    edge_index, edge_structure, squared
        Pairs (2, P), their structures (P,) and squared distances (F, P), Å².
    """

    steps: list[int]
    positions: Tensor
    forces: Tensor
    cells: list[Tensor]
    temperature: Tensor
    energy: Tensor
    edge_index: Tensor
    edge_structure: Tensor
    squared: Tensor


class BlockLook:
    """What :meth:`Monitor.observe` does with each frame, for all of them, if nothing happens in any.

    The monitor changes at once. ``flags`` is what the host has to read: first whether something happens in a frame,
    which :meth:`undo` and a look at each frame then find out; then, of each structure, whether :meth:`settle` has to
    look at its sublattices.
    """

    def __init__(self, monitor: Monitor, frames: Frames) -> None:
        self.monitor, self.last_step = monitor, frames.steps[-1]
        self._parts = monitor, monitor.events, monitor.lindemann
        self._before = [dict(vars(part)) for part in self._parts]
        eventful = is_eventful(monitor, frames)
        update_smallest(monitor.events, frames.edge_index, frames.edge_structure, frames.squared.amin(0))
        monitor.lindemann.add_frames(frames.positions, frames.cells)
        monitor.last_positions = frames.positions[-1]
        suspects = torch.zeros_like(monitor.events.first_energy, dtype=torch.bool)
        if monitor.frames_to_check() == 0:
            suspects = monitor.date_violations(self.last_step, None)
        self.flags = torch.cat([eventful.view(1), suspects])

    def undo(self) -> None:
        """Make the monitor what it was."""
        for part, values in zip(self._parts, self._before, strict=True):
            vars(part).update(values)

    def settle(self, suspects: list[bool]) -> None:
        """End the look: ``suspects`` is :attr:`flags` but for the first."""
        self.monitor.date_lost_frameworks(self.last_step, [k for k, suspect in enumerate(suspects) if suspect])


def is_eventful(monitor: Monitor, frames: Frames) -> Tensor:
    """Whether any frame has an event that has not been dated yet, or one that ends a trajectory, shape ()."""
    events = monitor.events
    hottest, change, strong, share, possible, _ = events.numbers.tolist()
    structure, shape = monitor.lindemann.structure, frames.energy.shape
    places = torch.zeros(shape, dtype=torch.float64, device=monitor.device)
    places.index_add_(1, structure, frames.positions.sum(2))
    strongest = torch.zeros_like(places)
    strongest.scatter_reduce_(1, structure.expand(shape[0], -1), frames.forces.square().sum(2), "amax")
    fine = (places + frames.energy + strongest + frames.temperature).isfinite()
    new = events.steps < 0
    hot = frames.temperature > hottest
    apart = (frames.energy - events.first_energy).abs() > change * events.n_atoms
    explosion, of_paper = hot | apart | (strongest > strong), hot
    if frames.cells[0] is frames.cells[-1]:
        ran_away, of_start = monitor.volumes_ran_away(frames.cells[0])
    else:
        ran_away, of_start = monitor.ran_away(torch.stack(frames.cells))
    explosion, of_paper = explosion | ran_away, of_paper | of_start
    happens = [(~fine).any(), (explosion & new[2]).any(), (of_paper & new[4]).any()]
    if len(frames.edge_structure):
        ratio = frames.squared / events.radius[frames.edge_index].sum(0).square()
        close = frames.squared <= events.threshold_squared[frames.edge_structure]
        overlap, of_start = new[0][frames.edge_structure], new[3][frames.edge_structure]
        touching = (ratio < share**2) | (close & (ratio < possible**2))
        happens.append(((touching & overlap) | (close & of_start)).any())
    return torch.stack(happens).any()
