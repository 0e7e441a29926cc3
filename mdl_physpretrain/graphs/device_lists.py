"""Neighbour lists of large cells on the GPU that holds the positions, by vesin, where they are those of the CPU."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms
from torch import Tensor
from vesin import NeighborList

from mdl_physpretrain.graphs.neighbour_lists import MIN_CUTOFF, neighbour_list, refuse_impossible

__all__ = ["DeviceLists"]

DEVICES = ("cuda",)  # that vesin knows
LEAST_ATOMS = 500  # of a cell: 5 ms and more on a CPU; a GPU is asked some ten times for a list of any length
ROUNDING = 1e-6  # Å: edges that are this close to the cutoff may be in one of two lists


class DeviceLists:
    """What :func:`neighbour_list` gives, made where the positions are, for cells that are periodic in all directions.

    The first list is compared with the CPU's. Where they differ, and where vesin fails, a warning says so and there are
    no more lists of the device.
    """

    def __init__(self) -> None:
        self.compared = self.failed = False

    @classmethod
    def of(cls, structures: Sequence[Atoms], device: torch.device) -> DeviceLists | None:
        """``None`` where the CPU is as fast: on a CPU, for small cells; and where a cell is open."""
        large = all(len(atoms) >= LEAST_ATOMS and atoms.pbc.all() for atoms in structures)
        return cls() if large and device.type in DEVICES else None

    def __call__(
        self, positions: Tensor, points: np.ndarray, cell: np.ndarray, cutoff: float
    ) -> tuple[Tensor, Tensor] | None:
        """Edges (2, E), int64, sorted by centre, and cell shifts (E, 3), int32; ``None``: the CPU has to make them.

        ``positions`` (N, 3), float64, Å, on the device, are ``points`` on the host; ``cell`` (3, 3), ``cutoff``: in Å.

        Raises
        ------
        StructureError
            As :func:`neighbour_list`.
        """
        if self.failed or cutoff < MIN_CUTOFF:
            return None
        periodic = np.ones(3, dtype=bool)
        refuse_impossible(points, np.asarray(cell, dtype=np.float64), periodic, cutoff)
        try:
            found = _vesin(positions, torch.as_tensor(cell, dtype=torch.float64, device=positions.device), cutoff)
        except Exception as error:  # libraries that are loaded and compiled when they are first used fail in any way
            self._give_up(" ".join(str(error).split())[:200] or type(error).__name__)
            return None
        if not self.compared and not _equal(found, points, cell, cutoff):
            self._give_up("the first one is not the CPU's")
            return None
        self.compared = True
        return found

    def _give_up(self, why: str) -> None:
        self.failed = True
        warnings.warn(f"neighbour lists are made on the CPU, not on the GPU: {why}", stacklevel=4)


def _vesin(positions: Tensor, cell: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
    lists = NeighborList(cutoff=cutoff, full_list=True, sorted=False)
    pairs, shifts = lists.compute(points=positions, box=cell, periodic=[True] * 3, quantities="PS")
    if positions.device.type == "cuda":
        torch.cuda.synchronize(positions.device)  # vesin's copies are not in PyTorch's stream
    pairs = pairs.view(torch.int64)  # PyTorch sorts no unsigned numbers
    order = torch.argsort(pairs[:, 0], stable=True)
    return pairs.index_select(0, order).T.contiguous(), shifts.index_select(0, order)


def _equal(found: tuple[Tensor, Tensor], points: np.ndarray, cell: np.ndarray, cutoff: float) -> bool:
    """Whether these are the edges of the CPU's list, each once, but for some at the very cutoff."""
    index, shifts = (x.cpu().numpy() for x in found)
    known_index, known_shifts = neighbour_list(points, cell, np.ones(3, dtype=bool), cutoff)
    rows, known = (np.concatenate(x).T.astype(np.int64) for x in ((index, shifts.T), (known_index, known_shifts.T)))
    unique, counts = np.unique(np.concatenate([rows, known]), axis=0, return_counts=True)
    if len(np.unique(rows, axis=0)) < len(rows) or np.any(np.diff(index[0]) < 0):
        return False
    of_one = unique[counts == 1]
    vectors = points[of_one[:, 1]] - points[of_one[:, 0]] + of_one[:, 2:] @ cell
    return bool((np.abs(np.linalg.norm(vectors, axis=1) - cutoff) < ROUNDING).all())
