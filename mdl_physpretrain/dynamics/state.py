"""Positions and velocities of many structures, and where they start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms, units
from torch import Tensor

from mdl_physpretrain.dynamics import step_kernel

__all__ = ["MDState", "NoiseStream", "maxwell_velocities"]

CHUNK_VALUES = 2_000_000  # random numbers held at a time


def maxwell_velocities(masses: np.ndarray, temperature: float, rng: np.random.Generator) -> np.ndarray:
    """Maxwell-Boltzmann velocities (n, 3) in ASE units with the centre of mass at rest; masses (n,) in u."""
    velocities = rng.standard_normal((len(masses), 3)) * np.sqrt(units.kB * temperature / masses)[:, None]
    return velocities - (masses[:, None] * velocities).sum(0) / masses.sum()


@dataclass
class MDState:
    """``B`` structures with ``N`` atoms, float64, on the model's device."""

    positions: Tensor  # unwrapped, (N, 3), Å
    velocities: Tensor  # (N, 3), ASE units
    masses: Tensor  # (N, 1), u
    cells: Tensor  # (B, 3, 3), Å; a new tensor whenever they change
    structure: Tensor  # (N,), sorted
    n_atoms: Tensor  # (B,)
    broken: Tensor  # (B,): why a structure cannot go on, see stability.monitor; 0 is fine

    @classmethod
    def from_structures(cls, structures: Sequence[Atoms], device: torch.device | str = "cpu") -> MDState:
        """Collect structures with their velocities."""

        def tensor(parts: list[np.ndarray]) -> Tensor:
            return torch.as_tensor(np.concatenate(parts), dtype=torch.float64, device=device)

        n_atoms = torch.tensor([len(a) for a in structures], device=device)
        index = torch.arange(len(structures), device=device)
        return cls(
            positions=tensor([a.get_positions() for a in structures]),
            velocities=tensor([a.get_velocities() for a in structures]),
            masses=tensor([a.get_masses()[:, None] for a in structures]),
            cells=tensor([a.cell.array[None] for a in structures]),
            structure=torch.repeat_interleave(index, n_atoms),
            n_atoms=n_atoms,
            broken=torch.zeros_like(n_atoms),
        )

    def __len__(self) -> int:
        return self.cells.shape[0]

    def per_structure(self, values: Tensor) -> Tensor:
        """Sum a quantity of the atoms, shape (N, ...), over each structure."""
        total = values.new_zeros(len(self), *values.shape[1:])
        return total.index_add_(0, self.structure, values)

    def per_atom(self, values: Tensor) -> Tensor:
        """Give every atom its structure's value, shape (B, ...) to (N, ...)."""
        return values.index_select(0, self.structure)

    def temperatures(self) -> Tensor:
        """Instantaneous temperatures in K from 3n degrees of freedom, as ASE counts, shape (B,)."""
        unit = 3 * units.kB
        if self.positions.device.type == "cpu":
            kelvin = torch.empty(len(self), dtype=torch.float64)
            arrays = [x.numpy() for x in (self.masses, self.velocities, self.structure, self.n_atoms)]
            step_kernel.temperatures(*arrays, unit, kelvin.numpy())
            return kelvin
        return self.per_structure((self.masses * self.velocities.square()).sum(1)) / self.n_atoms / unit

    def temperatures_of(self, velocities: Tensor) -> Tensor:
        """As :meth:`temperatures`, of several frames at once, on any device: (F, N, 3) to (F, B)."""
        kinetic = (self.masses * velocities.square()).sum(2)
        total = kinetic.new_zeros(len(kinetic), len(self)).index_add_(1, self.structure, kinetic)
        return total / (self.n_atoms * (3 * units.kB))

    @staticmethod
    def volumes_of(cells: Tensor) -> Tensor:
        """Volumes of cells (B, 3, 3) in Å³, shape (B,)."""
        return torch.linalg.det(cells).abs()

    def keep(self, structures: Tensor, atoms: Tensor) -> None:
        """Drop structures; masks of shapes (B,) and (N,) of what stays."""
        self.positions, self.velocities, self.masses = (
            self.positions[atoms],
            self.velocities[atoms],
            self.masses[atoms],
        )
        self.cells, self.n_atoms, self.broken = (
            self.cells[structures],
            self.n_atoms[structures],
            self.broken[structures],
        )
        self.structure = (torch.cumsum(structures, 0) - 1)[self.structure[atoms]]


class NoiseStream:
    """Normal random numbers of all structures, each from its own generator.

    They are drawn for many steps at once: ``Generator.standard_normal`` fills an array in order, so the numbers are
    those of drawing step by step. With ``of_cells`` every structure gets one number of its own before those of its
    atoms.
    """

    def __init__(
        self,
        generators: Sequence[np.random.Generator],
        n_atoms: Sequence[int],
        device: torch.device | str = "cpu",
        *,
        of_cells: bool = False,
    ) -> None:
        self.generators, self.n_atoms, self.device = list(generators), list(n_atoms), device
        self.of_cells = of_cells
        self._chunk = self._cells = torch.zeros(0)
        self.place = 0  # of the next step's numbers in those drawn

    @property
    def at_end(self) -> bool:
        """Whether all that was drawn has been used: after the next step there is no way back."""
        return 0 < len(self._chunk) <= self.place

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """``xi`` and ``eta`` of one step, shape (N, 3) each, and those of cells, (B,), or none of these."""
        if self.place >= len(self._chunk):
            length = int(np.clip(CHUNK_VALUES // (6 * max(sum(self.n_atoms), 1)), 1, 200))
            first = int(self.of_cells)
            rows = [
                g.standard_normal((length, first + 6 * n)) for g, n in zip(self.generators, self.n_atoms, strict=True)
            ]
            parts = [r[:, first:].reshape(length, 2, n, 3) for r, n in zip(rows, self.n_atoms, strict=True)]
            self._chunk = torch.as_tensor(np.concatenate(parts, axis=2), device=self.device)
            self._cells = torch.as_tensor(np.stack([r[:, :first] for r in rows], axis=1), device=self.device)
            self.place = 0
        xi, eta = self._chunk[self.place]
        cells = self._cells[self.place].flatten()
        self.place += 1
        return xi, eta, cells

    def keep(self, structures: Tensor, atoms: Tensor) -> None:
        """Drop structures; masks of shapes (B,) and (N,) of what stays."""
        stay = structures.tolist()
        self.generators = [g for g, s in zip(self.generators, stay, strict=True) if s]
        self.n_atoms = [n for n, s in zip(self.n_atoms, stay, strict=True) if s]
        if len(self._chunk):
            self._chunk = self._chunk[self.place :][:, :, atoms]
            self._cells = self._cells[self.place :][:, structures]
            self.place = 0
