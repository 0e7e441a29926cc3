"""Watches running trajectories of several structures at once.

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
from mdl_physpretrain.physicality.lindemann import LindemannAccumulator
from mdl_physpretrain.physicality.overlap import closest_pair
from mdl_physpretrain.physicality.verdict import Limits, Verdict
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
        self.pair_names = [name for _, name in closest]
        self.first_distance = np.array([distance for distance, _ in closest])
        self.verdicts: list[Verdict | None] = [None] * len(structures)
        self.original = np.arange(len(structures))  # index into verdicts of the structures still running
        self.counts = np.array([len(a) for a in structures])

        def steps() -> Tensor:
            return torch.full((len(structures),), -1, dtype=torch.int64, device=self.device)

        self.overlap_step, self.nan_step, self.explosion_step, self.lindemann_step = (steps() for _ in range(4))
        smallest = torch.as_tensor(self.first_distance, device=self.device)
        self.smallest_squared = smallest.square()
        threshold = self.limits.overlap_fraction * torch.where(smallest.isfinite(), smallest, 0.0)
        self.threshold = threshold
        self.threshold_squared = threshold.square()
        self.temperature_limit = self.limits.explosion_temperature(temperature)
        cells = torch.as_tensor(np.stack([a.cell.array for a in structures]), device=self.device)
        self.first_volume = torch.linalg.det(cells).abs()
        self._cells, self._volume_runaway = cells, torch.zeros_like(self.first_volume, dtype=torch.bool)
        self._bound = self._bound_of = torch.zeros(0)  # smallest_squared of each edge's structure
        self.lindemann = LindemannAccumulator(structures, self.device)

    @staticmethod
    def _first_pair(atoms: Atoms) -> tuple[float, str]:
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
        return pair.distance, _pair_name(atoms.symbols, pair.first, pair.second)

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
    ) -> Tensor:
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
            ``edge_structure`` object, and the same ``cells``, while they do not
            change.
        temperature, energy
            Instantaneous temperature (K) and potential energy (eV), shape (B,).
        broken
            Shape (B,): not ``OK`` for structures whose frame cannot be
            evaluated (their positions are ignored).

        Returns
        -------
        Tensor
            Mask of shape (B,) of structures whose trajectory ends here; their
            verdicts are final and :meth:`keep` must drop them.
        """
        moving = self.lindemann.frames > 0
        nan = self._not_finite(positions, temperature, energy)
        runaway = self._runaway(cells, temperature)
        if broken is not None:
            nan, runaway = nan | (broken == BROKEN_NAN), runaway | (broken == BROKEN_RUNAWAY)
        lost = nan if broken is None else nan | (broken != OK)
        self._smallest(edge_index, edge_structure, edge_squared, lost)
        overlap = (self.smallest_squared <= self.threshold_squared) & moving & (self.threshold > 0)
        events = ((overlap, self.overlap_step), (nan, self.nan_step), (runaway & ~nan, self.explosion_step))
        for event, first_step in events:
            first_step.masked_fill_(event & (first_step < 0), step)
        stop = lost
        if "overlap" in self.stop_on:
            stop = stop | overlap
        if "explosion" in self.stop_on:
            stop = stop | runaway
        stopping = bool(stop.any())
        if stopping and bool(lost.any()):  # their frame does not count
            self._settle(lost)
        self.lindemann.add(positions, cells)
        frames = self.lindemann.frames
        if frames >= self.limits.min_frames and (frames - self.limits.min_frames) % self.limits.check_interval == 0:
            self._running_lindemann(step)
        if stopping:
            self._settle(stop & ~lost)
        return stop

    def keep(self, structures: Tensor) -> None:
        """Drop structures; mask of shape (B,) of those that stay."""
        self.lindemann.keep(structures)
        host = structures.cpu().numpy()
        self.original, self.counts = self.original[host], self.counts[host]
        for name in (
            "overlap_step",
            "nan_step",
            "explosion_step",
            "lindemann_step",
            "smallest_squared",
            "threshold",
            "threshold_squared",
            "first_volume",
        ):
            setattr(self, name, getattr(self, name)[structures])
        self._cells = self._bound_of = torch.zeros(0)

    def finish(self) -> list[Verdict | None]:
        """End the trajectories that still run and return all verdicts."""
        if len(self.original):
            self._settle(torch.ones(len(self.original), dtype=torch.bool, device=self.device))
        return self.verdicts

    def _not_finite(self, positions: Tensor, temperature: Tensor | None, energy: Tensor | None) -> Tensor:
        whole = positions.sum()  # any NaN or infinity survives a sum
        for values in (temperature, energy):
            whole = whole if values is None else whole + values.sum()
        if bool(whole.isfinite()):
            return torch.zeros(len(self.original), dtype=torch.bool, device=self.device)
        total = torch.zeros(len(self.original), dtype=positions.dtype, device=self.device)
        bad = ~total.index_add_(0, self.lindemann.structure, positions.sum(1)).isfinite()
        if temperature is not None:
            bad = bad | temperature.isnan()
        if energy is not None:
            bad = bad | ~energy.isfinite()
        return bad

    def _runaway(self, cells: Tensor, temperature: Tensor | None) -> Tensor:
        if cells is not self._cells:
            self._cells = cells
            change = torch.linalg.det(cells).abs() / self.first_volume.clamp_min(1e-9)
            limit = self.limits.volume_change
            self._volume_runaway = (self.first_volume > 1e-9) & ((change > limit) | (change < 1 / limit))
        if temperature is None:
            return self._volume_runaway
        return self._volume_runaway | (temperature > self.temperature_limit)

    def _smallest(self, edge_index: Tensor, edge_structure: Tensor, edge_squared: Tensor, lost: Tensor) -> None:
        if edge_structure is not self._bound_of:
            self._bound_of, self._bound = edge_structure, self.smallest_squared[edge_structure]
        closer = torch.nonzero(edge_squared < self._bound).squeeze(1)
        if not len(closer):
            return
        owner, squared = edge_structure[closer], edge_squared[closer]
        smallest = self.smallest_squared.scatter_reduce(0, owner, squared, "amin")
        self.smallest_squared = torch.where(lost, self.smallest_squared, smallest)
        self._bound = self.smallest_squared[edge_structure]
        first = squared == self.smallest_squared[owner]
        starts = np.cumsum(self.counts) - self.counts
        for k, i, j in zip(owner[first].tolist(), *edge_index[:, closer[first]].tolist(), strict=True):
            original = self.original[k]
            start = int(starts[k])
            self.pair_names[original] = _pair_name(self.symbols[original], i - start, j - start)

    def _running_lindemann(self, step: int) -> None:
        largest, average = self.lindemann.summary(self.limits.variant)
        over = (largest > self.limits.lindemann_local) | (average > self.limits.lindemann_global)
        self.lindemann_step.masked_fill_(over & (self.lindemann_step < 0), step)

    def _settle(self, which: Tensor) -> None:
        """Make the verdicts of the structures in the mask final (once)."""
        local, printed = (self.lindemann.local(v).cpu().numpy() for v in ("literature", "printed"))
        ends = np.cumsum(self.counts)
        for k in torch.nonzero(which).squeeze(1).tolist():
            original = int(self.original[k])
            if self.verdicts[original] is not None:
                continue
            atoms = slice(int(ends[k] - self.counts[k]), int(ends[k]))
            self.verdicts[original] = Verdict(
                frames=self.lindemann.frames,
                overlap_step=_step(self.overlap_step[k]),
                nan_step=_step(self.nan_step[k]),
                explosion_step=_step(self.explosion_step[k]),
                lindemann_step=_step(self.lindemann_step[k]),
                min_distance=float(self.smallest_squared[k].sqrt()),
                overlap_threshold=float(self.threshold[k]),
                closest_pair=self.pair_names[original],
                lindemann=local[atoms].copy(),
                lindemann_printed=printed[atoms].copy(),
            )


def _step(value: Tensor) -> int | None:
    number = int(value)
    return None if number < 0 else number


def _pair_name(symbols: Sequence[str], first: int, second: int) -> str:
    return "" if first < 0 else "-".join(sorted((symbols[first], symbols[second])))
