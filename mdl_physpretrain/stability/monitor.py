"""The monitor of running trajectories: overlap, Lindemann indices, NaN, explosions.

One monitor serves the batched engine, the ASE engine and existing trajectory
files; its memory does not grow with the length of the trajectory.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.stability.limits import Limits, Verdict
from mdl_physpretrain.stability.lindemann import LindemannAccumulator
from mdl_physpretrain.stability.monitor_kernel import GOES_ON, LOST, STOPS_HERE, look
from mdl_physpretrain.stability.overlap import ClosestPair, closest_pair
from mdl_physpretrain.structures.labels import structure_id

__all__ = ["OK", "STOPS", "Monitor"]

STOPS = ("overlap", "nan", "explosion")
OK, BROKEN_NAN, BROKEN_RUNAWAY = 0, 1, 2  # what an engine reports about structures it cannot go on with
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

    Attributes
    ----------
    first_distance
        Smallest distance of each first frame in Å, shape (B,), infinite for an
        isolated atom. To see every overlap, an engine reports all pairs up to
        this distance.
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
    ) -> None:
        self.limits = limits or Limits()
        self.stop_on = frozenset(stop_on)
        self.device = torch.device(device)
        self.symbols = [atoms.get_chemical_symbols() for atoms in structures]
        closest = [self._first_pair(atoms) for atoms in structures]
        self.first_distance = np.array([pair.distance for pair in closest])
        self.verdicts: list[Verdict | None] = [None] * len(structures)
        self.original = np.arange(len(structures))  # index into verdicts of the structures still running
        self.counts = np.array([len(a) for a in structures])
        nothing = torch.full((4, len(structures)), -1, dtype=torch.int64, device=self.device)
        self.steps, self.lindemann_step = nothing[:3], nothing[3]  # first steps of overlap, NaN, explosion; -1 for none
        smallest = torch.as_tensor(self.first_distance, device=self.device)
        self.smallest_squared = smallest.square()
        starts = np.cumsum(self.counts) - self.counts
        pairs = np.array([[pair.first for pair in closest], [pair.second for pair in closest]])
        self.closest = torch.as_tensor(pairs + starts, device=self.device)  # of the smallest distance, among all atoms
        self.threshold = self.limits.overlap_fraction * torch.where(smallest.isfinite(), smallest, 0.0)
        self.threshold_squared = self.threshold.square()
        self.temperature_limit = self.limits.explosion_temperature(temperature)
        cells = torch.as_tensor(np.stack([a.cell.array for a in structures]), device=self.device)
        self.first_volume = torch.linalg.det(cells).abs()
        self._cells, self._volume_runaway = cells, torch.zeros_like(self.first_volume, dtype=torch.bool)
        self._none = torch.zeros_like(self.first_volume)  # of temperature and energy that are not known
        self._fine = torch.full_like(self._none, OK, dtype=torch.int64)
        self._arrays: list[np.ndarray] = []  # of the compiled look
        self.lindemann = LindemannAccumulator(structures, self.device)

    @staticmethod
    def _first_pair(atoms: Atoms) -> ClosestPair:
        if not np.isfinite(atoms.positions).all():
            raise StructureError("NaN or infinite value", structure=structure_id(atoms), field="positions")
        try:
            pair = closest_pair(atoms.positions, atoms.cell.array, atoms.pbc)
        except StructureError as error:
            raise StructureError(str(error), structure=structure_id(atoms)) from error
        if pair.distance < COINCIDENT:
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
            All pairs up to :attr:`first_distance` (more do not matter): atoms
            (2, E), structure (E,), squared distance (E,) in Å². Pass the same
            ``cells`` object while they do not change.
        temperature, energy
            Instantaneous temperature (K) and potential energy (eV), shape (B,).
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
        codes = (self._look_compiled if self.lindemann.compiled else self._look)(
            step,
            positions,
            self._none if temperature is None else temperature,
            self._none if energy is None else energy,
            self._fine if broken is None else broken,
            self._volumes_ran_away(cells),
            edge_index,
            edge_structure,
            edge_squared,
        )
        if codes is not None:  # a frame that is lost does not count
            self._settle(codes == LOST)
        self.lindemann.add(positions, cells)
        frames = self.lindemann.frames
        if frames >= self.limits.min_frames and (frames - self.limits.min_frames) % self.limits.check_interval == 0:
            self._running_lindemann(step)
        if codes is None:
            return None
        self._settle(codes == STOPS_HERE)
        return codes != GOES_ON

    def keep(self, structures: Tensor) -> None:
        """Drop structures; mask of shape (B,) of those that stay."""
        self.lindemann.keep(structures)
        host = structures.cpu().numpy()
        before = np.cumsum(self.counts) - self.counts
        self.original, self.counts = self.original[host], self.counts[host]
        for name in ("lindemann_step", "smallest_squared", "threshold", "threshold_squared", "first_volume"):
            setattr(self, name, getattr(self, name)[structures])
        starts = np.cumsum(self.counts) - self.counts
        moved = torch.as_tensor(starts - before[host], device=self.device)
        self.steps, self.closest = self.steps[:, structures], self.closest[:, structures] + moved
        self._none, self._fine = self._none[structures], self._fine[structures]
        self._cells, self._arrays = torch.zeros(0), []

    def finish(self) -> list[Verdict | None]:
        """End the trajectories that still run and return all verdicts."""
        if len(self.original):
            self._settle(torch.ones(len(self.original), dtype=torch.bool, device=self.device))
        return self.verdicts

    def _volumes_ran_away(self, cells: Tensor) -> Tensor:
        if cells is not self._cells:
            self._cells = cells
            change = torch.linalg.det(cells).abs() / self.first_volume.clamp_min(1e-9)
            limit = self.limits.volume_change
            self._volume_runaway = (self.first_volume > 1e-9) & ((change > limit) | (change < 1 / limit))
        return self._volume_runaway

    def _look_compiled(self, step: int, *frame: Tensor) -> Tensor | None:
        """What :meth:`_look` does, in one pass of machine code."""
        if not self._arrays:
            state = (self.threshold_squared, self.smallest_squared, self.closest, self.steps, self._fine.clone())
            self._arrays = [x.numpy() for x in (self.lindemann.structure, *state)]
        structure, *arrays = self._arrays
        positions, *rest = (x.numpy() for x in frame)
        moving, limit = self.lindemann.frames > 0, self.temperature_limit
        ends = ("overlap" in self.stop_on, "explosion" in self.stop_on)
        worst = look(step, moving, positions, structure, *rest, limit, *ends, *arrays)
        return None if worst == GOES_ON else torch.tensor(arrays[-1])

    def _look(
        self,
        step: int,
        positions: Tensor,
        temperature: Tensor,
        energy: Tensor,
        broken: Tensor,
        volume_runaway: Tensor,
        edge_index: Tensor,
        edge_structure: Tensor,
        edge_squared: Tensor,
    ) -> Tensor | None:
        """Events of a frame; whether each structure goes on, shape (B,), or ``None`` if all do."""
        total = torch.zeros(len(self.original), dtype=positions.dtype, device=self.device)
        total.index_add_(0, self.lindemann.structure, positions.sum(1))  # any NaN or infinity survives a sum
        nan = ~total.isfinite() | temperature.isnan() | ~energy.isfinite() | (broken == BROKEN_NAN)
        runaway = volume_runaway | (temperature > self.temperature_limit) | (broken == BROKEN_RUNAWAY)
        lost = nan | (broken != OK)
        self._smallest(edge_index, edge_structure, edge_squared, lost)
        moving = self.lindemann.frames > 0
        overlap = (self.smallest_squared <= self.threshold_squared) & (self.threshold_squared > 0) & moving
        self.steps.masked_fill_(torch.stack([overlap, nan, runaway & ~nan]) & (self.steps < 0), step)
        stop = torch.zeros_like(lost)
        if "overlap" in self.stop_on:
            stop = stop | overlap
        if "explosion" in self.stop_on:
            stop = stop | runaway
        codes = torch.where(lost, LOST, torch.where(stop, STOPS_HERE, GOES_ON))
        return codes if bool(codes.any()) else None

    def _smallest(self, edge_index: Tensor, edge_structure: Tensor, edge_squared: Tensor, lost: Tensor) -> None:
        """Update the smallest distances and the pairs they are of, without waiting for the device."""
        if not len(edge_squared):
            return
        bound = torch.where(lost, -1.0, self.smallest_squared)[edge_structure]
        squared = torch.where(edge_squared < bound, edge_squared, torch.inf)
        self.smallest_squared.scatter_reduce_(0, edge_structure, squared, "amin")
        shortest = squared == self.smallest_squared[edge_structure]
        # of several equally short ones the last
        number = torch.where(shortest & squared.isfinite(), torch.arange(len(squared), device=self.device), -1)
        last = torch.full_like(self.closest[0], -1).scatter_reduce_(0, edge_structure, number, "amax")
        self.closest = torch.where(last >= 0, edge_index[:, last.clamp_min(0)], self.closest)

    def _running_lindemann(self, step: int) -> None:
        largest, average = self.lindemann.summary(self.limits.variant)
        over = (largest > self.limits.lindemann_local) | (average > self.limits.lindemann_global)
        self.lindemann_step.masked_fill_(over & (self.lindemann_step < 0), step)

    def _settle(self, ending: Tensor) -> None:
        """Make the verdicts of the structures in the mask final (once)."""
        local, printed = (self.lindemann.local(v).cpu().numpy() for v in ("literature", "printed"))
        ends, (first, second) = np.cumsum(self.counts), self.closest.tolist()
        for k in torch.nonzero(ending).squeeze(1).tolist():
            original = int(self.original[k])
            if self.verdicts[original] is not None:
                continue
            atoms = slice(start := int(ends[k] - self.counts[k]), int(ends[k]))
            overlap, nan, explosion = map(_step, self.steps[:, k])
            self.verdicts[original] = Verdict(
                frames=self.lindemann.frames,
                overlap_step=overlap,
                nan_step=nan,
                explosion_step=explosion,
                lindemann_step=_step(self.lindemann_step[k]),
                min_distance=float(self.smallest_squared[k].sqrt()),
                overlap_threshold=float(self.threshold[k]),
                closest_pair=_pair_name(self.symbols[original], first[k] - start, second[k] - start),
                lindemann=local[atoms].copy(),
                lindemann_printed=printed[atoms].copy(),
            )


def _step(value: Tensor) -> int | None:
    number = int(value)
    return None if number < 0 else number


def _pair_name(symbols: Sequence[str], first: int, second: int) -> str:
    return "" if first < 0 else "-".join(sorted((symbols[first], symbols[second])))
