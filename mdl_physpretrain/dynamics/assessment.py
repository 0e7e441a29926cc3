"""The physicality table, from simulations or from trajectory files of any code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from glob import glob, has_magic
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from ase import Atoms
from ase.io import iread

from mdl_physpretrain.dynamics.records import RunRecord
from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.progress import track
from mdl_physpretrain.stability.limits import Limits
from mdl_physpretrain.stability.monitor import Monitor
from mdl_physpretrain.stability.overlap import closest_pair

__all__ = ["Trajectory", "Unwrapper", "assess", "assess_trajectory", "expand_trajectories", "trajectory_frames"]

Trajectory = str | Path | Sequence[Atoms]


def assess(
    runs_or_trajectories: Sequence[RunRecord] | Trajectory | Sequence[Trajectory],
    *,
    limits: Limits | None = None,
    temperature: float | None = None,
    wrapped: bool = True,
    interval: int = 1,
    progress: bool = False,
    **read_options: Any,
) -> pd.DataFrame:
    """Which trajectories are physical, and where the others stopped being so.

    Parameters
    ----------
    runs_or_trajectories
        What :func:`mdl_physpretrain.dynamics.simulate` returned; or
        trajectories: files that ASE reads frame by frame (a path, a pattern or
        a list of them), or lists of ``Atoms``.
    limits
        Thresholds. For finished runs only the Lindemann limits and the
        variant still matter; the rest was decided while they ran.
    temperature
        Trajectories only: target temperature in K, for the explosion limit
        (looked at when frames carry velocities).
    wrapped
        Trajectories only: positions may be wrapped into the cell; they are
        unwrapped from frame to frame by the shortest way, so between frames
        no atom may move half a cell. False: take them as they are.
    interval
        Trajectories only: look at every so many frames.
    progress
        Show a progress bar.
    **read_options
        Passed to ``ase.io.iread`` (``format``, ``index``, ...).

    Returns
    -------
    DataFrame
        One row per trajectory: ``structure_id, n_atoms, formula, steps,
        steps_done, overlap, lindemann_local`` (largest of any atom),
        ``lindemann_global, lindemann_violation, nan, exploded, physical,
        first_unphysical_step`` (nullable integer), ``reason, min_distance``
        (Å), ``overlap_threshold`` (Å), ``closest_pair, temperature_mean`` (K,
        second half). The steps of a file are ``info["step"]`` where frames
        have it, else frame numbers.

    Raises
    ------
    ConfigError
        If there is nothing to assess.
    StructureError
        If a trajectory is empty, damaged or changes its atoms; it names the
        file and the frame.
    """
    limits = limits or Limits()
    if isinstance(interval, bool) or not isinstance(interval, int) or interval < 1:
        raise ConfigError(f"interval must be an integer of at least 1, not {interval!r}")
    items = expand_trajectories(runs_or_trajectories)
    if not items:
        raise ConfigError("nothing to assess")
    if all(isinstance(item, RunRecord) for item in items):
        rows = [item.row(limits) for item in items]
    else:
        rows = [
            assess_trajectory(
                item, limits=limits, temperature=temperature, wrapped=wrapped, interval=interval, **read_options
            )
            for item in track(items, "assess", enabled=progress)
        ]
    table = pd.DataFrame(rows)
    return table.astype({"first_unphysical_step": "Int64"})


def assess_trajectory(
    trajectory: Trajectory,
    *,
    limits: Limits | None = None,
    temperature: float | None = None,
    wrapped: bool = True,
    interval: int = 1,
    **read_options: Any,
) -> dict[str, Any]:
    """One row of :func:`assess` for one trajectory, read frame by frame."""
    limits = limits or Limits()
    source = str(trajectory) if isinstance(trajectory, (str, Path)) else "trajectory"
    frames = trajectory_frames(trajectory, read_options)
    first = next(frames, None)
    if first is None:
        raise StructureError("has no frames", file=source)
    try:
        monitor = Monitor([first], limits=limits, temperature=temperature, stop_on=("nan",))
    except StructureError as error:
        raise StructureError(f"first frame: {error}", file=source) from error
    unwrap = Unwrapper(first, wrapped)
    temperatures: list[float] = []
    step = _step(first, 0)
    last_step, closest = step, np.inf
    for index, atoms in enumerate(_with_first(first, frames)):
        if len(atoms) != len(first) or not np.array_equal(atoms.numbers, first.numbers):
            raise StructureError("the atoms are not those of the first frame", file=source, structure=f"frame {index}")
        positions = unwrap(atoms)
        if index % interval:
            continue
        last_step = _step(atoms, index)
        finite = bool(np.isfinite(positions).all() and np.isfinite(atoms.cell.array).all())
        kelvin = float(atoms.get_temperature()) if atoms.has("momenta") else None
        edge = _closest_edge(atoms, min(closest, float(monitor.first_distance[0]))) if finite else None
        closest = min(closest, edge[1]) if edge else closest
        stop = monitor.observe(
            last_step,
            torch.as_tensor(positions),
            torch.as_tensor(atoms.cell.array.copy()[None] if finite else first.cell.array.copy()[None]),
            edge_index=torch.tensor([[edge[0][0]], [edge[0][1]]] if edge else [[], []], dtype=torch.int64),
            edge_structure=torch.zeros(1 if edge else 0, dtype=torch.int64),
            edge_squared=torch.tensor([edge[1] ** 2] if edge else [], dtype=torch.float64),
            temperature=None if kelvin is None else torch.tensor([kelvin], dtype=torch.float64),
            broken=None if finite else torch.tensor([1]),
        )
        if kelvin is not None and np.isfinite(kelvin):
            temperatures.append(kelvin)
        if stop is not None:
            break
    verdict = monitor.finish()[0]
    assert verdict is not None
    second_half = temperatures[len(temperatures) // 2 :]
    name = first.info.get("structure_id", Path(source).stem)
    return {
        "structure_id": str(name),
        "n_atoms": len(first),
        "formula": first.get_chemical_formula(),
        "steps": last_step,
        "steps_done": last_step,
        **verdict.row(limits, last_step),
        "temperature_mean": float(np.mean(second_half)) if second_half else float("nan"),
    }


class Unwrapper:
    """Follows atoms across cell boundaries, in fractional coordinates (the cell may change)."""

    def __init__(self, first: Atoms, wrapped: bool) -> None:
        self.active = wrapped and bool(first.pbc.any())
        self.pbc = first.pbc
        self.previous = _fractional(first) if self.active else None
        self.turns = np.zeros((len(first), 3))

    def __call__(self, atoms: Atoms) -> np.ndarray:
        if not self.active:
            return atoms.positions.copy()
        fractional = _fractional(atoms)
        if np.isfinite(fractional).all():
            self.turns -= np.round(fractional - self.previous) * self.pbc
            self.previous = fractional
        return atoms.positions + self.turns @ atoms.cell.array


def _fractional(atoms: Atoms) -> np.ndarray:
    return np.linalg.solve(atoms.cell.complete().array.T, atoms.positions.T).T


def _closest_edge(atoms: Atoms, within: float) -> tuple[tuple[int, int], float] | None:
    """The closest pair if it is closer than any before."""
    if not np.isfinite(within):
        return None
    pair = closest_pair(atoms.positions, atoms.cell.array, atoms.pbc, within=within)
    return None if pair.first < 0 else ((pair.first, pair.second), pair.distance)


def _step(atoms: Atoms, index: int) -> int:
    value = atoms.info.get("step", index)
    try:
        number = float(value)
    except (TypeError, ValueError):  # of any program, of any kind
        return index
    return int(number) if abs(number) < 2**53 else index


def _with_first(first: Atoms, rest: Iterable[Atoms]) -> Iterator[Atoms]:
    yield first
    yield from rest


def trajectory_frames(trajectory: Trajectory, read_options: Mapping[str, Any] | None = None) -> Iterator[Atoms]:
    """Frames of a file that ASE reads, one by one, or of a list.

    Raises
    ------
    StructureError
        If the file is missing or damaged.
    """
    if not isinstance(trajectory, (str, Path)):
        yield from trajectory
        return
    source = str(trajectory)
    if not Path(source).is_file():
        raise StructureError("no such file", file=source)
    count = 0
    try:
        for atoms in iread(source, **{"index": ":", **(read_options or {})}):
            yield atoms
            count += 1
    except (StructureError, GeneratorExit):
        raise
    except Exception as error:  # every reader has its own way of failing on a damaged file
        raise StructureError(f"cannot read frame {count}: {error}", file=source) from error


def expand_trajectories(trajectories: Any) -> list[Any]:
    """One flat list of records or trajectories."""
    if isinstance(trajectories, (str, Path)):
        if has_magic(str(trajectories)):
            matches = sorted(glob(str(trajectories)))  # noqa: PTH207 - the pattern may be absolute
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
