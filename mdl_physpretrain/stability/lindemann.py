"""Lindemann indices of running trajectories.

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

The number of pairs grows with the square of the atoms. Above 1,000 atoms each
atom is therefore compared with 128 others instead of all: the mean over them is
an unbiased estimate of ``q_i``. Which ones is drawn once, without regard to
distance, from the number of atoms alone, so that repeated runs and other
potentials see the same pairs. In a solid the terms spread around their mean by
about 0.6 of it (they fall off with the distance), so ``q_i`` is known to some
5 % of itself and the global index much better. The largest of 50,000 local indices
comes out some 30 % too high, because a few atoms are compared with more near
neighbours than others; 60 % in a slab, and several times in a wire, where the
local index should not be judged above 1,000 atoms.

For the verdict the same pairs are summed by the elements of the partners, those
that no bond holds together left out (:mod:`~mdl_physpretrain.stability.contacts`,
:mod:`~mdl_physpretrain.stability.sublattices`), and so are the squares of the
relative deviations of their distances from those of the first frame: a crystal
that turned into a glass fluctuates as little as before.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms
from ase.geometry.minkowski_reduction import minkowski_reduce
from torch import Tensor

from mdl_physpretrain.graphs.neighbour_lists import complete_cell
from mdl_physpretrain.stability.contacts import bound_pairs
from mdl_physpretrain.stability.monitor_kernel import (
    add_by_element,
    add_fluctuations,
    count_frame,
    image_shifts,
    of_structures,
    pair_terms,
)

__all__ = ["LindemannAccumulator", "compared_pairs", "minimum_image_shifts"]

TIE = 1e-4  # Å: images closer to each other than this are equally close
CHUNK = 1_000_000  # vectors looked at together
ALL_PAIRS = 1_000  # atoms up to which all pairs are compared
TOGETHER = 20_000_000  # distances of several frames that are computed at once on a GPU, 0.6 GB
PARTNERS = 128  # of an atom of larger structures; even


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
    pbc = np.asarray(pbc, dtype=bool)
    result = np.zeros(vectors.shape, dtype=np.int64)
    if not pbc.any():
        return result
    # only the periodic vectors count; a tilted vacuum direction would spoil the fractional coordinates
    box = complete_cell(np.where(pbc[:, None], np.asarray(cell, dtype=np.float64), 0.0), pbc)
    reduced, operation = minkowski_reduce(box, pbc)
    # in a Minkowski-reduced cell the shortest image is among the nearest neighbours of the wrapped vector,
    # and no vector of the lattice is shorter than the shortest of the cell
    around = np.array(list(itertools.product(*[(-1, 0, 1) if periodic else (0,) for periodic in pbc])))
    surely = (np.linalg.norm(reduced[pbc], axis=1).min() - TIE) / 2
    inverse, operation = np.linalg.inv(reduced), np.ascontiguousarray(operation, dtype=np.int64)
    vectors = np.ascontiguousarray(vectors, dtype=np.float64)
    image_shifts(vectors, np.ascontiguousarray(reduced), inverse, operation, pbc, around, surely, TIE, result)
    return result


def compared_pairs(n_atoms: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of atoms whose distances count, shape (P,) each.

    All of them, or above :data:`ALL_PAIRS` atoms each atom with
    :data:`PARTNERS` others: the atoms in a random order, closed to a ring,
    each with those that follow it.
    """
    if n_atoms <= ALL_PAIRS:
        first, second = np.triu_indices(n_atoms, k=1)
        return first, second
    ring = np.random.default_rng(n_atoms).permutation(n_atoms)
    rank = np.empty_like(ring)
    rank[ring] = np.arange(n_atoms)
    ahead = rank[:, None] + np.arange(1, PARTNERS // 2 + 1)
    return np.repeat(np.arange(n_atoms), PARTNERS // 2), ring[ahead % n_atoms].ravel()


class LindemannAccumulator:
    """Mean and variance of the pair distances of several structures at once.

    Welford's update in float64: numerically stable, and memory of 33 bytes per
    pair (see :func:`compared_pairs`) whatever the length of the trajectory.

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
        self.device = torch.device(device)
        first, second, image, shifts, owner, partners, bound, elements = [], [], [], [], [], [], [], []
        atoms_before = images_before = 0
        for k, atoms in enumerate(structures):
            i, j = compared_pairs(len(atoms))
            partners.append(2 * len(i) / len(atoms))
            distinct, image_of_pair = _distinct_shifts(atoms, i, j)
            bound.append(bound_pairs(atoms, i, j))
            elements.append(np.unique(atoms.numbers, return_inverse=True)[1])
            first.append((i + atoms_before).astype(np.int32))
            second.append((j + atoms_before).astype(np.int32))
            image.append((image_of_pair + images_before).astype(np.int32))
            shifts.append(distinct)
            owner.append(np.full(len(distinct), k))
            atoms_before += len(atoms)
            images_before += len(distinct)

        def tensor(parts: list[np.ndarray]) -> Tensor:
            return torch.as_tensor(np.concatenate(parts), device=self.device)

        self.first, self.second, self.image = tensor(first), tensor(second), tensor(image)
        self.shifts, self.owner = tensor(shifts).double(), tensor(owner)  # of the images
        self.n_atoms = torch.tensor([len(a) for a in structures], device=self.device)
        self.structure = torch.repeat_interleave(torch.arange(len(structures), device=self.device), self.n_atoms)
        of_structure = torch.tensor(partners, dtype=torch.float64, device=self.device).clamp_min(1)
        self.partners = of_structure[self.structure]  # of each atom
        self.bound, self.element = tensor(bound), tensor(elements)
        self.n_elements = int(self.element.max()) + 1
        self.start = torch.zeros(len(self.first), dtype=torch.float32, device=self.device)  # Å: the first distances
        self.mean = torch.zeros(len(self.first), dtype=torch.float64, device=self.device)
        self.squares = torch.zeros_like(self.mean)  # sum of squared deviations from the mean
        self.frames = 0
        self._cells: Tensor | None = None
        self._shift_vectors = torch.zeros_like(self.shifts)
        self._arrays: list[np.ndarray] = []

    @property
    def compiled(self) -> bool:
        """Whether the work is done by machine code; the tests turn it off."""
        return self.device.type == "cpu"

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
            self._shift_vectors = self._image_vectors(cells)
            self._arrays = [x.numpy() for x in self._of_pairs()] if self.compiled else []
        self.frames += 1
        if self.compiled:
            first, second, image, shifts, mean, squares = self._arrays
            count_frame(positions.numpy(), first, second, image, shifts, self.frames, mean, squares)
        else:
            self._count(positions)
        if self.frames == 1:
            self.start = self.mean.float()

    def _of_pairs(self) -> tuple[Tensor, ...]:
        return self.first, self.second, self.image, self._shift_vectors, self.mean, self.squares

    def _distances(self, positions: Tensor) -> Tensor:
        vectors = positions.index_select(0, self.second).sub_(positions.index_select(0, self.first))
        x, y, z = vectors.add_(self._shift_vectors.index_select(0, self.image)).unbind(1)
        return torch.mul(x, x).addcmul_(y, y).addcmul_(z, z).sqrt_()

    def _count(self, positions: Tensor) -> None:
        """What :func:`count_frame` does."""
        r = self._distances(positions)
        deviation = r - self.mean
        self.mean.add_(deviation, alpha=1.0 / self.frames)
        self.squares.addcmul_(deviation, r.sub_(self.mean))

    def add_frames(self, positions: Tensor, cells: Sequence[Tensor]) -> None:
        """Count several frames, not the first: positions (F, N, 3), and the cells (B, 3, 3) of each.

        As :meth:`add` of one after the other, but for the last digits: mean and variance of the frames are joined with
        those of before (T. F. Chan, G. H. Golub and R. J. LeVeque, Am. Stat. 37, 242 (1983)).
        """
        rows = max(1, TOGETHER // max(len(self.first), 1))
        for part, its_cells in zip(positions.split(rows), _parts(cells, rows), strict=True):
            vectors = part.index_select(1, self.second).sub_(part.index_select(1, self.first))
            if its_cells[0] is not its_cells[-1] or its_cells[0] is not self._cells:
                images = torch.stack([self._image_vectors(x) for x in its_cells])
                vectors += images.index_select(1, self.image)
            else:
                vectors += self._shift_vectors.index_select(0, self.image)
            r = torch.linalg.vector_norm(vectors, dim=2)
            many, before = len(r), self.frames
            self.frames = before + many
            mean = r.mean(0)
            apart = mean - self.mean
            spread = r.sub_(mean).square_().sum(0)
            self.mean = torch.add(self.mean, apart, alpha=many / self.frames)
            self.squares = self.squares + spread.addcmul_(apart, apart, value=before * many / self.frames)
        if cells[-1] is not self._cells:
            self._cells, self._shift_vectors = cells[-1], self._image_vectors(cells[-1])

    def _image_vectors(self, cells: Tensor) -> Tensor:
        """Vectors of the shifts of the images in these cells, shape (S, 3), Å."""
        return torch.bmm(self.shifts.unsqueeze(1), cells.index_select(0, self.owner)).squeeze(1)

    def local(self, variant: str = "literature") -> Tensor:
        """Local index of every atom, shape (N,); zero before the second frame."""
        total = torch.zeros(len(self.structure), dtype=torch.float64, device=self.device)
        frames, root = max(self.frames, 1), variant != "printed"
        if self.compiled:
            pairs = (self.first.numpy(), self.second.numpy())
            add_fluctuations(*pairs, frames, self.mean.numpy(), self.squares.numpy(), root, total.numpy())
        else:
            variance = self.squares / frames
            spread = variance.sqrt() if root else variance
            terms = torch.where(self.mean > 0, spread / self.mean, torch.zeros_like(spread))
            total.index_add_(0, self.first, terms).index_add_(0, self.second, terms)
        return total / self.partners

    def by_element(self, positions: Tensor | None = None) -> Tensor:
        """Sums over the partners of each element, shape (N, G).

        Of the relative fluctuations of the distances of bound pairs, or, with
        the positions of the last frame counted, of the squares of their
        relative deviations from the first frame.
        """
        if positions is None:
            root = (self.squares / max(self.frames, 1)).sqrt_()
            terms = torch.where((self.mean > 0) & self.bound, root / self.mean, torch.zeros_like(root))
        elif self.compiled:
            first, second, image, shifts, _, _ = self._arrays
            terms = torch.empty(len(self.first), dtype=torch.float64)
            pair_terms(positions.numpy(), first, second, image, shifts, self.start.numpy(), self.bound.numpy(),
                       terms.numpy())  # fmt: skip
        else:
            r, start = self._distances(positions), self.start.double()
            terms = torch.where((start > 0) & self.bound, (r - start).div_(start).square_(), torch.zeros_like(r))
        return self._summed(terms)

    def compared(self) -> Tensor:
        """Number of bound partners of each element, shape (N, G)."""
        return self._summed(self.bound.double())

    def _summed(self, terms: Tensor) -> Tensor:
        total = torch.zeros(len(self.structure), self.n_elements, dtype=torch.float64, device=self.device)
        if self.compiled:
            arrays = (x.numpy() for x in (self.first, self.second, self.element, terms, total))
            add_by_element(*arrays)
            return total
        first, second = self.first.long(), self.second.long()
        flat = total.view(-1)
        flat.index_add_(0, first * self.n_elements + self.element[second], terms)
        flat.index_add_(0, second * self.n_elements + self.element[first], terms)
        return total

    def summary(self, variant: str = "literature") -> tuple[Tensor, Tensor]:
        """Largest local and the global index of every structure, shapes (B,)."""
        local = self.local(variant)
        zeros = torch.zeros(len(self.n_atoms), dtype=torch.float64, device=local.device)
        if self.compiled:
            largest, total = zeros, torch.zeros_like(zeros)
            of_structures(local.numpy(), self.structure.numpy(), largest.numpy(), total.numpy())
            return largest, total / self.n_atoms
        largest = zeros.scatter_reduce(0, self.structure, local, "amax")
        return largest, zeros.index_add(0, self.structure, local) / self.n_atoms

    def keep(self, structures: Tensor) -> None:
        """Forget structures; ``structures`` is a mask of shape (B,) of those that stay."""
        new_index = torch.cumsum(structures, 0) - 1
        atoms, images = structures[self.structure], structures[self.owner]
        pairs = atoms[self.first.long()]
        self.first, self.second = _renumbered(self.first[pairs], atoms), _renumbered(self.second[pairs], atoms)
        self.image = _renumbered(self.image[pairs], images)
        self.mean, self.squares = self.mean[pairs], self.squares[pairs]
        self.start, self.bound, self.element = self.start[pairs], self.bound[pairs], self.element[atoms]
        self.shifts, self.owner = self.shifts[images], new_index[self.owner[images]]
        self.structure = new_index[self.structure[atoms]]
        self.n_atoms, self.partners = self.n_atoms[structures], self.partners[atoms]
        self._cells = None


def _parts(items: Sequence[Tensor], size: int) -> list[Sequence[Tensor]]:
    return [items[k : k + size] for k in range(0, len(items), size)]


def _distinct_shifts(atoms: Atoms, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cell shifts that occur, shape (S, 3), and which one is that of each pair, shape (P,)."""
    shifts = np.empty((len(first), 3), dtype=np.int32)
    for start in range(0, len(first), CHUNK):
        part = slice(start, start + CHUNK)
        vectors = atoms.positions[second[part]] - atoms.positions[first[part]]
        shifts[part] = minimum_image_shifts(vectors, atoms.cell.array, atoms.pbc)
    lowest = shifts.min(axis=0, initial=0).astype(np.int64)
    _, n2, n3 = shifts.max(axis=0, initial=0) - lowest + 1
    code = ((shifts[:, 0] - lowest[0]) * n2 + shifts[:, 1] - lowest[1]) * n3 + shifts[:, 2] - lowest[2]
    codes, image_of_pair = np.unique(code, return_inverse=True)
    return np.stack([codes // (n2 * n3), codes // n3 % n2, codes % n3], axis=1) + lowest, image_of_pair


def _renumbered(index: Tensor, stay: Tensor) -> Tensor:
    """Indices among what stays (a mask) of indices among all."""
    return (torch.cumsum(stay, 0) - 1)[index.long()].to(index.dtype)
