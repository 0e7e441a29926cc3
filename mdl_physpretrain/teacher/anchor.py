"""Anchored labels: the teacher's change from the parent, added to the parent's own labels.

Not of the paper. A teacher with a constant or a linear error at the parent
teaches nothing wrong about it once that error is subtracted. Far from the
parent the correction is no better than none, and parents that lie close to each
other would contradict each other there: it can be made to fade.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.graphs.neighbour_lists import complete_cell
from mdl_physpretrain.structures.identifiers import require_unique_ids, stable_id
from mdl_physpretrain.structures.labels import Labels, get_labels
from mdl_physpretrain.structures.validation import refuse_damaged

__all__ = ["anchored_labels", "parents_of"]

TOLERANCE = 1e-4  # Å: text formats round positions and displacements


def parents_of(structures: Sequence[Atoms], parents: Sequence[Atoms] | None) -> dict[str, Atoms]:
    """The parents that the structures need, by id; raises StructureError for one that cannot be an anchor."""
    if parents is None:
        raise ConfigError("anchor=True needs parents: the labelled structures that were augmented")
    parent_of_id = dict(zip(require_unique_ids(parents, "parents"), parents, strict=True))
    needed: dict[str, Atoms] = {}
    for atoms in structures:
        name = stable_id(atoms)
        if "parent_id" not in atoms.info:
            raise StructureError("not an augmented structure, nothing to anchor to", structure=name, field="parent_id")
        if "aug_displacement" not in atoms.arrays:
            raise StructureError("not an augmented structure", structure=name, field="aug_displacement")
        parent_id = str(atoms.info["parent_id"])
        if parent_id not in parent_of_id:
            raise StructureError(f"its parent {parent_id} is not among the parents", structure=name, field="parent_id")
        parent = parent_of_id[parent_id]
        if parent_id not in needed:
            refuse_damaged([parent])
            labels = get_labels(parent)
            for field, value in (("energy", labels.energy), ("forces", labels.forces)):
                if value is None:
                    raise StructureError("an anchor needs this label", structure=parent_id, field=field)
            needed[parent_id] = parent
        if not _fits(atoms, parent):
            raise StructureError(
                f"is not its parent {parent_id} displaced by aug_displacement (other atoms, cell or positions)",
                structure=name,
            )
    return needed


def _strain(atoms: Atoms) -> np.ndarray:
    """Strain of the cell after the displacement, shape (3, 3); zero where there is none."""
    return np.asarray(atoms.info.get("aug_strain", np.zeros((3, 3))), dtype=np.float64).reshape(3, 3)


def _fits(atoms: Atoms, parent: Atoms) -> bool:
    """Whether ``x = (x0 + u)(1 + strain)`` in the parent's strained cell, up to lattice vectors."""
    deformation = np.eye(3) + _strain(atoms)
    if (
        not np.array_equal(atoms.numbers, parent.numbers)
        or not np.allclose(atoms.cell.array, parent.cell.array @ deformation, atol=1e-6)
        or not np.array_equal(atoms.pbc, parent.pbc)
    ):
        return False
    cell = complete_cell(atoms.cell.array, atoms.pbc)
    moved = (parent.positions + atoms.arrays["aug_displacement"]) @ deformation
    away = (atoms.positions - moved) @ np.linalg.inv(cell)
    away -= np.round(away) * atoms.pbc
    return bool(np.abs(away @ cell).max(initial=0.0) < TOLERANCE)


def anchored_labels(
    atoms: Atoms,
    labels: Labels,
    parent: Atoms,
    at_parent: Labels | str,
    reach: float | None = None,
    *,
    with_forces: bool = True,
) -> Labels | str:
    """First-order corrected labels, see :func:`mdl_physpretrain.teacher.label`, or the reason why the teacher failed.

    ``atoms`` has ``arrays["aug_displacement"]`` (n, 3), Å; a strain of the cell in ``info["aug_strain"]`` adds
    ``V (S_ref - S_T)(x0) : strain`` to the energy where both stresses are known. With a ``reach`` (Å) the correction
    fades with every atom's displacement, and forces remain the slope of the energy. Without the parent's forces
    energy and stress alone are corrected, by their errors at the parent.
    """
    if isinstance(at_parent, str):
        return f"the teacher failed on its parent {stable_id(parent)}: {at_parent}"
    reference = get_labels(parent)
    energies, forces = zip(*(_required(source, atoms) for source in (labels, at_parent, reference)), strict=True)
    correction = forces[2] - forces[1] if with_forces else np.zeros_like(forces[0])
    u, strain = atoms.arrays["aug_displacement"], _strain(atoms)
    near = np.ones(len(u)) if reach is None else np.exp(-(u**2).sum(axis=1) / (2 * reach**2))
    slope = np.zeros_like(u) if reach is None else -near[:, None] * u / reach**2  # of ``near``
    along = (correction * u).sum(axis=1)
    energy = energies[0] - energies[1] + energies[2] - float(along @ near)
    change = near[:, None] * correction + along[:, None] * slope
    stress = None
    if at_parent.stress is not None and reference.stress is not None:
        difference = reference.stress - at_parent.stress
        if labels.stress is not None:
            stress = labels.stress + near.mean() * difference
        if strain.any():
            work = parent.get_volume() * float(np.sum(difference * strain))
            energy += near.mean() * work
            change -= work * slope / len(u)
    # the energy is a function of u, and u = x (1 + strain)^-1 - x0
    moved = change @ np.linalg.inv(np.eye(3) + strain).T if strain.any() else change
    return Labels(energy, forces[0] + moved, stress)


def _required(labels: Labels, atoms: Atoms) -> tuple[float, np.ndarray]:
    if labels.energy is None or labels.forces is None:
        raise StructureError("anchoring needs energies and forces", structure=stable_id(atoms))
    return labels.energy, labels.forces
