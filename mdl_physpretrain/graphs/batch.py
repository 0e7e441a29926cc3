"""Several structures as tensors: the one input type of every energy model.

A batch of one structure is the smallest unit: :func:`build_batch` makes such
batches, :func:`collate` concatenates them, so a dataset is a list of
one-structure batches whose neighbour lists are computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.graphs.edge_kernel import edge_vectors
from mdl_physpretrain.graphs.neighbour_lists import neighbour_list
from mdl_physpretrain.structures.labels import forces_counted, get_labels, structure_id

__all__ = ["AtomicBatch", "build_batch", "collate"]


@dataclass
class AtomicBatch:
    """``B`` structures with ``N`` atoms and ``E`` directed edges in all.

    Attributes
    ----------
    numbers
        Atomic numbers, shape (N,), int64.
    positions
        Cartesian positions in Å, shape (N, 3).
    cells
        Cell vectors as rows in Å, shape (B, 3, 3); zero for molecules.
    pbc
        Periodic directions, shape (B, 3), bool.
    structure
        Index of the structure each atom belongs to, shape (N,), int64, sorted.
    edge_index
        Centre ``i`` (row 0) and neighbour ``j`` (row 1) of each edge, shape
        (2, E). Every pair appears in both directions; sorted by centre.
    edge_shifts
        Cell shift of the neighbour, shape (E, 3); the edge vector is
        ``positions[j] - positions[i] + edge_shifts @ cell``.
    list_cutoff
        Cutoff in Å the neighbour list was built with.
    energy, forces, stress
        Labels in eV, eV/Å, eV/Å³ (ASE sign): shapes (B,), (N, 3), (B, 3, 3).
        Energies are float64 in every batch (but on devices without it).
        Where a label is missing the entry is zero and the mask is False.
    has_energy, has_forces, has_stress
        Label masks, shape (B,), bool.
    forces_tolerance, stress_tolerance
        What a teacher's labels are known to be wrong by (``arrays["forces_tolerance"]``,
        ``info["stress_tolerance"]``; zero without): shapes (N, 1), eV/Å, and (B, 1, 1), eV/Å³.
    forces_counted
        Whether an atom's force counts in a training (``arrays["forces_counted"]``; True without), shape (N,), bool.
    replayed
        Whether a training on reference labels repeats a teacher's label here, shape (B,), bool.
    """

    numbers: Tensor
    positions: Tensor
    cells: Tensor
    pbc: Tensor
    structure: Tensor
    edge_index: Tensor
    edge_shifts: Tensor
    energy: Tensor
    forces: Tensor
    stress: Tensor
    has_energy: Tensor
    has_forces: Tensor
    has_stress: Tensor
    forces_tolerance: Tensor
    stress_tolerance: Tensor
    forces_counted: Tensor
    replayed: Tensor
    list_cutoff: float

    @classmethod
    def without_labels(cls, *, positions: Tensor, cells: Tensor, **tensors: Any) -> Self:
        """A batch of the other fields, its labels missing; all tensors on one device."""
        n, b = positions.shape[0], cells.shape[0]  # `len` would fix sizes in a traced graph
        nothing = torch.zeros(b, dtype=torch.bool, device=cells.device)
        return cls(
            positions=positions,
            cells=cells,
            energy=cells.new_zeros(b),
            forces=positions.new_zeros(n, 3),
            stress=cells.new_zeros(b, 3, 3),
            has_energy=nothing,
            has_forces=nothing,
            has_stress=nothing,
            forces_tolerance=positions.new_zeros(n, 1),
            stress_tolerance=cells.new_zeros(b, 1, 1),
            forces_counted=torch.ones(n, dtype=torch.bool, device=cells.device),
            replayed=nothing,
            **tensors,
        )

    def __len__(self) -> int:
        return self.cells.shape[0]

    @property
    def n_atoms(self) -> Tensor:
        """Atoms per structure, shape (B,)."""
        return torch.bincount(self.structure, minlength=len(self))

    @property
    def volumes(self) -> Tensor:
        """Cell volumes in Å³, shape (B,); zero for molecules without a cell."""
        a, b, c = self.cells.unbind(1)
        return (a * torch.linalg.cross(b, c)).sum(1).abs()  # a sixth of the time of `linalg.det`

    @property
    def edge_structure(self) -> Tensor:
        """Structure index of each edge, shape (E,)."""
        return self.structure[self.edge_index[0]]

    def edge_vectors(self) -> Tensor:
        """Vectors from centre to neighbour in Å, shape (E, 3)."""
        positions, cells = self.positions, self.cells
        constant = not (torch.is_grad_enabled() and (positions.requires_grad or cells.requires_grad))
        if constant and positions.device.type == "cpu" and positions.dtype in (torch.float32, torch.float64):
            vectors = positions.new_empty(len(self.edge_shifts), 3)
            of_atoms = (positions.detach(), cells.detach(), self.structure)
            edge_vectors(*(x.numpy() for x in (*of_atoms, self.edge_index, self.edge_shifts, vectors)))
            return vectors
        i, j = self.edge_index
        shift = torch.bmm(self.edge_shifts.unsqueeze(1), self.cells[self.structure[i]]).squeeze(1)
        return self.positions[j] - self.positions[i] + shift

    def with_edges(self, keep: Tensor) -> AtomicBatch:
        """The same structures with a subset of the edges, ``keep`` of shape (E,)."""
        return replace(self, edge_index=self.edge_index[:, keep], edge_shifts=self.edge_shifts[keep])

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> AtomicBatch:
        """Move to a device and cast the floating-point tensors."""
        moved: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                to_dtype = dtype if dtype is not None and value.is_floating_point() else value.dtype
                if f.name == "energy":
                    to_dtype = torch.float32 if torch.device(device or value.device).type == "mps" else torch.float64
                moved[f.name] = value.to(device=device, dtype=to_dtype, non_blocking=True)
        return replace(self, **moved)

    def pin_memory(self) -> AtomicBatch:
        """Pin all tensors, for fast transfer to a GPU."""
        pinned: dict[str, Any] = {
            f.name: getattr(self, f.name).pin_memory() for f in fields(self) if f.name != "list_cutoff"
        }
        return replace(self, **pinned)


def build_batch(atoms: Atoms, cutoff: float, dtype: torch.dtype = torch.float32) -> AtomicBatch:
    """One structure as a batch of one, with its labels and neighbour list.

    Parameters
    ----------
    atoms
        Labels are read from its calculator, see
        :func:`mdl_physpretrain.structures.labels.get_labels`.
    cutoff
        Neighbour-list cutoff in Å.
    dtype
        Type of the floating-point tensors.

    Raises
    ------
    StructureError
        On non-finite positions or an impossible cell.
    """
    if not np.isfinite(atoms.positions).all():
        raise StructureError("NaN or infinite value", structure=structure_id(atoms), field="positions")
    try:
        shift_dtype = torch.zeros(0, dtype=dtype).numpy().dtype
        edge_index, shifts = neighbour_list(atoms.positions, atoms.cell.array, atoms.pbc, cutoff, shift_dtype)
    except StructureError as error:
        raise StructureError(str(error), structure=structure_id(atoms)) from error
    labels = get_labels(atoms)

    def tensor(value: object) -> Tensor:
        return torch.as_tensor(np.asarray(value), dtype=dtype)

    def mask(present: bool) -> Tensor:
        return torch.tensor([present])

    return AtomicBatch(
        numbers=torch.as_tensor(atoms.numbers.astype(np.int64)),
        positions=tensor(atoms.positions),
        cells=tensor(atoms.cell.array[None]),
        pbc=torch.as_tensor(atoms.pbc[None].copy()),
        structure=torch.zeros(len(atoms), dtype=torch.int64),
        edge_index=torch.as_tensor(edge_index),
        edge_shifts=tensor(shifts),
        energy=torch.tensor([0.0 if labels.energy is None else labels.energy], dtype=torch.float64),
        forces=tensor(np.zeros((len(atoms), 3)) if labels.forces is None else labels.forces),
        stress=tensor(np.zeros((1, 3, 3)) if labels.stress is None else labels.stress[None]),
        has_energy=mask(labels.energy is not None),
        has_forces=mask(labels.forces is not None),
        has_stress=mask(labels.stress is not None),
        forces_tolerance=tensor(_tolerance(atoms, "forces_tolerance", (len(atoms),))[:, None]),
        stress_tolerance=tensor(_tolerance(atoms, "stress_tolerance", ()).reshape(1, 1, 1)),
        forces_counted=torch.as_tensor(forces_counted(atoms)),
        replayed=mask(False),
        list_cutoff=float(cutoff),
    )


def _tolerance(atoms: Atoms, field: str, shape: tuple[int, ...]) -> np.ndarray:
    """What a label may be wrong by, zero where nothing is said; raises StructureError where it is no such thing."""
    value = (atoms.arrays if shape else atoms.info).get(field)
    if value is None:
        return np.zeros(shape)
    numbers = np.asarray(value)
    if numbers.shape != shape or numbers.dtype.kind not in "iuf" or not (np.isfinite(numbers) & (numbers >= 0)).all():
        kind = "one number for each atom" if shape else "one number"
        raise StructureError(f"must be {kind}, finite and not negative", structure=structure_id(atoms), field=field)
    return numbers.astype(np.float64)


def collate(batches: Sequence[AtomicBatch]) -> AtomicBatch:
    """Concatenate batches; atom and structure indices are renumbered.

    Raises
    ------
    ValueError
        If ``batches`` is empty.
    """
    if not batches:
        raise ValueError("cannot collate an empty list of batches")
    if len(batches) == 1:
        return batches[0]
    counts = torch.tensor([len(b.numbers) for b in batches])
    atom_offset = torch.cumsum(counts, 0) - counts
    sizes = torch.tensor([len(b) for b in batches])
    structure_offset = torch.cumsum(sizes, 0) - sizes
    joined = {
        f.name: torch.cat([getattr(b, f.name) for b in batches])
        for f in fields(AtomicBatch)
        if f.name not in {"edge_index", "structure", "list_cutoff"}
    }
    return AtomicBatch(
        **joined,
        edge_index=torch.cat([b.edge_index + o for b, o in zip(batches, atom_offset.tolist(), strict=True)], dim=1),
        structure=torch.cat([b.structure + o for b, o in zip(batches, structure_offset.tolist(), strict=True)]),
        list_cutoff=min(b.list_cutoff for b in batches),
    )
