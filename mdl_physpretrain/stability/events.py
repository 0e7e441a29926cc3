"""The events of running trajectories so far, and what a frame is held against to see one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

__all__ = ["Events"]

OF_STRUCTURES = (
    "n_atoms", "threshold", "threshold_squared", "smallest_squared", "overlap_squared", "first_energy", "cause",
)  # fmt: skip


@dataclass
class Events:
    """Events of ``B`` trajectories of ``N`` atoms together.

    Attributes
    ----------
    radius
        Covalent radii in Å, shape (N,).
    n_atoms
        Of every structure, shape (B,).
    threshold, threshold_squared
        Distance that is an overlap by the first frame, Å, and its square, shape (B,); zero where nothing can overlap.
    smallest_squared, closest
        Square of the smallest distance so far, Å², shape (B,), and the two atoms, shape (2, B).
    overlap_squared, overlapping
        The same of the first pair that overlapped: NaN and -1 without.
    first_energy
        In eV, shape (B,); NaN before it is known.
    cause
        Of the explosion, a number of ``monitor_kernel.CAUSES``, shape (B,).
    steps
        First step of each of ``monitor_kernel.EVENTS``, shape (5, B); -1 for none.
    numbers
        Limits: temperature (K), change of the energy (eV per atom), square of the force (eV²/Å²), the shares of the
        covalent radii at which atoms overlap and can overlap; last whether the energy of the frame is known.
    stop_on
        Events that end a trajectory.
    paper
        Whether those of the paper's verdict do.
    """

    radius: Tensor
    n_atoms: Tensor
    threshold: Tensor
    threshold_squared: Tensor
    smallest_squared: Tensor
    closest: Tensor
    overlap_squared: Tensor
    overlapping: Tensor
    first_energy: Tensor
    cause: Tensor
    steps: Tensor
    numbers: np.ndarray
    stop_on: frozenset[str]
    paper: bool

    def keep(self, structures: Tensor, atoms: Tensor, moved: Tensor) -> None:
        """Drop structures; masks (B,) and (N,) of what stays, and by how much the numbers of their atoms change."""
        for name in OF_STRUCTURES:
            setattr(self, name, getattr(self, name)[structures])
        self.radius, self.steps = self.radius[atoms], self.steps[:, structures]
        self.closest, self.overlapping = self.closest[:, structures] + moved, self.overlapping[:, structures] + moved
