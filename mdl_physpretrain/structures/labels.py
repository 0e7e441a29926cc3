"""Labels of a structure: energy, forces, stress, and where they live.

Labels sit on the structure's calculator, as ASE users keep them
(``SinglePointCalculator``); the identifier sits in ``info["structure_id"]``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import voigt_6_to_full_3x3_stress

from mdl_physpretrain.errors import StructureError

__all__ = ["Labels", "get_labels", "set_labels", "structure_id"]


@dataclass(frozen=True)
class Labels:
    """Labels of one structure; ``None`` where there is none.

    Attributes
    ----------
    energy
        Potential energy of the structure in eV.
    forces
        Shape (n, 3), eV/Å.
    stress
        Shape (3, 3), eV/Å³, ASE sign (positive when stretched).
    """

    energy: float | None = None
    forces: np.ndarray | None = None
    stress: np.ndarray | None = None


def structure_id(atoms: Atoms) -> str:
    """The structure's identifier, or its formula when it has none."""
    return str(atoms.info.get("structure_id", atoms.get_chemical_formula()))


def get_labels(atoms: Atoms) -> Labels:
    """Read the labels stored on a structure's calculator (nothing is computed).

    Raises
    ------
    StructureError
        If a label has a NaN, an infinite value or a wrong shape.
    """
    calc = atoms.calc
    if calc is None:
        return Labels()
    results = getattr(calc, "results", {})

    def stored(name: str) -> np.ndarray | None:
        try:
            value = results.get(name)
        except PropertyNotImplementedError:
            value = None
        if value is None:
            return None
        value = np.asarray(value, dtype=np.float64)
        if not np.isfinite(value).all():
            raise StructureError("NaN or infinite label", structure=structure_id(atoms), field=name)
        return value

    energy, forces, stress = stored("energy"), stored("forces"), stored("stress")
    if forces is not None and forces.shape != (len(atoms), 3):
        raise StructureError(
            f"shape {forces.shape} instead of ({len(atoms)}, 3)", structure=structure_id(atoms), field="forces"
        )
    if stress is not None:
        if stress.shape == (6,):
            stress = voigt_6_to_full_3x3_stress(stress)
        elif stress.size == 9:
            stress = stress.reshape(3, 3)
        else:
            raise StructureError(
                f"shape {stress.shape} instead of (6,) or (3, 3)", structure=structure_id(atoms), field="stress"
            )
    if energy is not None and energy.size != 1:
        raise StructureError(f"shape {energy.shape} instead of ()", structure=structure_id(atoms), field="energy")
    return Labels(None if energy is None else float(energy.reshape(())), forces, stress)


def set_labels(atoms: Atoms, labels: Labels) -> Atoms:
    """Store labels on a structure (in place) and return it."""
    results: dict[str, float | np.ndarray] = {}
    if labels.energy is not None:
        results["energy"] = labels.energy
    if labels.forces is not None:
        results["forces"] = labels.forces
    if labels.stress is not None:
        stress = labels.stress
        results["stress"] = np.array(
            [stress[0, 0], stress[1, 1], stress[2, 2], stress[1, 2], stress[0, 2], stress[0, 1]]
        )
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms
