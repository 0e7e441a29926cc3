"""Evenly spaced frames of trajectories in memory, however long they turn out to be."""

from __future__ import annotations

import numpy as np

__all__ = ["PRECISION", "FrameSampler"]

PRECISION = 0.01  # Å


class FrameSampler:
    """Keeps at most ``n_frames`` frames of every trajectory: when there are more, every second one is dropped.

    A trajectory that ends after any number of steps has at least half as many (or one for each step), at even steps
    apart, so that one that is lost early is seen as closely as one that runs to its end.
    """

    def __init__(self, n_frames: int) -> None:
        self.n_frames = n_frames
        self._frames: dict[str, list[tuple[int, np.ndarray, np.ndarray]]] = {}

    def _interval(self, step: int) -> int:
        """The smallest power of two of which so few multiples lie between 0 and this step."""
        return 1 << (step // self.n_frames).bit_length()

    def due(self, step: int) -> bool:
        """Whether frames of this step are kept for now."""
        return step % self._interval(step) == 0

    def add(self, step: int, name: str, positions: np.ndarray, cell: np.ndarray) -> None:
        """Keep a frame of a structure, (n, 3) and (3, 3) in Å, if it is finite; step 0 begins a trajectory."""
        frames = self._frames.setdefault(name, [])
        if step == 0:
            frames.clear()
        if np.isfinite(positions).all() and np.isfinite(cell).all():
            whole = np.rint(positions / PRECISION).astype(np.int32)
            kept = (frame for frame in frames if frame[0] % self._interval(step) == 0)
            frames[:] = [*kept, (step, whole, np.asarray(cell, dtype=np.float32))]

    def take(self, name: str) -> dict[str, np.ndarray]:
        """The frames of a structure as its record has them; they are not kept any more."""
        frames = self._frames.pop(name, [])
        if not frames:
            return {}
        steps, positions, cells = (np.array(part) for part in zip(*frames, strict=True))
        return {"frame_step": steps, "frame_positions": positions, "frame_cells": cells}
