"""Labels of a structure: energy, forces, stress, and where they live.

Labels sit on the structure's calculator, as ASE users keep them
(``SinglePointCalculator``); the identifier sits in ``info["structure_id"]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import voigt_6_to_full_3x3_stress

from mdl_physpretrain.errors import StructureError

__all__ = [
    "LABEL_NAMES",
    "Labels",
    "full_stress",
    "get_labels",
    "has_label",
    "label_counts",
    "missing_labels",
    "set_labels",
    "stored_results",
    "structure_id",
]

LABEL_NAMES = ("energy", "forces", "stress")


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


def stored_results(atoms: Atoms) -> dict[str, Any]:
    """What the structure's calculator stores (the dictionary itself); empty without one."""
    return getattr(atoms.calc, "results", None) or {}


def has_label(atoms: Atoms, name: str) -> bool:
    """Whether a structure's calculator stores the label ``name``."""
    return stored_results(atoms).get(name) is not None


def label_counts(structures: Sequence[Atoms]) -> dict[str, int]:
    """How many structures there are, and how many have each label.

    Returns
    -------
    dict
        Keys "structures", "energy", "forces", "stress".
    """
    counts = {name: sum(has_label(atoms, name) for atoms in structures) for name in LABEL_NAMES}
    return {"structures": len(structures), **counts}


def missing_labels(structures: Sequence[Atoms], *, partly: bool = False) -> dict[str, str]:
    """Sentences such as "3 of 8 structures have no forces", and the label that each is about.

    A stress is that of a solid: only structures that are periodic in three directions are counted for it. With
    ``partly`` only labels that some structures have.
    """
    sentences = {}
    for name in LABEL_NAMES:
        able = [atoms for atoms in structures if name != "stress" or atoms.pbc.all()]
        missing = [atoms for atoms in able if not has_label(atoms, name)]
        if missing and not (partly and len(missing) == len(able)):
            first = structure_id(missing[0])
            sentences[f"{len(missing)} of {len(able)} structures have no {name} (first: {first})"] = name
    return sentences


def full_stress(stress: np.ndarray) -> np.ndarray:
    """A stress of six (Voigt) or nine components as (3, 3)."""
    return voigt_6_to_full_3x3_stress(stress.reshape(6)) if stress.size == 6 else stress.reshape(3, 3)


def get_labels(atoms: Atoms) -> Labels:
    """Read the labels stored on a structure's calculator (nothing is computed).

    Raises
    ------
    StructureError
        If a label has a NaN, an infinite value or a wrong shape.
    """
    if atoms.calc is None:
        return Labels()
    labels: dict[str, Any] = {}
    for name in LABEL_NAMES:
        try:
            value = stored_results(atoms).get(name)
        except PropertyNotImplementedError:
            value = None
        if value is not None:
            labels[name] = np.asarray(value, dtype=np.float64)
            if not np.isfinite(labels[name]).all():
                raise StructureError("NaN or infinite label", structure=structure_id(atoms), field=name)

    def wrong_shape(name: str, expected: str) -> StructureError:
        message = f"shape {labels[name].shape} instead of {expected}"
        return StructureError(message, structure=structure_id(atoms), field=name)

    if "forces" in labels and labels["forces"].shape != (len(atoms), 3):
        raise wrong_shape("forces", f"({len(atoms)}, 3)")
    if "stress" in labels:
        if labels["stress"].shape != (6,) and labels["stress"].size != 9:
            raise wrong_shape("stress", "(6,) or (3, 3)")
        labels["stress"] = full_stress(labels["stress"])
    if "energy" in labels:
        if labels["energy"].size != 1:
            raise wrong_shape("energy", "()")
        labels["energy"] = float(labels["energy"].reshape(()))
    return Labels(**labels)


def forces_counted(atoms: Atoms) -> np.ndarray:
    """On which atoms the force label counts in a training, shape (n,), bool: ``arrays["forces_counted"]``, else all.

    Raises
    ------
    StructureError
        If the array says something else.
    """
    value = np.asarray(atoms.arrays.get("forces_counted", np.ones(len(atoms), dtype=bool)))
    if value.dtype != np.bool_ or value.ndim != 1:
        name = structure_id(atoms)
        raise StructureError("must be true or false for each atom", structure=name, field="forces_counted")
    return value.copy()


def set_labels(atoms: Atoms, labels: Labels) -> Atoms:
    """Store labels on a structure (in place) and return it."""
    results = {name: value for name, value in vars(labels).items() if value is not None}
    if labels.stress is not None:  # Voigt, of the upper triangle as it is
        results["stress"] = labels.stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms
