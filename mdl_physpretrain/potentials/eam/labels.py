"""Labels of many structures by the EAM's machine code, and its neighbour lists."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from ase import Atoms
from vesin import NeighborList

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.graphs.neighbour_lists import refuse_impossible
from mdl_physpretrain.potentials.eam.parameters import SWITCH_START, parameter_tables
from mdl_physpretrain.potentials.eam.structure_kernel import EDGE_FLOATS, evaluate, evaluate_all, half_list
from mdl_physpretrain.structures.labels import Labels

__all__ = ["EAMKernel"]

MAX_ATOMS = 500  # beyond this a cell list beats the search over all pairs
CHUNK_STRUCTURES = 8  # labelled by one thread at a time
CHUNK_ATOMS = 1000


class EAMKernel:
    """Fast labels of many structures by an EAM.

    Parameters
    ----------
    cutoff
        Interaction range in Å.
    element_of
        Number of the element by atomic number, shape (119,); -1 for those that the potential does not know.
    pair_of
        Number of the pair by its two elements, shape (n_elements, n_elements).
    core
        What :func:`~mdl_physpretrain.potentials.zbl_kernel.zbl` takes by pair, shape (n_pairs, 4).
    parameters
        By name, see :meth:`set_parameters`.
    """

    def __init__(
        self,
        cutoff: float,
        element_of: np.ndarray,
        pair_of: np.ndarray,
        core: np.ndarray,
        parameters: Mapping[str, np.ndarray],
    ) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self.cutoff, self.element_of = cutoff, element_of
        self.n_elements = n = len(pair_of)
        # the kernel numbers pairs (0, 0), (0, 1), ..., (1, 1), ...
        kinds = [(a, b) for a in range(n) for b in range(a, n)]
        self.pair_number = pair_of[tuple(np.array(kinds).T)]
        self.kind_of = np.zeros((n, n), dtype=np.int64)
        for k, (a, b) in enumerate(kinds):
            self.kind_of[a, b] = self.kind_of[b, a] = k
        self._core = core
        self.set_parameters(parameters)

    def set_parameters(self, values: Mapping[str, np.ndarray]) -> None:
        """Copy the parameters of the EAM, by name, in double precision."""
        by_pair, self._element = parameter_tables(values, self._core)
        self._pair = tuple(table[self.pair_number] for table in by_pair)

    def parameters(self) -> tuple[Any, ...]:
        """The kernel's ``potential``: tables by pair and by element, ends of the switch."""
        return self._pair, self._element, self.cutoff, SWITCH_START * self.cutoff

    def stream(self, structures: Iterable[Atoms], threads: int) -> Iterator[list[tuple[Atoms, Labels | None]]]:
        """Yield structures with labels in order, some at a time; the labels do not depend on the number of threads.

        ``None`` stands for what the reference must look at, or refuse, such as NaN positions or impossible cells;
        there is no stress where there is no volume.
        """
        chunks = _chunks(structures)
        if threads == 1:
            yield from map(self._chunk, chunks)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(threads, "eam")
        ahead: deque[Future[list[tuple[Atoms, Labels | None]]]] = deque()
        try:
            for chunk in chunks:
                ahead.append(self._pool.submit(self._chunk, chunk))
                if len(ahead) > 2 * threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()

    def _chunk(self, structures: list[Atoms]) -> list[tuple[Atoms, Labels | None]]:
        cells = [self.cell(atoms) for atoms in structures]
        labels: list[Labels | None] = [None] * len(structures)
        small = [k for k, a in enumerate(structures) if cells[k] is not None and len(a) <= MAX_ATOMS]
        if small:
            results = self._small([structures[k] for k in small], np.array([cells[k] for k in small]))
            for k, result in zip(small, results, strict=True):
                labels[k] = result
        for k, (atoms, cell) in enumerate(zip(structures, cells, strict=True)):
            if cell is not None and len(atoms) > MAX_ATOMS:
                labels[k] = self._large(atoms, cell)
        return list(zip(structures, labels, strict=True))

    def cell(self, atoms: Atoms) -> np.ndarray | None:
        """A cell with a volume, or ``None`` for a structure that is not for the kernel."""
        positions, cell, pbc = atoms.positions, atoms.cell.array, atoms.pbc
        usual = len(atoms) > 0 and self.element_of[atoms.numbers].min() >= 0
        try:
            box = refuse_impossible(positions, cell, pbc, self.cutoff) if usual else None
        except StructureError:
            return None
        return np.eye(3) if usual and not pbc.any() else box

    def _small(self, structures: list[Atoms], cells: np.ndarray) -> list[Labels]:
        starts = np.concatenate([[0], np.cumsum([len(a) for a in structures])])
        energies, forces = np.empty(len(structures)), np.empty((starts[-1], 3))
        virials, periodic = np.empty((len(structures), 3, 3)), np.array([a.pbc for a in structures])
        positions = np.concatenate([a.positions for a in structures])
        element = self.element_of[np.concatenate([a.numbers for a in structures])]
        evaluate_all(starts, positions, element, cells, periodic, self.parameters(), energies, forces, virials)
        results = zip(structures, energies.tolist(), itertools.pairwise(starts), virials, strict=True)
        return [_labels(atoms, energy, forces[slice(*ends)].copy(), virial) for atoms, energy, ends, virial in results]

    def _large(self, atoms: Atoms, cell: np.ndarray) -> Labels:
        edges, vectors, segments = self.pairs(atoms, cell)
        work, excess = np.empty((EDGE_FLOATS, edges.shape[1])), np.empty(len(atoms))
        forces, virial = np.empty((len(atoms), 3)), np.empty((3, 3))
        element, kinds = self.element_of[atoms.numbers], np.arange(len(self._core))
        energy = evaluate(element, edges, vectors, segments, kinds, work, self.parameters(), excess, forces, virial)
        return _labels(atoms, energy, forces, virial)

    def pairs(self, atoms: Atoms, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Edges (2, E), vectors (3, E), segments (kinds + 1,) of a structure in its :meth:`cell`, see ``half_list``."""
        element = self.element_of[atoms.numbers]
        if len(atoms) > MAX_ATOMS:
            i, j, r = NeighborList(cutoff=self.cutoff, full_list=False, sorted=False, n_threads=1).compute(
                points=np.ascontiguousarray(atoms.positions), box=cell, periodic=atoms.pbc.tolist(), quantities="ijD"
            )
            kind = self.kind_of[element[i], element[j]]
            order = np.argsort(kind, kind="stable")
            segments = np.concatenate([[0], np.cumsum(np.bincount(kind, minlength=len(self._core)))])
            return np.stack([i[order], j[order]]).astype(np.int32), np.ascontiguousarray(r[order].T), segments

        segments = np.zeros(len(self._core) + 1, dtype=np.int64)
        room, count = 4096, 4097
        while count > room:
            room = max(count, room)
            edges, vectors = np.empty((2, room), dtype=np.int32), np.empty((3, room))
            count = half_list(
                atoms.positions, element, self.n_elements, cell, atoms.pbc, self.cutoff, edges, vectors, segments
            )
        return edges[:, :count], vectors[:, :count], segments


def _labels(atoms: Atoms, energy: float, forces: np.ndarray, virial: np.ndarray) -> Labels:
    volume = abs(_volume(atoms.cell.array))
    return Labels(float(energy), forces, virial / volume if volume > 1e-9 else None)


def _volume(cell: np.ndarray) -> float:
    (a, b, c), (d, e, f), (g, h, i) = cell.tolist()
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


def _chunks(structures: Iterable[Atoms]) -> Iterator[list[Atoms]]:
    chunk: list[Atoms] = []
    size = 0
    for atoms in structures:
        chunk.append(atoms)
        size += len(atoms)
        if len(chunk) >= CHUNK_STRUCTURES or size >= CHUNK_ATOMS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
