"""What a foreign calculator returns, checked once: numbers of the right shape, or an error that says what they are."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.structures.labels import full_stress

__all__ = ["CheckedCalculator", "energy_of", "forces_of", "stress_of"]


def energy_of(value: Any) -> float:
    """An energy in eV: a number, or an array of one.

    Raises
    ------
    StructureError
        If it is something else.
    """
    array = _real(value, "energy")
    if array.size != 1:
        raise StructureError(f"the calculator gave an array of the shape {array.shape}, not one number", field="energy")
    return float(array.reshape(()))


def forces_of(value: Any, n_atoms: int) -> np.ndarray:
    """Forces in eV/Å, shape (n_atoms, 3); nothing is broadcast.

    Raises
    ------
    StructureError
        If they have another shape, or are no real numbers.
    """
    array = _real(value, "forces")
    if array.shape != (n_atoms, 3):
        raise StructureError(f"the calculator gave the shape {array.shape}, not {(n_atoms, 3)}", field="forces")
    return array


def stress_of(value: Any) -> np.ndarray:
    """A stress in eV/Å³, shape (3, 3), from six (Voigt) or nine components.

    Raises
    ------
    StructureError
        If it has another shape, or is no real numbers.
    """
    array = _real(value, "stress")
    if array.shape not in ((6,), (3, 3), (9,)):
        raise StructureError(f"the calculator gave the shape {array.shape}, not (6,) or (3, 3)", field="stress")
    return full_stress(array)


class CheckedCalculator:
    """A calculator of any kind as integrators see it: what it returns has been looked at, and is a copy."""

    def __init__(self, calculator: Any) -> None:
        self.calculator = calculator

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["calculator"], name)

    def get_potential_energy(self, atoms: Atoms, *args: Any, **options: Any) -> float:
        """In eV."""
        return energy_of(self.calculator.get_potential_energy(atoms, *args, **options))

    def get_forces(self, atoms: Atoms) -> np.ndarray:
        """In eV/Å, shape (n, 3)."""
        return forces_of(self.calculator.get_forces(atoms), len(atoms))

    def get_stress(self, atoms: Atoms) -> np.ndarray:
        """In eV/Å³, Voigt's six components."""
        return stress_of(self.calculator.get_stress(atoms)).reshape(9)[[0, 4, 8, 5, 2, 1]]


def _real(value: Any, name: str) -> np.ndarray:
    """A new array of float64."""
    if np.ma.isMaskedArray(value) and np.ma.is_masked(value):
        raise StructureError("the calculator gave masked values", field=name)
    try:
        array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    except (TypeError, ValueError) as error:
        raise StructureError(f"the calculator gave no array ({error})", field=name) from error
    if array.dtype.kind not in "iuf":
        words = "nothing" if value is None else f"{type(value).__name__} of the type {array.dtype}"
        raise StructureError(f"the calculator gave {words}, no real numbers", field=name)
    return array.astype(np.float64)
