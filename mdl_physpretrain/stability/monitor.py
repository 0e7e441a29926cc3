"""The monitor of running trajectories: overlap, Lindemann indices, NaN, explosions.

One monitor serves the batched engine, the ASE engine and existing trajectory
files; its memory does not grow with the length of the trajectory.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from torch import Tensor

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.stability.contacts import radii_of
from mdl_physpretrain.stability.events import Events
from mdl_physpretrain.stability.limits import PAPER_VOLUME_CHANGE, POSSIBLE_OVERLAP, Limits
from mdl_physpretrain.stability.lindemann import LindemannAccumulator
from mdl_physpretrain.stability.monitor_kernel import CAUSES, EVENTS, GOES_ON, LOST, STOPS_HERE, look
from mdl_physpretrain.stability.monitor_torch import BROKEN_NAN, BROKEN_RUNAWAY, OK, look_with_torch
from mdl_physpretrain.stability.overlap import ClosestPair, closest_pair, pairs_within
from mdl_physpretrain.stability.sublattices import Sublattices, framework
from mdl_physpretrain.stability.verdict import Verdict
from mdl_physpretrain.structures.labels import structure_id

__all__ = ["BROKEN_NAN", "BROKEN_RUNAWAY", "OK", "STOPS", "Monitor"]

STOPS = ("overlap", "nan", "explosion")
COINCIDENT = 1e-3  # Å


class Monitor:
    """Overlap, Lindemann, NaN and explosion of ``B`` running trajectories.

    Parameters
    ----------
    structures
        First frames.
    limits
        Thresholds.
    temperature
        Target temperature in K, for the explosion limit.
    stop_on
        Events that end a trajectory, of ``"overlap"``, ``"nan"``,
        ``"explosion"``. A NaN always does: nothing comes after it.
    device
        Where the tensors given to :meth:`observe` live.
    coincident
        Whether two atoms at one place in a first frame are an error, or an overlap.

    Attributes
    ----------
    first_distance
        Smallest distance of each first frame in Å, shape (B,), infinite for an
        isolated atom.
    watched_distance
        Shape (B,), Å: to see every overlap, an engine reports all pairs up to this distance.
    verdicts
        Of all structures, in the order given; ``None`` while running.

    Raises
    ------
    StructureError
        If a first frame has a non-finite position, an impossible cell or two
        atoms at one place.
    """

    def __init__(
        self,
        structures: Sequence[Atoms],
        *,
        limits: Limits | None = None,
        temperature: float | None = None,
        stop_on: Sequence[str] = STOPS,
        device: torch.device | str = "cpu",
        coincident: Literal["error", "overlap"] = "error",
    ) -> None:
        self.limits = limits or Limits()
        self.device = torch.device(device)
        self.symbols = [atoms.get_chemical_symbols() for atoms in structures]
        closest = [self._first_pair(atoms, coincident == "error") for atoms in structures]
        self.first_distance = np.array([pair.distance for pair in closest])
        radii = [radii_of(atoms.numbers) for atoms in structures]
        watched = [2 * self.limits.pair_fraction * r.max() for r in radii]
        self.watched_distance = np.maximum(self.first_distance, watched)
        self.verdicts: list[Verdict | None] = [None] * len(structures)
        self.original = np.arange(len(structures))  # index into verdicts of the structures still running
        self.counts = np.array([len(a) for a in structures])
        nothing = torch.full((len(EVENTS) + 2, len(structures)), -1, dtype=torch.int64, device=self.device)
        self.lindemann_steps = nothing[-2:]  # -1 for none; of the paper last
        smallest = torch.as_tensor(self.first_distance, device=self.device)
        threshold = self.limits.overlap_fraction * torch.where(smallest.isfinite(), smallest, 0.0)
        starts = np.cumsum(self.counts) - self.counts
        pairs = np.array([[pair.first for pair in closest], [pair.second for pair in closest]])
        closest_atoms = torch.as_tensor(pairs + starts, device=self.device)
        n_atoms = torch.as_tensor(self.counts, device=self.device)
        temperature_limit = self.limits.explosion_temperature(temperature)
        fractions = (self.limits.pair_fraction, POSSIBLE_OVERLAP)
        self.events = Events(
            radius=torch.as_tensor(np.concatenate(radii), device=self.device),
            n_atoms=n_atoms,
            threshold=threshold,
            threshold_squared=threshold.square(),
            smallest_squared=smallest.square(),
            closest=closest_atoms,
            overlap_squared=torch.full_like(threshold, torch.nan),
            overlapping=torch.full_like(closest_atoms, -1),
            first_energy=torch.full_like(threshold, torch.nan),
            cause=torch.zeros_like(n_atoms),
            steps=nothing[:-2].contiguous(),
            numbers=np.array([temperature_limit, self.limits.energy, self.limits.force**2, *fractions, 0.0]),
            stop_on=frozenset(stop_on),
            paper=self.limits.paper,
        )
        self.pbc = torch.as_tensor(np.stack([a.pbc for a in structures]), device=self.device)
        cells = torch.as_tensor(np.stack([a.cell.array for a in structures]), device=self.device)
        self.first_volume, self.first_extent = torch.linalg.det(cells).abs(), self._extents(cells)
        self.cells, self._volume_runaway = cells, torch.zeros((2, len(structures)), dtype=torch.bool)
        self._volume_runaway = self._volume_runaway.to(self.device)
        self._none = torch.zeros_like(self.first_volume)  # of temperature and energy that are not known
        self._no_forces = torch.zeros((0, 3), dtype=torch.float64, device=self.device)
        self._fine = torch.full_like(self._none, OK, dtype=torch.int64)
        self._arrays: list[np.ndarray] = []  # of the compiled look
        self.lindemann = LindemannAccumulator(structures, self.device)
        self.compared = self.lindemann.compared()
        self.deviations = torch.zeros_like(self.compared)  # of the frame in which they were largest
        self.largest_deviation = torch.full_like(threshold, -1.0)
        self.last_positions: Tensor | None = None  # of the last frame counted

    @staticmethod
    def _first_pair(atoms: Atoms, strict: bool) -> ClosestPair:
        if not np.isfinite(atoms.positions).all():
            raise StructureError("NaN or infinite value", structure=structure_id(atoms), field="positions")
        try:
            pair = closest_pair(atoms.positions, atoms.cell.array, atoms.pbc)
        except StructureError as error:
            raise StructureError(str(error), structure=structure_id(atoms)) from error
        if strict and pair.distance < COINCIDENT:
            raise StructureError(
                f"atoms {pair.first} and {pair.second} are at the same place",
                structure=structure_id(atoms),
                field="positions",
            )
        return pair

    def observe(
        self,
        step: int,
        positions: Tensor,
        cells: Tensor,
        *,
        edge_index: Tensor,
        edge_structure: Tensor,
        edge_squared: Tensor,
        temperature: Tensor | None = None,
        energy: Tensor | None = None,
        forces: Tensor | None = None,
        broken: Tensor | None = None,
    ) -> Tensor | None:
        """Look at one frame of every structure that still runs.

        Parameters
        ----------
        step
            Number of the MD step; the first call sees the first frame.
        positions, cells
            Unwrapped, shapes (N, 3) and (B, 3, 3), float64, Å.
        edge_index, edge_structure, edge_squared
            All pairs up to :attr:`watched_distance` (more do not matter): atoms
            (2, E), structure (E,), squared distance (E,) in Å². Pass the same
            ``cells`` object while they do not change.
        temperature, energy
            Instantaneous temperature (K) and potential energy (eV), shape (B,).
        forces
            Shape (N, 3), eV/Å.
        broken
            Shape (B,): not ``OK`` for structures whose frame cannot be
            evaluated (their positions are ignored).

        Returns
        -------
        Tensor or None
            Mask of shape (B,) of structures whose trajectory ends here, their
            verdicts are final and :meth:`keep` must drop them; ``None`` when all
            go on.
        """
        self.events.numbers[5] = energy is not None
        looked = self._look_compiled if self.lindemann.compiled else partial(look_with_torch, self.events)
        codes = looked(
            self.lindemann.structure,
            self.lindemann.frames > 0,
            step,
            positions,
            self._none if temperature is None else temperature,
            self._none if energy is None else energy,
            self._fine if broken is None else broken,
            self.volumes_ran_away(cells),
            self._no_forces if forces is None else forces,
            edge_index,
            edge_structure,
            edge_squared,
        )
        if codes is not None:  # a frame that is lost does not count
            self._settle(codes == LOST)
        self.lindemann.add(positions, cells)
        self.last_positions = positions
        if self.frames_to_check() == 0:
            suspects = self.date_violations(step, None if codes is None else codes == LOST)
            self.date_lost_frameworks(step, torch.nonzero(suspects).squeeze(1).tolist())
        if codes is None:
            return None
        self._deviate(codes == LOST)  # of those that go on, too: the positions of this frame are dropped
        self._settle(codes == STOPS_HERE)
        return codes != GOES_ON

    def short_pairs(self, atoms: Atoms) -> tuple[Tensor, Tensor, Tensor, int]:
        """Pairs that a monitor of one structure has to know of a frame: edge index, structure, squared distance.

        Last whether the frame can be looked at: atoms beyond all bounds and a
        cell that collapsed have no neighbour list (``BROKEN_RUNAWAY``).
        """
        closest = float(self.events.smallest_squared[0].sqrt())
        watched = 2 * self.limits.pair_fraction * float(self.events.radius.max())
        distance = max(closest, watched) if np.isfinite(closest) else 0.0  # of an isolated atom
        finite, code = np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all(), OK
        try:
            pairs, squared = pairs_within(atoms, distance if finite else 0.0)
        except StructureError:
            code, (pairs, squared) = BROKEN_RUNAWAY, pairs_within(atoms, 0.0)
        return torch.as_tensor(pairs), torch.zeros(len(squared), dtype=torch.int64), torch.as_tensor(squared), code

    def keep(self, structures: Tensor) -> None:
        """Drop structures; mask of shape (B,) of those that stay."""
        self.lindemann.keep(structures)
        host = structures.cpu().numpy()
        before = np.cumsum(self.counts) - self.counts
        self._counts_before = self.counts
        self.original, self.counts = self.original[host], self.counts[host]
        atoms = structures.repeat_interleave(torch.as_tensor(self._counts_before, device=self.device))
        for name in ("pbc", "first_volume", "first_extent", "largest_deviation", "_none", "_fine"):
            setattr(self, name, getattr(self, name)[structures])
        self.compared, self.deviations = self.compared[atoms], self.deviations[atoms]
        starts = np.cumsum(self.counts) - self.counts
        moved = torch.as_tensor(starts - before[host], device=self.device)
        self.events.keep(structures, atoms, moved)
        self.lindemann_steps = self.lindemann_steps[:, structures]
        self.cells, self._arrays, self.last_positions = torch.zeros(0), [], None

    def finish(self) -> list[Verdict | None]:
        """End the trajectories that still run and return all verdicts."""
        if len(self.original):
            self._deviate()
            self._settle(torch.ones(len(self.original), dtype=torch.bool, device=self.device))
        return self.verdicts

    def _extents(self, cells: Tensor) -> Tensor:
        """Volume, area or length of what is periodic; 1 where nothing is."""
        periodic = self.pbc.unsqueeze(2) & self.pbc.unsqueeze(1)
        gram = torch.matmul(cells, cells.mT)
        return torch.linalg.det(torch.where(periodic, gram, torch.eye(3, dtype=cells.dtype, device=self.device))).sqrt()

    def volumes_ran_away(self, cells: Tensor) -> Tensor:
        """Of the verdict and of the paper's, shape (2, B); computed when the cells (B, 3, 3) are other ones."""
        if cells is not self.cells:
            self.cells, self._volume_runaway = cells, self.ran_away(cells)
        return self._volume_runaway

    def ran_away(self, cells: Tensor) -> Tensor:
        """As :meth:`volumes_ran_away`, of any number of frames: (..., B, 3, 3) to (2, ..., B)."""
        change = torch.linalg.det(cells).abs() / self.first_volume.clamp_min(1e-9)
        limit = self.limits.volume_change or PAPER_VOLUME_CHANGE
        paper = (self.first_volume > 1e-9) & ((change > limit) | (change < 1 / limit))
        change = (self._extents(cells) / self.first_extent.clamp_min(1e-9)).log().abs()
        allowed = np.log(self.limits.volume_factor) * self.pbc.sum(1) / 3
        return torch.stack([self.pbc.any(1) & ~(change <= allowed), paper])

    def _look_compiled(self, structure: Tensor, moving: bool, step: int, *frame: Tensor) -> Tensor | None:
        """What :func:`look_with_torch` does, in one pass of machine code."""
        events = self.events
        if not self._arrays:
            state: tuple[Tensor, ...] = (
                events.radius,
                events.n_atoms,
                events.threshold_squared,
                events.first_energy,
                events.smallest_squared,
                events.closest,
                events.overlapping,
            )
            state += (events.overlap_squared, events.cause, events.steps, self._fine.clone())
            self._arrays = [x.numpy() for x in state]
        positions, *rest = (x.numpy() for x in frame)
        ends = ("overlap" in events.stop_on, "explosion" in events.stop_on, events.paper)
        worst = look(step, moving, positions, structure.numpy(), *rest, events.numbers, *ends, *self._arrays)
        return None if worst == GOES_ON else torch.tensor(self._arrays[-1])

    def frames_to_check(self) -> int:
        """Frames until the running Lindemann indices are looked at: 0 if that is now."""
        beyond = self.lindemann.frames - self.limits.min_frames
        return -beyond if beyond < 0 else -beyond % self.limits.check_interval

    def date_violations(self, step: int, lost: Tensor | None) -> Tensor:
        """Date violations of the paper's limits; structures (B,) whose sublattices may violate those of the verdict."""
        largest, average = self.lindemann.summary("printed" if self.limits.variant == "printed" else "literature")
        over = (largest > self.limits.lindemann_local) | (average > self.limits.lindemann_global)
        new = self.lindemann_steps < 0
        dated = torch.where(over & new[1], step, self.lindemann_steps[1])
        self.lindemann_steps = torch.stack([self.lindemann_steps[0], dated])
        deviation = self._deviate(lost)
        return (over | (deviation > self.limits.start_deviation)) & new[0]

    def date_lost_frameworks(self, step: int, which: Sequence[int]) -> None:
        """Date the loss of the sublattice that stays, of those structures in which there is none any more."""
        if not which or self.limits.paper:
            return
        for k, sums in self._sublattices(which).items():
            if framework(sums, self.limits) is None:
                self.lindemann_steps[0, k] = step

    def _deviate(self, lost: Tensor | None = None) -> Tensor:
        """Keep the deviations from the first frame where they are the largest so far; that of each structure, (B,)."""
        if self.last_positions is None:
            return self.largest_deviation
        sums = self.lindemann.by_element(self.last_positions)
        squares = self._per_structure(sums) / self._per_structure(self.compared).clamp_min(1)
        larger = squares.sqrt() > self.largest_deviation  # not where a NaN is in it
        if lost is not None:
            larger = larger & ~lost
        self.largest_deviation = torch.where(larger, squares.sqrt(), self.largest_deviation)
        of_atoms = larger[self.lindemann.structure].unsqueeze(1)
        self.deviations = torch.where(of_atoms, sums, self.deviations)
        return self.largest_deviation

    def _per_structure(self, values: Tensor) -> Tensor:
        total = torch.zeros(len(self.original), dtype=torch.float64, device=self.device)
        return total.index_add_(0, self.lindemann.structure, values.sum(1))

    def _sublattices(self, which: Sequence[int]) -> dict[int, Sublattices]:
        """Sums of some of the structures, by their number."""
        arrays = [self.lindemann.element, self.compared, self.lindemann.by_element(), self.deviations]
        element, *sums = (x.cpu().numpy() for x in arrays)
        ends, sums_of = np.cumsum(self.counts), {}
        for k in which:
            atoms = slice(ends[k] - self.counts[k], ends[k])
            many = len(set(self.symbols[self.original[k]]))
            sums_of[k] = Sublattices(element[atoms].copy(), *(x[atoms, :many].copy() for x in sums))
        return sums_of

    def _settle(self, ending: Tensor) -> None:
        """Make the verdicts of the structures in the mask final (once)."""
        which = [k for k in torch.nonzero(ending).squeeze(1).tolist() if self.verdicts[int(self.original[k])] is None]
        if not which:
            return
        local, printed = (self.lindemann.local(v).cpu().numpy() for v in ("literature", "printed"))
        ends, sublattices = np.cumsum(self.counts), self._sublattices(which)
        events = self.events
        closest, overlapping = events.closest.tolist(), events.overlapping.tolist()
        for k in which:
            original = int(self.original[k])
            symbols = self.symbols[original]
            atoms = slice(start := int(ends[k] - self.counts[k]), int(ends[k]))
            overlap, nan, explosion, overlap_paper, explosion_paper = map(_step, events.steps[:, k])
            self.verdicts[original] = Verdict(
                frames=self.lindemann.frames,
                overlap_step=overlap,
                nan_step=nan,
                explosion_step=explosion,
                lindemann_step=_step(self.lindemann_steps[0, k]),
                overlap_step_paper=overlap_paper,
                explosion_step_paper=explosion_paper,
                lindemann_step_paper=_step(self.lindemann_steps[1, k]),
                min_distance=float(events.smallest_squared[k].sqrt()),
                overlap_threshold=float(events.threshold[k]),
                closest_pair=_pair_name(symbols, closest[0][k] - start, closest[1][k] - start),
                lindemann=local[atoms].copy(),
                lindemann_printed=printed[atoms].copy(),
                cause=CAUSES[int(events.cause[k])],
                overlap_pair="" if overlap is None else _pair_name(symbols, *(row[k] - start for row in overlapping)),
                overlap_distance=0.0 if overlap is None else float(events.overlap_squared[k].sqrt()),
                elements=[chemical_symbols[z] for z in sorted(atomic_numbers[s] for s in set(symbols))],
                **vars(sublattices[k]),
            )


def _step(value: Tensor) -> int | None:
    number = int(value)
    return None if number < 0 else number


def _pair_name(symbols: Sequence[str], first: int, second: int) -> str:
    return "" if first < 0 else "-".join(sorted((symbols[first], symbols[second])))
