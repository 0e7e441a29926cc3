"""Trajectories for the page's viewer: frames before a last one, small enough to stand in the page."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import numpy as np

from mdl_physpretrain.dynamics.records import RunRecord
from mdl_physpretrain.dynamics.sampled_frames import PRECISION
from mdl_physpretrain.graphs.neighbour_lists import complete_cell

__all__ = ["Motion", "PageRoom", "recorded_motion", "wrapped"]

MAX_FRAMES = 60  # of a trajectory
LEAST_FRAMES = 5  # fewer are no motion
TRAJECTORY_POSITIONS = 6_000  # atoms times frames of one trajectory; 8 bytes of the page each
PAGE_POSITIONS = 60_000  # of all


@dataclass(frozen=True)
class Motion:
    """Frames of a trajectory, relative to its last one.

    Attributes
    ----------
    steps
        MD steps, shape (k,); the last frame is not among them.
    moved
        Positions minus those of the last frame, shape (k, n, 3), in 0.01 Å: little-endian 16-bit integers in base64.
        The drift of all atoms together is taken out.
    cells
        Shape (k, 3, 3), Å; ``None``: that of the last frame.
    """

    steps: list[int]
    moved: str
    cells: list[list[list[float]]] | None


class PageRoom:
    """What room the page has for further trajectories; ``crowded`` counts those that got less than they have."""

    def __init__(self) -> None:
        self.left, self.crowded = PAGE_POSITIONS, 0

    def choose(self, n_frames: int, n_atoms: int) -> np.ndarray:
        """Indices of the frames that are shown, the first one among them; none where there is too little room."""
        most = min(MAX_FRAMES, n_frames, min(self.left, TRAJECTORY_POSITIONS) // max(n_atoms, 1))
        wanted = min(MAX_FRAMES, n_frames)
        self.crowded += most < wanted
        if most < min(LEAST_FRAMES, wanted):
            return np.zeros(0, dtype=np.int64)
        self.left -= most * n_atoms
        return np.unique(np.arange(most) * n_frames // most)


def wrapped(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Positions (n, 3) in the cell; those of molecules around the origin."""
    if not pbc.any():
        return positions - positions.mean(axis=0)
    box = complete_cell(np.where(pbc[:, None], cell, 0.0), pbc)
    return positions - (np.floor(positions @ np.linalg.inv(box) + 1e-6) * pbc) @ box


def recorded_motion(record: RunRecord, room: PageRoom) -> Motion | None:
    """The frames that a record keeps, every atom followed back from where :func:`wrapped` puts it in the last one.

    Parameters
    ----------
    record
        With finite last positions and cell.
    room
        Of the page; what is shown is taken from it.

    Raises
    ------
    ValueError
        If the arrays do not fit together.
    """
    steps, stored, cells = record.frame_step, record.frame_positions, record.frame_cells
    before = np.flatnonzero(steps < record.steps_done)
    if not len(before):
        return None
    if stored.shape != (len(steps), len(record.numbers), 3) or cells.shape != (len(steps), 3, 3):
        raise ValueError("the stored frames do not fit the last one")
    chosen = before[room.choose(len(before), len(record.numbers))]
    if not len(chosen):
        return None
    pbc = record.pbc.astype(bool)
    last = wrapped(record.positions, record.cell, pbc)
    box = complete_cell(np.where(pbc[:, None], record.cell, 0.0), pbc) if pbc.any() else np.eye(3)
    ended = record.positions @ np.linalg.inv(box)
    moved = np.empty((len(chosen), len(last), 3))
    for k, frame in enumerate(chosen):
        now = complete_cell(np.where(pbc[:, None], cells[frame].astype(float), 0.0), pbc) if pbc.any() else box
        change = stored[frame] * PRECISION @ np.linalg.inv(now) - ended
        moved[k] = (last @ np.linalg.inv(box) + change - change.mean(axis=0)) @ now - last
    whole = np.rint(moved / PRECISION)
    if not np.isfinite(whole).all() or np.abs(whole).max(initial=0) > np.iinfo(np.int16).max:
        return None
    constant = np.allclose(cells[chosen], record.cell, atol=1e-3)
    return Motion(
        steps=steps[chosen].astype(int).tolist(),
        moved=base64.b64encode(whole.astype("<i2").tobytes()).decode(),
        cells=None if constant else np.round(cells[chosen].astype(float), 3).tolist(),
    )
