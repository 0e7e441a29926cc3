"""Traces and trajectory files written while MD runs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from ase.io.trajectory import Trajectory

from mdl_physpretrain.dynamics.settings import MDSettings
from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.files import make_writable

__all__ = ["Traces", "TrajectoryWriter", "trajectory_name"]

LONGEST = 180  # bytes of a structure's id in a file name


class Traces:
    """Temperature, potential energy and volume every ``trace_interval`` steps."""

    def __init__(self, n_structures: int, settings: MDSettings) -> None:
        self.interval = settings.trace_interval
        self.steps: list[int] = []
        self.values = np.full((3, n_structures, settings.steps // self.interval + 1), np.nan)

    def due(self, step: int) -> bool:
        """Whether this step is traced."""
        return step % self.interval == 0

    def add(self, step: int, structures: np.ndarray, values: np.ndarray) -> None:
        """Trace some structures (indices, shape (k,)).

        ``values`` has shape (3, k): K, eV, Å³; NaN where there is none.
        """
        self.values[:, structures, len(self.steps)] = values
        self.steps.append(step)

    def of(self, k: int) -> dict[str, np.ndarray]:
        """The traces of one structure as far as it went."""
        values = self.values[:, k, : len(self.steps)]
        traced = ~np.isnan(values[0])
        temperature, energy, volume = values[:, traced]
        return {
            "trace_step": np.array(self.steps, dtype=np.int64)[traced],
            "trace_temperature": temperature,
            "trace_energy": energy,
            "trace_volume": volume,
        }


class TrajectoryWriter:
    """Writes one trajectory file per structure, positions unwrapped, replacing one of an earlier run.

    Frames carry ``info["structure_id"]``, ``info["step"]``, ``info["time_fs"]`` (``timestep`` in fs) and
    ``info["unwrapped"]``, velocities, energy and forces. Formats: ``"extxyz"`` (positions to 1e-8 Å), ``"traj"``
    (exact). Characters of an id that a file name should not have become ``_``. Raises StructureError if the folder
    cannot be written, or two ids give one file name.
    """

    def __init__(
        self, folder: str | Path, ids: Sequence[str], *, interval: int, file_format: str, timestep: float
    ) -> None:
        self.folder, self.interval, self.file_format, self.timestep = Path(folder), interval, file_format, timestep
        names = [trajectory_name(name).removesuffix(".extxyz") for name in ids]
        if len(set(names)) < len(names):
            clash = next(name for name in names if names.count(name) > 1)
            raise StructureError(f"two structure ids give one file name {clash!r}", file=self.folder)
        self.paths = {i: self.folder / f"{name}.{file_format}" for i, name in zip(ids, names, strict=True)}
        try:
            make_writable(self.folder)
        except OSError as error:
            raise StructureError(f"cannot write trajectories: {error}", file=self.folder) from error

    def due(self, step: int) -> bool:
        """Whether frames of this step are written."""
        return step % self.interval == 0

    def write(self, frame: Atoms, name: str, step: int, energy: float, forces: np.ndarray) -> None:
        """Append one frame; step 0 starts the file anew."""
        frame = Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc, velocities=frame.get_velocities())
        frame.info.update(structure_id=name, step=step, time_fs=step * self.timestep, unwrapped=True)
        frame.calc = SinglePointCalculator(frame, energy=energy, forces=forces)
        if self.file_format == "extxyz":
            write(self.paths[name], frame, format="extxyz", append=step > 0)
            return
        with Trajectory(str(self.paths[name]), "a" if step > 0 else "w") as trajectory:  # type: ignore[attr-defined]
            trajectory.write(frame)


def trajectory_name(structure_id: str) -> str:
    """Name of the trajectory file that ``simulate`` writes for a structure."""
    name = re.sub(r"[^\w.+=-]", "_", structure_id)
    if len(name.encode()) > LONGEST:  # file systems allow 255 bytes
        digest = hashlib.sha256(structure_id.encode()).hexdigest()[:16]
        name = f"{name.encode()[:LONGEST].decode(errors='ignore')}-{digest}"
    return f"{name}.extxyz"
