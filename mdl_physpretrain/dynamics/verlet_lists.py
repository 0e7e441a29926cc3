"""Forces of many structures during MD, with a Verlet list per structure.

The neighbour list of a structure reaches further than the model by a *skin*
and stays valid until its atoms have moved half of that. When the cell scales
by ``s`` (NPT), a pair that was outside the list at ``reach + skin`` is now at
least ``s (reach + skin) - 2 d`` apart, ``d`` being the largest displacement
beyond the scaling; the list is valid while that is above ``reach``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from mdl_physpretrain.dynamics.state import MDState
from mdl_physpretrain.dynamics.step_kernel import displacements, square_edges, take_edges
from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.graphs.batch import AtomicBatch, build_batch
from mdl_physpretrain.graphs.device_lists import DeviceLists
from mdl_physpretrain.graphs.edge_kernel import add_forces, edge_vectors
from mdl_physpretrain.graphs.neighbour_lists import neighbour_list
from mdl_physpretrain.potentials.base import EnergyModel, Prediction, predict
from mdl_physpretrain.stability.monitor import BROKEN_NAN, BROKEN_RUNAWAY

__all__ = ["VerletListForces"]

FAR = 1e6  # Å: an atom out there has left for good
ALL_EDGES = 1_000_000  # edges up to which a GPU computes with the whole list: sorting out would make the host wait


@dataclass
class EdgeBatch(AtomicBatch):
    """A batch whose edge vectors are known already (from float64 positions)."""

    vectors: Tensor | None = None

    def edge_vectors(self) -> Tensor:
        assert self.vectors is not None
        return self.vectors


@dataclass
class PairList:
    """Neighbour list of one structure."""

    edge_index: Tensor  # (2, E); all on the CPU, or those of all structures on the GPU
    shifts: Tensor  # of cells, in the model's dtype, (E, 3)
    shift_vectors: Tensor  # ``shifts @ cell`` when the list was built, (E, 3), Å
    near: Tensor  # edges among which overlaps are looked for


class VerletListForces:
    """Energies, forces and, where the cell can change, stress of an :class:`MDState`, in the model's dtype.

    :meth:`near_pairs` holds all pairs up to ``near`` (B,), Å, and so does the list, which reaches at least to the
    model's cutoff; ``skin`` in Å. While ``margins`` is a list nobody waits for the device to say whether pairs are
    missing: every evaluation appends how far structures (B,) moved beyond what is allowed, Å, positive or NaN if they
    did. With ``fixed_cell`` no stress is computed: it would cost as much as the forces of an EAM, and no integrator
    reads it. Beyond a factor ``volume_change`` no list is built any more. ``edge_index`` (2, E) and ``edge_squared``
    (E,), Å², float64, are the whole lists of the last evaluation; the next one overwrites them.
    """

    def __init__(
        self,
        model: EnergyModel,
        structures: Sequence[Atoms],
        *,
        near: np.ndarray,
        skin: float,
        fixed_cell: bool,
        volume_change: float = 10.0,
    ) -> None:
        self.model, self.skin, self.volume_change = model, skin, volume_change
        self.fixed_cell = fixed_cell
        self.device = model.device
        near = np.where(np.isfinite(near), near, 0.0)
        self.near = torch.as_tensor(near, dtype=torch.float64, device=self.device)
        self.reach = self.near.clamp_min(model.cutoff)
        self.pbc = torch.as_tensor(np.stack([a.pbc for a in structures]), device=self.device)
        self.numbers = torch.as_tensor(np.concatenate([a.numbers for a in structures]), device=self.device).long()
        self.counts = [len(a) for a in structures]
        self.first_det = torch.linalg.det(torch.as_tensor(np.stack([a.cell.array for a in structures])))
        self.first_det = self.first_det.to(self.device)
        self.lists: list[PairList] = [PairList(*[torch.zeros(0)] * 4)] * len(structures)
        self.device_lists = DeviceLists.of(structures, self.device)
        self.rebuilds = 0
        self.reference = torch.zeros(0)  # positions and cells at which each list was built
        self.reference_cells = torch.zeros(0)
        self._det_of = self._reference_det = self._in_dtype_of = self._cells_in_dtype = torch.zeros(0)
        self.margins: list[Tensor] | None = None
        self._cells: Tensor | None = None  # cells the shift vectors belong to
        self._edge_structure: Tensor | None = None
        self._near_squared: Tensor | None = None
        self._on_host: tuple[np.ndarray, ...] | None = None  # pbc, reach and near
        self._buffers: dict[str, Tensor] = {}
        self._template: EdgeBatch

    def __call__(self, state: MDState) -> Prediction:
        """Evaluate in float64 precision of the vectors, the model's of the rest.

        A structure that cannot be evaluated is marked in ``state.broken``
        and put back to where its list was built. The stress is NaN where
        cells are fixed.
        """
        self._update_lists(state)
        if not self.fixed_cell and state.cells is not self._cells:
            self._cells = state.cells
            self._shift_vectors = self._shifts_in(state.cells)
        dtype = self.model.dtype
        if state.cells is not self._in_dtype_of:
            self._in_dtype_of, self._cells_in_dtype = state.cells, state.cells.to(dtype)
        self._near_squared = None
        index, shifts, vectors = self._edges(state.positions, dtype)
        batch = replace(
            self._template,
            positions=state.positions.to(dtype),
            cells=self._cells_in_dtype,
            edge_index=index,
            edge_shifts=shifts,
            vectors=vectors,
        )
        out = self._forces_only(batch) if self.fixed_cell else predict(self.model, batch)
        return Prediction(out.energy.detach().double(), out.forces.detach().double(), out.stress.detach().double())

    @property
    def edge_structure(self) -> Tensor:
        """Structure of each edge of the lists, shape (E,)."""
        if self._edge_structure is None:
            lengths = torch.tensor([x.edge_index.shape[1] for x in self.lists])
            self._edge_structure = torch.repeat_interleave(torch.arange(len(self.lists)), lengths).to(self.device)
        return self._edge_structure

    @property
    def compiled(self) -> bool:
        """Whether the work is done by machine code; the tests turn it off."""
        return self.device.type == "cpu" and self.model.dtype in (torch.float32, torch.float64)

    def _edges(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Index, cell shifts and vectors of the edges that the model sees, shapes (2, E), (E, 3), (E, 3)."""
        if self.compiled:
            return self._inside_compiled(positions, dtype)
        if positions.device.type == "cpu" or not self.model.fades_at_cutoff or len(self._shifts) > ALL_EDGES:
            return self._inside(positions, dtype)
        i, j = self.edge_index
        vectors = positions.index_select(0, j).sub_(positions.index_select(0, i)).add_(self._shift_vectors)
        r = torch.linalg.vector_norm(vectors, dim=1)
        self.edge_squared = r.square()
        # longer edges are put to the cutoff, where nothing is left of them
        return self.edge_index, self._shifts, (vectors * (self.model.cutoff / r).clamp_max(1).unsqueeze(1)).to(dtype)

    def _inside(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Edges within the cutoff: index, cell shifts and vectors, shapes (2, E), (E, 3), (E, 3)."""
        i, j = self.edge_index
        vectors = positions.index_select(0, j).sub_(positions.index_select(0, i)).add_(self._shift_vectors)
        x, y, z = vectors.unbind(1)
        self.edge_squared = torch.mul(x, x).addcmul_(y, y).addcmul_(z, z)  # a sum over rows of three is slow
        inside = torch.nonzero(self.edge_squared < self.model.cutoff**2).squeeze(1)
        index = torch.stack([i.index_select(0, inside), j.index_select(0, inside)])
        return index, self._shifts.index_select(0, inside), vectors.index_select(0, inside).to(dtype)

    def _inside_compiled(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """What :meth:`_inside` does."""
        limit = self.model.cutoff**2
        self.edge_squared = self._buffer("squared", (len(self._shifts),), torch.float64)
        edges = [x.numpy() for x in (positions, self.edge_index, self._shift_vectors)]
        near_squared = self._near_squared = self._buffer("near squared", (len(self._near),), torch.float64)
        squared = (self.edge_squared.numpy(), near_squared.numpy())
        n = square_edges(*edges, limit, self._near.numpy(), *squared)
        index = self._buffer("inside", (2, n), torch.int64)
        shifts, vectors = self._buffer("shifts inside", (n, 3), dtype), self._buffer("vectors", (n, 3), dtype)
        written = (index.numpy(), shifts.numpy(), vectors.numpy())
        take_edges(*edges, self._shifts.numpy(), squared[0], limit, *written)
        return index, shifts, vectors

    def _buffer(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory that is kept for the next time: what is fresh costs more than what is written into it."""
        size = math.prod(shape)
        if name not in self._buffers or len(self._buffers[name]) < size:
            self._buffers[name] = torch.empty(size + size // 8, dtype=dtype)
        return self._buffers[name][:size].view(shape)

    def _joined(self, name: str, parts: Sequence[Tensor], dim: int = 0) -> Tensor:
        if parts[0].device.type != "cpu":
            return torch.cat(list(parts), dim)
        shape = list(parts[0].shape)
        shape[dim] = sum(x.shape[dim] for x in parts)
        return torch.cat(list(parts), dim, out=self._buffer(name, tuple(shape), parts[0].dtype))

    def _shifts_in(self, cells: Tensor) -> Tensor:
        """Vectors of the cell shifts of all edges, float64, shape (E, 3), Å."""
        if not self.compiled:
            of_edges = cells.index_select(0, self.edge_structure)
            return torch.bmm(self._shifts.double().unsqueeze(1), of_edges).squeeze(1)
        vectors = torch.empty((len(self._shifts), 3), dtype=torch.float64)
        nowhere = torch.zeros((len(self.numbers), 3), dtype=torch.float64)
        arrays = (nowhere, cells, self._template.structure, self.edge_index, self._shifts, vectors)
        edge_vectors(*(x.numpy() for x in arrays))
        return vectors

    def _forces_only(self, batch: EdgeBatch) -> Prediction:
        """As :func:`~mdl_physpretrain.potentials.base.predict` without the stress."""
        if (whole := self.model.prediction(batch)) is not None:
            return whole
        energy, gradient = self.model.energy_and_gradient(batch, batch.edge_vectors())
        forces = torch.zeros_like(batch.positions)
        if self.compiled:
            add_forces(batch.edge_index.numpy(), gradient.detach().numpy(), forces.numpy())
        else:
            i, j = batch.edge_index
            forces.index_add_(0, i, gradient).index_add_(0, j, gradient, alpha=-1)
        return Prediction(energy, forces, self._no_stress)

    def near_pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Atoms (2, P), structures (P,) and squared distances (P,), Å², of pairs, all shorter than ``near`` among them.

        Valid until the next evaluation.
        """
        if self._near_squared is None:
            self._near_squared = self.edge_squared.index_select(0, self._near)
        return self._near_index, self._near_structure, self._near_squared

    def set_near(self, squared: Tensor) -> None:
        """Go back to the squared distances of near pairs (P,), Å², of an evaluation with the same lists."""
        self._near_squared = squared

    def keep(self, structures: Tensor, atoms: Tensor) -> None:
        """Drop structures; masks of shapes (B,) and (N,) of what stays."""
        stay = structures.tolist()
        self.lists = [x for x, s in zip(self.lists, stay, strict=True) if s]
        self.counts = [x for x, s in zip(self.counts, stay, strict=True) if s]
        for name in ("near", "reach", "pbc", "first_det", "reference_cells"):
            setattr(self, name, getattr(self, name)[structures])
        self.numbers, self.reference, self._on_host = self.numbers[atoms], self.reference[atoms], None
        if self.lists:
            self._collate()

    def _update_lists(self, state: MDState) -> None:
        if not self.rebuilds:
            self.reference, self.reference_cells = state.positions.clone(), state.cells.clone()
            self._rebuild(state.positions.cpu().numpy(), state.cells.cpu().numpy(), range(len(state)))
            return
        slack: Tensor | float
        if self.fixed_cell and self.compiled:
            longest = np.empty(len(state))
            displacements(state.positions.numpy(), self.reference.numpy(), state.structure.numpy(), longest)
            overdue = ~(2 * np.sqrt(longest) <= self.skin)
            if overdue.any():
                self._refresh(state, torch.as_tensor(overdue))
            return
        if self.fixed_cell:
            moved = state.positions - self.reference
            slack = self.skin
        else:
            if self._det_of is not self.reference_cells:
                self._det_of, self._reference_det = self.reference_cells, torch.linalg.det(self.reference_cells)
            ratio = torch.linalg.det(state.cells) / self._reference_det
            scale = torch.where(self.first_det.abs() > 1e-9, ratio.abs().pow(1 / 3), 1.0)
            moved = state.positions - state.per_atom(scale).unsqueeze(1) * self.reference
            slack = scale * (self.reach + self.skin) - self.reach
        furthest = torch.zeros(len(state), dtype=torch.float64, device=self.device)
        furthest.scatter_reduce_(0, state.structure, torch.linalg.vector_norm(moved, dim=1), "amax")
        if self.margins is not None:
            self.margins.append(torch.sub(furthest, slack, alpha=0.5))
            return
        due = ~(2 * furthest <= slack)  # a NaN is due, too
        if bool(due.any()):
            self._refresh(state, due)

    def _refresh(self, state: MDState, due: Tensor) -> None:
        largest = torch.zeros(len(state), dtype=torch.float64, device=self.device)
        largest = largest.scatter_reduce(0, state.structure, state.positions.abs().amax(1), "amax")
        ratio = torch.linalg.det(state.cells) / torch.where(self.first_det == 0, 1.0, self.first_det)
        solid = self.first_det != 0
        nan = ~largest.isfinite() | ~ratio.isfinite()
        runaway = (largest > FAR) | (solid & ~((ratio < self.volume_change) & (ratio > 1 / self.volume_change)))
        broken = due & (nan | runaway)
        if bool(broken.any()):
            code = torch.where(nan, BROKEN_NAN, BROKEN_RUNAWAY)
            state.broken = torch.where(broken & (state.broken == 0), code, state.broken)
            back = state.per_atom(broken).unsqueeze(1)
            state.positions = torch.where(back, self.reference, state.positions)
            state.velocities = torch.where(back, 0.0, state.velocities)
            state.cells = torch.where(broken.view(-1, 1, 1), self.reference_cells, state.cells)
        fresh = due & ~broken
        if bool(fresh.any()):
            atoms = state.per_atom(fresh).unsqueeze(1)
            self.reference = torch.where(atoms, state.positions, self.reference)
            self.reference_cells = torch.where(fresh.view(-1, 1, 1), state.cells, self.reference_cells)
            positions, cells = state.positions.cpu().numpy(), state.cells.cpu().numpy()
            self._rebuild(positions, cells, torch.nonzero(fresh).squeeze(1).tolist())

    def rebuild(self, state: MDState, positions: np.ndarray, cells: np.ndarray, due: np.ndarray) -> None:
        """Make the lists of the structures in the mask (B,) anew; the state's positions and cells, on the host, too."""
        self._rebuild(positions, cells, np.flatnonzero(due).tolist())
        fresh = torch.as_tensor(due, device=self.device)
        self.reference = torch.where(state.per_atom(fresh).unsqueeze(1), state.positions, self.reference)
        self.reference_cells = torch.where(fresh.view(-1, 1, 1), state.cells, self.reference_cells)

    def _rebuild(self, positions: np.ndarray, cells: np.ndarray, outdated: Sequence[int]) -> None:
        if self._on_host is None:
            self._on_host = tuple(x.cpu().numpy() for x in (self.pbc, self.reach, self.near))
        pbc, reach, near = self._on_host
        starts = np.cumsum(self.counts) - self.counts
        for k in outdated:
            points = positions[starts[k] : starts[k] + self.counts[k]]
            # atoms approach each other by the skin at most; in a cell that grows, more
            far = near[k] + self.skin if self.fixed_cell else np.inf
            if self.device_lists is not None:
                self.lists[k] = self._list_on_device(self.device_lists, points, cells[k], reach[k] + self.skin, far)
                continue
            edge_index, shifts = neighbour_list(points, cells[k], pbc[k], reach[k] + self.skin)
            shift_vectors = shifts @ cells[k]
            squared = ((points[edge_index[1]] - points[edge_index[0]] + shift_vectors) ** 2).sum(1)
            self.lists[k] = PairList(
                torch.as_tensor(edge_index),
                torch.as_tensor(shifts, dtype=self.model.dtype),
                torch.as_tensor(shift_vectors, dtype=torch.float64),
                torch.as_tensor(np.flatnonzero(squared <= far**2)),
            )
        self.rebuilds += len(outdated)
        self._collate()

    def _list_on_device(
        self, lists: DeviceLists, points: np.ndarray, cell: np.ndarray, reach: float, far: float
    ) -> PairList:
        """Neighbour list of a large cell, with all its tensors on the device, whoever makes it."""
        positions = torch.as_tensor(points, dtype=torch.float64, device=self.device)
        found = lists(positions, points, cell, reach)
        if found is None:
            made = neighbour_list(points, cell, np.ones(3, dtype=bool), reach)
            found = torch.as_tensor(made[0], device=self.device), torch.as_tensor(made[1], device=self.device)
        (i, j), shifts = found
        shift_vectors = shifts.double() @ torch.as_tensor(cell, dtype=torch.float64, device=self.device)
        squared = (positions[j] - positions[i] + shift_vectors).square().sum(1)
        near = torch.nonzero(squared <= far**2).squeeze(1)
        return PairList(found[0], shifts.to(self.model.dtype), shift_vectors, near)

    def _collate(self) -> None:
        starts = np.cumsum(self.counts) - self.counts
        moved = [x.edge_index + int(s) for x, s in zip(self.lists, starts, strict=True)]
        edge_index = self._joined("index", moved, dim=1)
        shifts = self._joined("shifts", [x.shifts for x in self.lists])
        shift_vectors = self._joined("shift vectors", [x.shift_vectors for x in self.lists])
        whole = (edge_index, shifts, shift_vectors)
        self.edge_index, self._shifts, self._shift_vectors = (x.to(self.device) for x in whole)
        index = torch.arange(len(self.lists))
        lengths = [x.edge_index.shape[1] for x in self.lists]
        before = np.cumsum(lengths) - lengths
        near = torch.cat([x.near + int(e) for x, e in zip(self.lists, before, strict=True)])
        many = torch.tensor([len(x.near) for x in self.lists])
        joined = (near, edge_index[:, near], torch.repeat_interleave(index, many))
        self._near, self._near_index, self._near_structure = (x.to(self.device) for x in joined)
        self._near_squared = None
        self._cells = self._edge_structure = None
        self._no_stress = torch.full((len(self.lists), 3, 3), torch.nan, dtype=torch.float64, device=self.device)
        like = torch.zeros(0, dtype=self.model.dtype, device=self.device)
        self._template = EdgeBatch.without_labels(
            numbers=self.numbers,
            positions=like.new_zeros(len(self.numbers), 3),
            cells=like.new_zeros(len(self.lists), 3, 3),
            pbc=self.pbc,
            structure=torch.repeat_interleave(index, torch.tensor(self.counts)).to(self.device),
            edge_index=self.edge_index,
            edge_shifts=self._shifts,
            list_cutoff=self.model.cutoff,
        )

    def check_elements(self, ids: Sequence[str]) -> None:
        """Raise StructureError naming the structure whose element the model does not know."""
        unknown: dict[int, str] = {}
        for number in sorted(set(self.numbers.tolist())):
            isolated = build_batch(Atoms([number], positions=[[0, 0, 0]]), self.model.cutoff, self.model.dtype)
            try:
                self.model(isolated.to(self.device))
            except StructureError as error:
                unknown[number] = str(error)
        owner = np.repeat(np.arange(len(self.counts)), self.counts)
        for k, number in zip(owner.tolist(), self.numbers.tolist(), strict=True):
            if number in unknown:
                raise StructureError(unknown[number], structure=ids[k])
