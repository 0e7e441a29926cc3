"""What a calculator gave in a trajectory that is not finished, on disk: after an interruption it is not asked again."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from ase import Atoms

from mdl_physpretrain.dynamics.traces import trajectory_name
from mdl_physpretrain.potentials.results import CheckedCalculator

__all__ = ["RememberingCalculator", "memory_file"]

FLUSH_SECONDS = 5.0
LARGEST = 2**28  # bytes of one file


class RememberingCalculator(CheckedCalculator):
    """A calculator whose results of every frame are appended to a file, and taken from there as long as frames agree.

    MD from the same start with the same random numbers meets the same frames: one that was interrupted is done again
    up to there without the calculator, bit for bit, and goes on; one that rounds by what it saw before (ASE's
    neighbour lists with a skin do) may go on with other last digits.

    Parameters
    ----------
    calculator
        Any ASE calculator.
    path
        File of the results; what is there of an interrupted trajectory is used.
    n_atoms
        Of the structure.
    """

    def __init__(self, calculator: Any, path: Path, n_atoms: int) -> None:
        super().__init__(calculator)
        kind = [("place", "u8"), ("energy", "f8"), ("forces", "f8", (n_atoms, 3)), ("stress", "f8", 6)]
        self.path, self.kind = path, np.dtype(kind)
        self.before = np.fromfile(path, dtype=self.kind) if path.is_file() else np.zeros(0, dtype=self.kind)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.stream: BinaryIO | None = path.open("ab")
        self.stream.truncate(len(self.before) * self.kind.itemsize)  # the last one may be torn
        self.flushed = time.monotonic()
        self.frame, self.number, self.is_new = b"", -1, False
        self.known = np.zeros((), dtype=self.kind)

    def get_potential_energy(self, atoms: Atoms, *args: Any, **options: Any) -> float:
        return float(self._of(atoms, "energy", super().get_potential_energy, *args, **options))

    def get_forces(self, atoms: Atoms) -> np.ndarray:
        return np.array(self._of(atoms, "forces", super().get_forces))

    def get_stress(self, atoms: Atoms) -> np.ndarray:
        return np.array(self._of(atoms, "stress", super().get_stress))

    def close(self) -> None:
        """Write what is known so far."""
        self._keep()
        if self.stream is not None:
            self.stream.close()
            self.stream = None

    def _of(self, atoms: Atoms, name: str, calculate: Any, *args: Any, **options: Any) -> Any:
        frame = atoms.positions.tobytes() + atoms.cell.array.tobytes()
        if frame != self.frame:
            self._keep()
            self._go_to(frame)
        if np.isnan(self.known[name]).any():  # not asked for the last time; or what the calculator gives is NaN
            self.known[name] = calculate(atoms, *args, **options)
        return self.known[name]

    def _go_to(self, frame: bytes) -> None:
        self.frame, self.number = frame, self.number + 1
        place = int.from_bytes(hashlib.blake2b(frame, digest_size=8).digest(), "little")
        if self.number < len(self.before) and self.before[self.number]["place"] == place:
            self.known, self.is_new = self.before[self.number].copy(), False
            return
        if self.number < len(self.before) and self.stream is not None:
            self.stream.truncate(self.number * self.kind.itemsize)  # of another trajectory from here on
        self.before, self.is_new = self.before[: self.number], True
        self.known = np.zeros((), dtype=self.kind)
        for name in ("energy", "forces", "stress"):
            self.known[name] = np.nan
        self.known["place"] = place

    def _keep(self) -> None:
        """Append the frame at hand; a folder that takes nothing more ends the memory, not the trajectory."""
        if not self.is_new or self.stream is None:
            return
        self.is_new = False
        try:
            self.stream.write(self.known.tobytes())
            if time.monotonic() - self.flushed > FLUSH_SECONDS:
                self.stream.flush()
                self.flushed = time.monotonic()
        except OSError:
            self.stream = None


def memory_file(checkpoint: Path | None, atoms: Atoms, steps: int, mark: str) -> Path | None:
    """The file for one structure, beside a checkpoint of MD; ``None`` where there is none, or it would be too large.

    ``mark`` tells potential, options and start from others.
    """
    if checkpoint is None or 24.0 * len(atoms) * steps > LARGEST:
        return None
    folder = checkpoint.with_name(checkpoint.name.removesuffix(".npz").removesuffix(".runs") + ".unfinished")
    name = trajectory_name(atoms.info["structure_id"]).removesuffix(".extxyz")
    return folder / f"{name}-{hashlib.sha256(mark.encode()).hexdigest()[:16]}.results"
