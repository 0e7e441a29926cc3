"""Displaced, possibly strained copies of labelled structures, with their provenance."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms

__all__ = ["INHERITED_ARRAYS", "INHERITED_NUMBERS", "displaced_child", "frame_child"]

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
    """The parent moved by ``displacement`` (n, 3), Å, then strained as a whole; without labels.

    With a symmetric ``strain`` (3, 3) positions and cell vectors ``v`` (rows) become ``v (1 + strain)``. The child's
    id is ``<parent_id>-<suffix>``; ``provenance``, ``parent_id`` and ``aug_strain`` go into ``info``, the displacement
    into ``arrays["aug_displacement"]``. Texts of ``info`` and magnetic moments are inherited.
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


def frame_child(parent: Atoms, frame: Atoms, parent_id: str, suffix: str) -> Atoms:
    """A frame of molecular dynamics as a child of the structure it started from.

    Parameters
    ----------
    parent, parent_id
        The structure.
    frame
        Of the same atoms in the same order, positions unwrapped; its cell may
        be scaled (NPT). A translation of all atoms is taken out.
    suffix
        The child's ``structure_id`` is ``<parent_id>-<suffix>``.
    """
    deformation = np.eye(3)
    if not np.array_equal(parent.cell.array, frame.cell.array):
        change = np.linalg.solve(parent.cell.array, frame.cell.array)
        if not np.allclose(change, np.eye(3), atol=1e-6):  # frames are written with few digits
            deformation = 0.5 * (change + change.T)
    displacement = frame.positions @ np.linalg.inv(deformation) - parent.positions
    displacement -= displacement.mean(axis=0)
    strain = None if np.array_equal(deformation, np.eye(3)) else deformation - np.eye(3)
    return displaced_child(parent, parent_id, suffix, displacement, strain=strain)
