"""Frames of a trajectory as the judge needs them: in order, unwrapped, with one set of atoms."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from glob import glob, has_magic
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.cell import Cell

from mdl_physpretrain.dynamics.records import RunRecord
from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.structures.formats import iterate_file

__all__ = [
    "DisorderedFramesError", "Placed", "Trajectory", "Unwrapper", "consistent_frames", "expand_trajectories",
    "frame_step", "sorted_frames", "trajectory_frames",
]  # fmt: skip

Trajectory = str | Path | Sequence[Atoms]
_TIMES = ("step", "Step", "timestep", "time_fs", "time", "Time")
_OUTSIDE = 0.5  # cell vectors outside the cell: no code that wraps atoms, or whole molecules, puts them there


class DisorderedFramesError(Exception):
    """A frame is earlier than the one before it."""


class Placed:
    """Gives frames a cell, or another periodicity, where the file has none.

    Parameters
    ----------
    cell
        Three lengths, six parameters or nine components (Å), of frames without a cell.
    pbc
        Instead of the frames' own; with ``cell`` True by default.
    """

    def __init__(self, cell: Sequence[float] | None = None, pbc: bool | Sequence[bool] | None = None) -> None:
        numbers = None if cell is None else np.ravel(np.asarray(cell, dtype=np.float64))
        if numbers is not None and (numbers.size not in (3, 6, 9) or not np.isfinite(numbers).all()):
            raise ConfigError("a cell has three lengths, six parameters or nine components (Å)")
        self.cell = None if numbers is None else Cell.new(numbers.reshape(3, 3) if numbers.size == 9 else numbers)
        if self.cell is not None and not self.cell.volume > 1e-6:
            raise ConfigError("the cell has no volume")
        if pbc is not None and np.size(pbc) not in (1, 3):
            raise ConfigError("pbc is one or three of true and false")
        self.pbc = pbc if pbc is not None else None if cell is None else True

    def __call__(self, atoms: Atoms) -> Atoms:
        """The frame, or a copy in the cell."""
        bare = not atoms.cell.array.any()
        if (self.cell is None or not bare) and self.pbc is None:
            return atoms
        placed = atoms.copy()
        placed.calc = atoms.calc
        if self.cell is not None and bare:
            placed.cell, placed.pbc = self.cell, self.pbc
        elif self.pbc is not None and self.cell is None:
            placed.pbc = self.pbc
        return placed


def trajectory_frames(trajectory: Trajectory, read_options: Mapping[str, Any] | None = None) -> Iterator[Atoms]:
    """Frames of a file, one by one, or of a list.

    Raises
    ------
    StructureError
        If the file is missing or damaged.
    """
    if isinstance(trajectory, (str, Path)):
        yield from iterate_file(trajectory, **(read_options or {}))
    else:
        yield from trajectory


def consistent_frames(frames: Iterator[Atoms], source: str) -> Iterator[Atoms]:
    """The frames, which must have the atoms and the periodicity of the first, and come in order.

    Raises
    ------
    StructureError
        If a frame has other atoms or another periodicity.
    DisorderedFramesError
        If its step or time is below that of the frame before.
    """
    first, latest = None, -math.inf
    for number, atoms in enumerate(frames):
        first = atoms if first is None else first
        if len(atoms) != len(first) or not np.array_equal(atoms.numbers, first.numbers):
            raise StructureError("the atoms are not those of the first frame", file=source, structure=f"frame {number}")
        if not np.array_equal(atoms.pbc, first.pbc) or bool(atoms.cell.rank) != bool(first.cell.rank):
            raise StructureError(
                "the cell or its periodicity is not as in the first frame", file=source, structure=f"frame {number}"
            )
        time = _time(atoms)
        if time < latest:
            raise DisorderedFramesError
        latest = max(latest, time) if math.isfinite(time) else latest
        yield atoms


def sorted_frames(frames: Iterator[Atoms]) -> list[Atoms]:
    """All frames in the order of their steps or times, of several with the same one the last (a continued run)."""
    of_time: dict[float, Atoms] = {}
    for atoms in frames:
        of_time[_time(atoms)] = atoms
    return [of_time[time] for time in sorted(of_time)]


def _time(atoms: Atoms) -> float:
    """Step or time of a frame, of whatever unit; NaN without one."""
    return next((t for name in _TIMES if math.isfinite(t := _number(atoms.info.get(name)))), math.nan)


def _number(value: Any) -> float:
    if isinstance(value, bool | np.bool_) or value is None:
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def frame_step(atoms: Atoms, index: int) -> int:
    """``info["step"]`` where it is a number, else ``index``."""
    value = _number(atoms.info.get("step"))
    return int(value) if abs(value) < 2**53 else index  # of any program, of any kind


class Unwrapper:
    """Follows atoms across cell boundaries, in fractional coordinates (the cell may change).

    Parameters
    ----------
    first
        First frame.
    wrapped
        Whether positions may be wrapped into the cell.

    Attributes
    ----------
    jumped
        Whether an atom of the last frame is half a cell or more from where it
        was, in a file that is not wrapped: it lies where no code wraps it to.
    """

    def __init__(self, first: Atoms, wrapped: bool) -> None:
        self.active = wrapped and bool(first.pbc.any())
        self.pbc = first.pbc
        self.previous = _fractional(first) if self.active else np.zeros((0, 3))
        self.turns = np.zeros((len(first), 3))
        self.jumped = False

    def __call__(self, atoms: Atoms) -> np.ndarray:
        """Unwrapped positions in Å, shape (n, 3)."""
        if not self.active:
            return atoms.positions.copy()
        fractional = _fractional(atoms)
        if np.isfinite(fractional).all():
            moved = fractional - self.previous
            # frames may be far apart in time and the whole drift in between: what all atoms have in common is no jump
            phase = np.exp(2j * np.pi * moved).mean(axis=0)
            common = np.where(np.abs(phase) > 0.5, np.angle(phase) / (2 * np.pi), 0.0)
            turns = np.round(moved - common) * self.pbc
            outside = np.abs(fractional - 0.5) > 0.5 + _OUTSIDE
            far = np.abs(moved - np.median(moved, axis=0)) >= 0.5
            self.jumped = bool((outside & far & self.pbc).any())
            self.turns -= turns
            self.previous = fractional
        return atoms.positions + self.turns @ atoms.cell.array


def _fractional(atoms: Atoms) -> np.ndarray:
    return np.linalg.solve(atoms.cell.complete().array.T, atoms.positions.T).T


def expand_trajectories(trajectories: Any) -> list[Any]:
    """One flat list of records or trajectories."""
    if isinstance(trajectories, (str, Path)):
        if has_magic(str(trajectories)) and not Path(trajectories).is_file():
            matches = sorted(glob(str(trajectories), recursive=True))  # noqa: PTH207 - the pattern may be absolute
            if not matches:
                raise StructureError("no file matches", file=str(trajectories))
            return matches
        return [trajectories]
    if isinstance(trajectories, RunRecord):
        return [trajectories]
    items = list(trajectories)
    if items and all(isinstance(item, Atoms) for item in items):
        return [items]
    if items and any(isinstance(item, RunRecord) for item in items):
        if not all(isinstance(item, RunRecord) for item in items):
            raise ConfigError("give either runs or trajectories, not both")
        return items
    return list(chain.from_iterable(expand_trajectories(i) if isinstance(i, (str, Path)) else [i] for i in items))
