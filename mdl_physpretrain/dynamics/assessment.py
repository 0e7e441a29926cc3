"""The physicality table, from simulations or from trajectory files of any code."""

from __future__ import annotations

import itertools
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from ase import Atoms

from mdl_physpretrain.dynamics.frame_labels import FrameLabels
from mdl_physpretrain.dynamics.records import RunRecord
from mdl_physpretrain.dynamics.trajectories import (
    DisorderedFramesError,
    Placed,
    Trajectory,
    Unwrapper,
    consistent_frames,
    expand_trajectories,
    frame_step,
    sorted_frames,
    trajectory_frames,
)
from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.progress import track
from mdl_physpretrain.stability.limits import Limits
from mdl_physpretrain.stability.monitor import BROKEN_NAN, BROKEN_RUNAWAY, OK, Monitor
from mdl_physpretrain.stability.verdict import Verdict

__all__ = ["assess", "assess_trajectory"]

LEAST_LOOKS = Limits.min_frames  # a mean of fewer frames says nothing


def assess(
    runs_or_trajectories: Sequence[RunRecord] | Trajectory | Sequence[Trajectory],
    *,
    limits: Limits | None = None,
    temperature: float | None = None,
    wrapped: bool | None = None,
    interval: int = 1,
    cell: Sequence[float] | None = None,
    pbc: bool | Sequence[bool] | None = None,
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
        no atom may move half a cell against the others. False: take them as
        they are. Default: False for frames that say so
        (``info["unwrapped"]``, as this package writes them), else True.
    interval
        Trajectories only: look at every so many frames, and at the last one;
        at least at 20, and at all for what is NaN. ``detail`` says at how many:
        what happens between two of them is not seen, so a verdict can depend on it.
    cell, pbc
        Trajectories only: of files without, see
        :class:`~mdl_physpretrain.dynamics.trajectories.Placed`.
    progress
        Show a progress bar.
    **read_options
        Passed to ``ase.io.iread`` (``format``, ``index``, ...).

    Returns
    -------
    DataFrame
        One row per trajectory: ``structure_id, n_atoms, formula, steps,
        steps_done, overlap, lindemann_local`` (largest of any atom),
        ``lindemann_global`` (both over all pairs), ``lindemann_violation, nan,
        exploded, physical, verdict`` ("physical", "diffusing": some elements
        move through the framework of the others, "unphysical", "not judged":
        nothing happens in it, "unreadable"), ``first_unphysical_step``
        (nullable integer), ``reason, min_distance`` (Å), ``overlap_threshold``
        (of ``closest_pair``, Å), ``closest_pair, mobile`` (elements that diffuse),
        ``start_deviation, detail, physical_paper, reason_paper`` (the paper's
        verdict), ``temperature_mean`` (K, second half). The steps of a file are
        ``info["step"]`` where frames have it, else frame numbers. What is not
        judged or unreadable is not ``physical``.

    Raises
    ------
    ConfigError
        If there is nothing to assess.
    StructureError
        If a trajectory is empty, damaged or changes its atoms; it names the
        file and the frame. Of several trajectories the others are assessed,
        and that one is "unreadable".
    """
    limits = limits or Limits()
    if isinstance(interval, bool) or not isinstance(interval, int) or interval < 1:
        raise ConfigError(f"interval must be an integer of at least 1, not {interval!r}")
    if temperature is not None and not (math.isfinite(temperature) and temperature > 0):
        raise ConfigError(f"temperature must be a positive number (K), not {temperature}")
    items = expand_trajectories(runs_or_trajectories)
    if not items:
        raise ConfigError("nothing to assess")
    if all(isinstance(item, RunRecord) for item in items):
        rows = [item.row(limits) for item in items]
    else:
        options: dict[str, Any] = {
            "limits": limits,
            "temperature": temperature,
            "wrapped": wrapped,
            "interval": interval,
        }
        options |= {"cell": cell, "pbc": pbc, **read_options}
        rows = []
        for item in track(items, "assess", enabled=progress):
            try:
                rows.append(assess_trajectory(item, **options))
            except StructureError as error:
                if len(items) == 1:
                    raise
                rows.append(_unreadable(item, error, limits))
        _tell_apart(rows, items)
        bare = [row["structure_id"] for row in rows if NO_IMAGES in row["detail"]]
        if bare:
            warnings.warn(
                f"{len(bare)} of {len(rows)} trajectories have no periodic cell (first: {bare[0]}): images are not "
                "looked at (give cell and pbc if they are periodic)",
                stacklevel=2,
            )
    table = pd.DataFrame(rows)
    return table.astype({"first_unphysical_step": "Int64"})


def _tell_apart(rows: list[dict[str, Any]], items: Sequence[Any]) -> None:
    """Trajectories that share a name are called by their file, as it was given."""
    counts = Counter(row["structure_id"] for row in rows)
    for row, item in zip(rows, items, strict=True):
        if counts[row["structure_id"]] > 1 and isinstance(item, (str, Path)):
            row["structure_id"] = str(item)


NO_IMAGES = "no periodic cell: images are not looked at"


def assess_trajectory(
    trajectory: Trajectory,
    *,
    limits: Limits | None = None,
    temperature: float | None = None,
    wrapped: bool | None = None,
    interval: int = 1,
    cell: Sequence[float] | None = None,
    pbc: bool | Sequence[bool] | None = None,
    **read_options: Any,
) -> dict[str, Any]:
    """One row of :func:`assess` for one trajectory, read frame by frame."""
    source = str(trajectory) if isinstance(trajectory, (str, Path)) else "trajectory"
    place = Placed(cell, pbc)
    judge = Judge(source, limits or Limits(), temperature, wrapped, interval)

    def frames() -> Iterator[Atoms]:
        return map(place, trajectory_frames(trajectory, read_options))

    def ordered() -> Iterator[Atoms]:
        return iter(sorted_frames(frames())) if disordered else frames()

    disordered = False
    try:
        row = judge(consistent_frames(ordered(), source))
    except DisorderedFramesError:
        warnings.warn(f"{source}: frames are not in the order of their steps or times: sorted", stacklevel=2)
        disordered = True
        row = judge(consistent_frames(ordered(), source))
    if judge.interval > 1 and judge.looks < min(LEAST_LOOKS, judge.count) and row["verdict"] != "unphysical":
        judge.interval = max(judge.count // LEAST_LOOKS, 1)
        row = judge(consistent_frames(ordered(), source))
    return row


class Judge:
    """Reads one trajectory through a monitor; parameters as of :func:`assess_trajectory`."""

    def __init__(
        self, source: str, limits: Limits, temperature: float | None, wrapped: bool | None, interval: int
    ) -> None:
        self.source, self.limits, self.temperature = source, limits, temperature
        self.wrapped, self.interval = wrapped, interval
        self.labels = FrameLabels(source)

    def __call__(self, frames: Iterator[Atoms]) -> dict[str, Any]:
        """The row of the table."""
        first = next(frames, None)
        if first is None:
            raise StructureError("has no frames", file=self.source)
        self.last_step = frame_step(first, 0)
        self.temperatures: list[float] = []
        self.looks = self.count = 0
        self.labels.restart()
        verdict = self._verdict(first, itertools.chain([first], frames))
        row = verdict.row(self.limits, self.last_step)
        self.labels.refuse_absent()
        thinned = f"{self.looks} of {self.count} frames looked at" if self.looks < self.count else ""
        images = "" if first.pbc.any() else NO_IMAGES
        row["detail"] = ", ".join(filter(None, (row["detail"], thinned, images)))
        second_half = self.temperatures[len(self.temperatures) // 2 :]
        return {
            "structure_id": str(first.info.get("structure_id", Path(self.source).stem)),
            "n_atoms": len(first),
            "formula": first.get_chemical_formula(),
            "steps": self.last_step,
            "steps_done": self.last_step,
            **row,
            "temperature_mean": float(np.mean(second_half)) if second_half else float("nan"),
        }

    def _verdict(self, first: Atoms, frames: Iterable[Atoms]) -> Verdict:
        if not _is_finite(first):
            return _without_start(self.last_step, len(first))
        try:
            monitor = Monitor(
                [first], limits=self.limits, temperature=self.temperature, stop_on=("nan",), coincident="overlap"
            )
        except StructureError as error:
            raise StructureError(f"first frame: {error}", file=self.source) from error
        wrapped = not bool(first.info.get("unwrapped", False)) if self.wrapped is None else self.wrapped
        unwrap = Unwrapper(first, wrapped)
        jumped = False
        for index, (atoms, is_last) in enumerate(_with_last(frames)):
            self.count += 1
            finite = _is_finite(atoms) and self.labels.read(atoms)
            positions = unwrap(atoms) if finite else atoms.positions
            jumped = jumped or (finite and unwrap.jumped)
            if not (is_last or index % self.interval == 0) and finite and self.labels.finite and not jumped:
                continue
            self.looks += 1
            self.last_step = frame_step(atoms, index)
            broken = OK if finite and not jumped else BROKEN_RUNAWAY if finite else BROKEN_NAN
            if self._observe(monitor, atoms if finite else first, positions, broken, atoms):
                break
        verdict = monitor.finish()[0]
        assert verdict is not None
        if jumped:
            verdict.cause = "jump across the cell"
        return verdict

    def _observe(self, monitor: Monitor, atoms: Atoms, positions: np.ndarray, broken: int, frame: Atoms) -> bool:
        """Show one frame to the monitor; whether the trajectory ends here."""
        kelvin = float(frame.get_temperature()) if frame.has("momenta") else None
        if kelvin is not None and np.isfinite(kelvin):
            self.temperatures.append(kelvin)
        energy, forces = self.labels.energy, self.labels.forces
        edge_index, edge_structure, edge_squared, code = monitor.short_pairs(atoms)
        broken = code if broken == OK else broken
        stop = monitor.observe(
            self.last_step,
            torch.as_tensor(positions),
            torch.as_tensor(atoms.cell.array.copy()[None]),
            edge_index=edge_index,
            edge_structure=edge_structure,
            edge_squared=edge_squared,
            temperature=None if kelvin is None else torch.tensor([kelvin], dtype=torch.float64),
            energy=None if energy is None else torch.as_tensor(energy),
            forces=None if forces is None else torch.as_tensor(forces),
            broken=None if broken == OK else torch.tensor([broken]),
        )
        return stop is not None


def _is_finite(atoms: Atoms) -> bool:
    cell = atoms.cell.array
    if not (np.isfinite(atoms.positions).all() and np.isfinite(cell).all()):
        return False
    return not atoms.pbc.any() or abs(float(np.linalg.det(atoms.cell.complete().array))) > 1e-9


def _with_last(frames: Iterable[Atoms]) -> Iterator[tuple[Atoms, bool]]:
    """Each frame, and whether it is the last one."""
    previous: Atoms | None = None
    for atoms in frames:
        if previous is not None:
            yield previous, False
        previous = atoms
    if previous is not None:
        yield previous, True


def _without_start(step: int, n_atoms: int) -> Verdict:
    """Of a trajectory whose first frame is NaN: nothing can be followed."""
    nothing = np.zeros(n_atoms)
    return Verdict(0, None, step, None, None, float("nan"), 0.0, "", nothing, nothing)


def _unreadable(trajectory: Trajectory, error: StructureError, limits: Limits) -> dict[str, Any]:
    """The row of a trajectory that cannot be read."""
    row = _without_start(0, 0).row(limits, 0)
    row |= {"nan": False, "physical": False, "physical_paper": False, "verdict": "unreadable"}
    row |= {"reason": f"unreadable: {error}", "reason_paper": "unreadable", "first_unphysical_step": None}
    name = Path(trajectory).stem if isinstance(trajectory, (str, Path)) else "trajectory"
    return {
        "structure_id": name, "n_atoms": 0, "formula": "", "steps": 0, "steps_done": 0, **row,
        "temperature_mean": float("nan"),
    }  # fmt: skip
