"""Displaced, possibly strained copies of labelled structures, with their provenance."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms

__all__ = ["INHERITED_ARRAYS", "INHERITED_NUMBERS", "displaced_child"]

# Of the parent's other data only what cannot be a label of the parent's positions is inherited.
INHERITED_ARRAYS = ("tags", "initial_magmoms", "initial_charges", "masses")
INHERITED_NUMBERS = ("charge", "spin")


def displaced_child(
    parent: Atoms,
    parent_id: str,
    suffix: str,
    displacement: np.ndarray,
    *,
    strain: np.ndarray | None = None,
    **provenance: Any,
) -> Atoms:
    """The parent moved by ``displacement``, then strained as a whole; without labels.

    Parameters
    ----------
    parent
        Its cell, periodicity, texts of ``info`` and magnetic moments are
        inherited.
    parent_id, suffix
        The child's ``structure_id`` is ``<parent_id>-<suffix>``.
    displacement
        Of every atom in the parent's cell, Å, shape (n, 3).
    strain
        Symmetric strain, shape (3, 3): positions and cell vectors ``v`` (rows)
        become ``v (1 + strain)``. ``None``: the cell stays.
    provenance
        More entries of ``info``.

    Returns
    -------
    Atoms
        With ``info["parent_id"]``, ``arrays["aug_displacement"]`` (Å, before
        the strain) and, where there is one, ``info["aug_strain"]``, shape (3, 3).
    """
    positions, cell = parent.positions + displacement, parent.cell.array
    displacement = positions - parent.positions  # as rounded as the positions are
    if strain is not None:
        deformation = np.eye(3) + strain
        positions, cell = positions @ deformation, cell @ deformation
    child = Atoms(parent.numbers, positions, cell=cell, pbc=parent.pbc)
    for key in INHERITED_ARRAYS:
        if key in parent.arrays:
            child.set_array(key, parent.arrays[key])
    child.info = {key: value for key, value in parent.info.items() if isinstance(value, str)}
    child.info.update({key: parent.info[key] for key in INHERITED_NUMBERS if key in parent.info})
    child.info.pop("label_source", None)
    child.info.update(structure_id=f"{parent_id}-{suffix}", parent_id=parent_id, **provenance)
    if strain is not None:
        child.info["aug_strain"] = np.asarray(strain, dtype=np.float64)
    child.set_array("aug_displacement", displacement)
    return child
