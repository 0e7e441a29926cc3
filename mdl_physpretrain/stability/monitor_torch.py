"""What the monitor does with every frame, in torch: on a GPU, and as the reference of its machine code."""

from __future__ import annotations

import torch
from torch import Tensor

from mdl_physpretrain.stability.events import Events
from mdl_physpretrain.stability.monitor_kernel import GOES_ON, LOST, STOPS_HERE

__all__ = ["BROKEN_NAN", "BROKEN_RUNAWAY", "OK", "look_with_torch", "update_smallest"]

OK, BROKEN_NAN, BROKEN_RUNAWAY = 0, 1, 2  # what an engine reports about structures it cannot go on with


def look_with_torch(
    events: Events,
    structure: Tensor,
    moving: bool,
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
    """Take in the events of a frame; whether each structure goes on, shape (B,), or ``None`` if all do.

    ``structure`` is that of every atom, shape (N,); ``moving`` is false for the first frame.
    """
    hottest, change, strong, *_, energies = events.numbers.tolist()
    total = torch.zeros(len(broken), dtype=positions.dtype, device=positions.device)
    total.index_add_(0, structure, positions.sum(1))  # any NaN or infinity survives a sum
    strongest = torch.zeros(len(broken), dtype=torch.float64, device=positions.device)
    if len(forces):
        squares = forces.double().square().sum(1)
        strongest.scatter_reduce_(0, structure, squares, "amax")
    if energies:
        fresh = events.first_energy.isnan() & energy.isfinite()
        events.first_energy = torch.where(fresh, energy.double(), events.first_energy)
    nan = ~(total + energy + strongest).isfinite() | temperature.isnan() | (broken == BROKEN_NAN)
    lost = nan | (broken != OK)
    apart = (energy - events.first_energy).abs() > change * events.n_atoms if energies else torch.zeros_like(lost)
    causes = torch.stack(
        [volume_runaway[0], temperature > hottest, apart, strongest > strong, broken == BROKEN_RUNAWAY]
    )
    runaway, cause = causes.any(0), causes.to(torch.int64).argmax(0) + 1
    runaway_paper = volume_runaway[1] | causes[1] | causes[4]
    update_smallest(events, edge_index, edge_structure, edge_squared, lost)
    overlap = _overlaps(events, edge_index, edge_structure, edge_squared, lost, moving)
    overlap_paper = (events.smallest_squared <= events.threshold_squared) & (events.threshold_squared > 0) & moving
    happens = torch.stack([overlap, nan, runaway & ~nan, overlap_paper, runaway_paper & ~nan])
    events.cause = torch.where(happens[2] & (events.steps[2] < 0), cause, events.cause)
    events.steps.masked_fill_(happens & (events.steps < 0), step)
    stop = torch.zeros_like(lost)
    if "overlap" in events.stop_on:
        stop = stop | (overlap_paper if events.paper else overlap)
    if "explosion" in events.stop_on:
        stop = stop | (runaway_paper if events.paper else runaway)
    codes = torch.where(lost, LOST, torch.where(stop, STOPS_HERE, GOES_ON))
    return codes if bool(codes.any()) else None


def _overlaps(
    events: Events, edge_index: Tensor, edge_structure: Tensor, edge_squared: Tensor, lost: Tensor, moving: bool
) -> Tensor:
    """Structures in which two atoms are too close for their elements; the first such pair is kept."""
    if not len(edge_squared):
        return torch.zeros_like(lost)
    share, possible = events.numbers[3:5].tolist()
    ratio = edge_squared / events.radius[edge_index].sum(0).square()
    overlaps = ratio < share**2
    if moving:
        near = edge_squared <= events.threshold_squared[edge_structure]
        overlaps = overlaps | (near & (ratio < possible**2))
    overlaps = overlaps & ~(lost | (events.steps[0] >= 0))[edge_structure]
    ratio = torch.where(overlaps, ratio, torch.inf)
    least = torch.full_like(events.threshold, torch.inf).scatter_reduce_(0, edge_structure, ratio, "amin")
    # of several equally short ones the first
    some = least.isfinite()
    number = torch.where(
        overlaps & (ratio == least[edge_structure]), torch.arange(len(ratio), device=edge_squared.device), len(ratio)
    )
    first = torch.full_like(events.closest[0], len(ratio)).scatter_reduce_(0, edge_structure, number, "amin")
    first = first.clamp_max(len(ratio) - 1)
    events.overlapping = torch.where(some, edge_index[:, first], events.overlapping)
    events.overlap_squared = torch.where(some, edge_squared[first], events.overlap_squared)
    return some


def update_smallest(
    events: Events, edge_index: Tensor, edge_structure: Tensor, edge_squared: Tensor, lost: Tensor | None = None
) -> None:
    """Update the smallest distances and the pairs they are of, without waiting for the device."""
    if not len(edge_squared):
        return
    smallest = events.smallest_squared
    bound = (smallest if lost is None else torch.where(lost, -1.0, smallest))[edge_structure]
    squared = torch.where(edge_squared < bound, edge_squared, torch.inf)
    events.smallest_squared = smallest.scatter_reduce(0, edge_structure, squared, "amin")
    shortest = (squared == events.smallest_squared[edge_structure]) & (squared < torch.inf)
    # of several equally short ones the last
    number = torch.where(shortest, torch.arange(len(squared), device=edge_squared.device), -1)
    last = torch.full_like(events.closest[0], -1).scatter_reduce_(0, edge_structure, number, "amax")
    events.closest = torch.where(last >= 0, edge_index[:, last.clamp_min(0)], events.closest)
