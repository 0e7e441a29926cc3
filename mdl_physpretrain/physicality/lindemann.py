"""Lindemann indices, accumulated while a trajectory goes by.

The local index of atom ``i`` is the mean over the other ``N - 1`` atoms of the
relative fluctuation of the distance to it, the global index the mean over
atoms::

    q_i = 1/(N-1) sum_{j != i} sqrt(<r_ij^2> - <r_ij>^2) / <r_ij>

This is the literature's index (R. S. Berry, T. L. Beck, H. L. Davis and
J. Jellinek, Adv. Chem. Phys. 70, 75 (1988)) and the default. The paper prints
it without the square root: variant ``"printed"``.

In a periodic cell the distance has to follow one image of the neighbour, or an
atom that wanders half a cell would look like noise: the image is the closest
one *of the first frame*, and positions are unwrapped from then on. Where two
images are equally close (atoms half a cell apart), the one with the smaller
shift is taken, so the result does not depend on rounding. When the cell
changes (NPT), the image's shift is taken with the cell of the frame. A
one-atom cell has no other atom and index 0 by convention.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from mdl_physpretrain.batch import complete_cell

__all__ = ["VARIANTS", "LindemannAccumulator", "minimum_image_shifts"]

VARIANTS = ("literature", "printed")
TIE = 1e-4  # Å: images closer to each other than this are equally close
CHUNK = 20_000  # vectors looked at together
BLOCK = 16_384  # pairs updated together on a CPU: larger temporaries fall out of its caches


def minimum_image_shifts(vectors: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Cell shifts that make vectors as short as possible, in any cell.

    Parameters
    ----------
    vectors
        Shape (P, 3), Å.
    cell, pbc
        Shapes (3, 3), (3,).

    Returns
    -------
    ndarray
        Integers, shape (P, 3): ``vectors + shifts @ cell`` are the minimum
        images. Among equally short ones (within 1e-4 Å) the first in
        lexicographic order of the shift.
    """
    from ase.geometry.minkowski_reduction import minkowski_reduce

    pbc = np.asarray(pbc, dtype=bool)
    result = np.zeros(vectors.shape, dtype=np.int64)
    if not pbc.any():
        return result
    # only the periodic vectors count; a tilted vacuum direction would spoil the fractional coordinates
    box = complete_cell(np.where(pbc[:, None], np.asarray(cell, dtype=np.float64), 0.0), pbc)
    reduced, operation = minkowski_reduce(box, pbc)
    # in a Minkowski-reduced cell the shortest image is among the nearest neighbours of the wrapped vector
    around = np.array(list(itertools.product(*[(-1, 0, 1) if periodic else (0,) for periodic in pbc])))
    inverse = np.linalg.inv(reduced)
    for start in range(0, len(vectors), CHUNK):
        part = vectors[start : start + CHUNK]
        wrapped = -np.floor(part @ inverse + 0.5) * pbc
        candidates = wrapped[:, None] + around
        lengths = np.linalg.norm(part[:, None] + candidates @ reduced, axis=2)
        shifts = np.rint(candidates @ operation).astype(np.int64)
        order = (shifts[..., 0] * 2**20 + shifts[..., 1]) * 2**20 + shifts[..., 2]
        order[lengths > lengths.min(axis=1, keepdims=True) + TIE] = np.iinfo(np.int64).max
        result[start : start + CHUNK] = np.take_along_axis(shifts, order.argmin(axis=1)[:, None, None], axis=1)[:, 0]
    return result


