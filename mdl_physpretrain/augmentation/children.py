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
