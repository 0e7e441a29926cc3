"""What the monitor does with every frame, in torch: on a GPU, and as the reference of its machine code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mdl_physpretrain.stability.monitor_kernel import GOES_ON, LOST, STOPS_HERE

if TYPE_CHECKING:
    from mdl_physpretrain.stability.monitor import Monitor

__all__ = ["BROKEN_NAN", "BROKEN_RUNAWAY", "OK", "look_with_torch", "update_smallest"]

OK, BROKEN_NAN, BROKEN_RUNAWAY = 0, 1, 2  # what an engine reports about structures it cannot go on with


def look_with_torch(
    monitor: Monitor,
    step: int,
    positions: Tensor,
    temperature: Tensor,
    energy: Tensor,
    broken: Tensor,
    volume_runaway: Tensor,
    forces: Tensor,
    edge_index: Tensor,
    edge_structure: Tensor,
    edge_squared: Tensor,
) -> Tensor | None:
    """Events of a frame; whether each structure goes on, shape (B,), or ``None`` if all do."""
    hottest, change, strong, *_, energies = monitor.numbers.tolist()
    total = torch.zeros(len(monitor.original), dtype=positions.dtype, device=monitor.device)
    total.index_add_(0, monitor.lindemann.structure, positions.sum(1))  # any NaN or infinity survives a sum
    strongest = torch.zeros(len(monitor.original), dtype=torch.float64, device=monitor.device)
    if len(forces):
        squares = forces.double().square().sum(1)
        strongest.scatter_reduce_(0, monitor.lindemann.structure, squares, "amax")
    if energies:
        fresh = monitor.first_energy.isnan() & energy.isfinite()
        monitor.first_energy = torch.where(fresh, energy.double(), monitor.first_energy)
    nan = ~(total + energy + strongest).isfinite() | temperature.isnan() | (broken == BROKEN_NAN)
    lost = nan | (broken != OK)
    apart = (energy - monitor.first_energy).abs() > change * monitor.n_atoms if energies else torch.zeros_like(lost)
    causes = torch.stack(
        [volume_runaway[0], temperature > hottest, apart, strongest > strong, broken == BROKEN_RUNAWAY]
    )
    runaway, cause = causes.any(0), causes.to(torch.int64).argmax(0) + 1
    runaway_paper = volume_runaway[1] | causes[1] | causes[4]
    update_smallest(monitor, edge_index, edge_structure, edge_squared, lost)
    moving = monitor.lindemann.frames > 0
    overlap = _overlaps(monitor, edge_index, edge_structure, edge_squared, lost, moving)
    overlap_paper = (monitor.smallest_squared <= monitor.threshold_squared) & (monitor.threshold_squared > 0) & moving
    events = torch.stack([overlap, nan, runaway & ~nan, overlap_paper, runaway_paper & ~nan])
    monitor.cause = torch.where(events[2] & (monitor.steps[2] < 0), cause, monitor.cause)
    monitor.steps.masked_fill_(events & (monitor.steps < 0), step)
    stop = torch.zeros_like(lost)
    if "overlap" in monitor.stop_on:
        stop = stop | (overlap_paper if monitor.limits.paper else overlap)
    if "explosion" in monitor.stop_on:
        stop = stop | (runaway_paper if monitor.limits.paper else runaway)
    codes = torch.where(lost, LOST, torch.where(stop, STOPS_HERE, GOES_ON))
    return codes if bool(codes.any()) else None


def _overlaps(
    monitor: Monitor, edge_index: Tensor, edge_structure: Tensor, edge_squared: Tensor, lost: Tensor, moving: bool
) -> Tensor:
    """Structures in which two atoms are too close for their elements; the first such pair is kept."""
    if not len(edge_squared):
        return torch.zeros_like(lost)
    share, possible = monitor.numbers[3:5].tolist()
    ratio = edge_squared / monitor.radius[edge_index].sum(0).square()
    overlaps = ratio < share**2
    if moving:
        near = edge_squared <= monitor.threshold_squared[edge_structure]
        overlaps = overlaps | (near & (ratio < possible**2))
    overlaps = overlaps & ~(lost | (monitor.steps[0] >= 0))[edge_structure]
    ratio = torch.where(overlaps, ratio, torch.inf)
    least = torch.full_like(monitor.threshold, torch.inf).scatter_reduce_(0, edge_structure, ratio, "amin")
    # of several equally short ones the first
    some = least.isfinite()
    number = torch.where(
        overlaps & (ratio == least[edge_structure]), torch.arange(len(ratio), device=monitor.device), len(ratio)
    )
    first = torch.full_like(monitor.closest[0], len(ratio)).scatter_reduce_(0, edge_structure, number, "amin")
    first = first.clamp_max(len(ratio) - 1)
    monitor.overlapping = torch.where(some, edge_index[:, first], monitor.overlapping)
    monitor.overlap_squared = torch.where(some, edge_squared[first], monitor.overlap_squared)
    return some


def update_smallest(
    monitor: Monitor, edge_index: Tensor, edge_structure: Tensor, edge_squared: Tensor, lost: Tensor | None = None
) -> None:
    """Update the smallest distances and the pairs they are of, without waiting for the device."""
    if not len(edge_squared):
        return
    smallest = monitor.smallest_squared
    bound = (smallest if lost is None else torch.where(lost, -1.0, smallest))[edge_structure]
    squared = torch.where(edge_squared < bound, edge_squared, torch.inf)
    monitor.smallest_squared = smallest.scatter_reduce(0, edge_structure, squared, "amin")
    shortest = (squared == monitor.smallest_squared[edge_structure]) & (squared < torch.inf)
    # of several equally short ones the last
    number = torch.where(shortest, torch.arange(len(squared), device=monitor.device), -1)
    last = torch.full_like(monitor.closest[0], -1).scatter_reduce_(0, edge_structure, number, "amax")
    monitor.closest = torch.where(last >= 0, edge_index[:, last.clamp_min(0)], monitor.closest)