class LindemannAccumulator:
    """Mean and variance of all pair distances of several structures at once.

    Welford's update in float64: numerically stable, and memory of two numbers
    per pair of atoms whatever the length of the trajectory.

    Parameters
    ----------
    structures
        First frames (not yet counted); they fix the periodic images.
    device
        Where positions will come from.

    Attributes
    ----------
    frames
        Number of frames counted so far.
    """

    def __init__(self, structures: Sequence[Atoms], device: torch.device | str = "cpu") -> None:
        first, second, shifts, owner = [], [], [], []
        offset = 0
        for k, atoms in enumerate(structures):
            i, j = np.triu_indices(len(atoms), k=1)
            positions = atoms.positions
            shifts.append(minimum_image_shifts(positions[j] - positions[i], atoms.cell.array, atoms.pbc))
            first.append(i + offset)
            second.append(j + offset)
            owner.append(np.full(len(i), k))
            offset += len(atoms)
        self.first = torch.as_tensor(np.concatenate(first), device=device)
        self.second = torch.as_tensor(np.concatenate(second), device=device)
        self.owner = torch.as_tensor(np.concatenate(owner), device=device)
        self.shifts = torch.as_tensor(np.concatenate(shifts), dtype=torch.float64, device=device)
        self.n_atoms = torch.tensor([len(a) for a in structures], device=device)
        self.structure = torch.repeat_interleave(torch.arange(len(structures), device=device), self.n_atoms)
        self.mean = torch.zeros(len(self.first), dtype=torch.float64, device=device)
        self.squares = torch.zeros_like(self.mean)  # sum of squared deviations from the mean
        self.frames = 0
        self._cells: Tensor | None = None
        self._shift_vectors = torch.zeros_like(self.shifts)
        self._blocks: list[tuple[Tensor, ...]] = []

    def add(self, positions: Tensor, cells: Tensor) -> None:
        """Count one frame of every structure.

        Parameters
        ----------
        positions
            Unwrapped, shape (N, 3), float64, Å.
        cells
            Shape (B, 3, 3), float64, Å. Pass the same tensor object while the
            cells do not change.
        """
        if cells is not self._cells:
            self._cells = cells
            self._shift_vectors = torch.bmm(self.shifts.unsqueeze(1), cells.index_select(0, self.owner)).squeeze(1)
            self._blocks = self._split()
        self.frames += 1
        for first, second, shift, mean, squares in self._blocks:
            x, y, z = positions.index_select(0, second).sub_(positions.index_select(0, first)).add_(shift).unbind(1)
            r = torch.mul(x, x).addcmul_(y, y).addcmul_(z, z).sqrt_()
            deviation = r - mean
            mean.add_(deviation, alpha=1.0 / self.frames)
            squares.addcmul_(deviation, r.sub_(mean))

    def _split(self) -> list[tuple[Tensor, ...]]:
        """Views of all that a frame needs, a block of pairs at a time."""
        block = BLOCK if self.mean.device.type == "cpu" else max(len(self.mean), 1)
        columns = (self.first, self.second, self._shift_vectors, self.mean, self.squares)
        return list(zip(*(c.split(block) for c in columns), strict=True))

    def local(self, variant: str = "literature") -> Tensor:
        """Local index of every atom, shape (N,); zero before the second frame."""
        variance = self.squares / max(self.frames, 1)
        spread = variance.sqrt() if variant == "literature" else variance
        terms = torch.where(self.mean > 0, spread / self.mean, torch.zeros_like(spread))
        total = torch.zeros(len(self.structure), dtype=torch.float64, device=terms.device)
        total.index_add_(0, self.first, terms).index_add_(0, self.second, terms)
        return total / (self.n_atoms - 1).clamp_min(1).index_select(0, self.structure)

    def summary(self, variant: str = "literature") -> tuple[Tensor, Tensor]:
        """Largest local and the global index of every structure, shapes (B,)."""
        local = self.local(variant)
        zeros = torch.zeros(len(self.n_atoms), dtype=torch.float64, device=local.device)
        largest = zeros.scatter_reduce(0, self.structure, local, "amax")
        return largest, zeros.index_add(0, self.structure, local) / self.n_atoms

    def keep(self, structures: Tensor) -> None:
        """Forget structures; ``structures`` is a mask of shape (B,) of those that stay."""
        new_index = torch.cumsum(structures, 0) - 1
        atoms = structures[self.structure]
        new_atom = torch.cumsum(atoms, 0) - 1
        pairs = structures[self.owner]
        self.first, self.second = new_atom[self.first[pairs]], new_atom[self.second[pairs]]
        self.owner = new_index[self.owner[pairs]]
        self.shifts, self.mean, self.squares = self.shifts[pairs], self.mean[pairs], self.squares[pairs]
        self.structure = new_index[self.structure[atoms]]
        self.n_atoms = self.n_atoms[structures]
        self._cells = None
