"""Filter of labelled structures: removes those that would spoil a training, with the reason.

A strongly compressed structure can carry forces of 10^4 eV/Å; a few of them
wreck a network. The filter removes them and keeps the count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import covalent_radii

from mdl_physpretrain.augmentation.distances import shortest_edges
from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.recipe import AUGMENT
from mdl_physpretrain.structures.identifiers import require_unique_ids, stable_id
from mdl_physpretrain.structures.labels import LABEL_NAMES, get_labels, has_label, stored_results

__all__ = ["FilterResult", "filter_labels"]

COINCIDING = 0.01  # Å: such atoms lie on top of each other, and no data may have them
#: Reasons in the order in which they are looked for.
REASONS = ("non_finite", "no_label", "max_force", "max_energy_per_atom", "max_stress", "min_distance")


@dataclass
class FilterResult:
    """What a filter kept and what it removed.

    Attributes
    ----------
    kept
        The structures that passed, the same objects in the same order.
    removed
        ``(structure id, reason)`` of the others; the first reason found, in
        the order of ``counts``.
    counts
        Removed structures by reason (zeros included).
    values
        The value that broke the limit, for each entry of ``removed``, in the
        unit of the limit (NaN where the reason has none).
    limits
        The limits in force.
    """

    kept: list[Atoms]
    removed: list[tuple[str, str]]
    counts: dict[str, int]
    values: list[float] = field(default_factory=list)
    limits: dict[str, float | None] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the structures themselves are left out."""
        return {
            "n_structures": len(self.kept) + len(self.removed),
            "n_kept": len(self.kept),
            "n_removed": len(self.removed),
            "counts": dict(self.counts),
            "limits": dict(self.limits),
            "removed": [
                {"structure_id": name, "reason": reason, "value": value if math.isfinite(value) else None}
                for (name, reason), value in zip(self.removed, self.values, strict=True)
            ],
        }


def filter_labels(
    structures: Iterable[Atoms],
    *,
    max_force: float | None = AUGMENT.max_force,
    max_energy_per_atom: float | None = AUGMENT.max_energy_per_atom,
    max_stress: float | None = AUGMENT.max_stress,
    min_distance: float | None = AUGMENT.min_distance,
    min_distance_factor: float | None = AUGMENT.filter_distance_factor,
    reference: Sequence[Atoms] | Mapping[str, float] | None = None,
) -> FilterResult:
    """Remove structures whose labels or geometry are beyond a limit.

    Structures without any label, those with a NaN or infinite label or
    position, and those in which two atoms lie on top of each other (closer than
    0.01 Å), are always removed. A limit on a label that a structure does not
    have does not remove it.

    Parameters
    ----------
    structures
        Labelled structures.
    max_force
        Largest norm of the force on an atom, eV/Å.
    max_energy_per_atom
        Largest energy above the reference, eV/atom.
    max_stress
        Largest absolute component of the stress, eV/Å³.
    min_distance
        Smallest distance between atoms, periodic images included, Å.
    min_distance_factor
        Smallest distance in units of the pair's sum of covalent radii.
    reference
        What ``max_energy_per_atom`` is measured from: the parents with their
        energies (matched by ``parent_id``; label them with the same teacher
        where its energies are shifted against theirs), or energies per element
        in eV (as of :func:`mdl_physpretrain.structures.reference_energies`).

    Raises
    ------
    ConfigError
        If a limit is not positive, or an energy limit has no reference.
    StructureError
        If a structure's reference is missing, or a label has a wrong shape.
    """
    limits = {
        "max_force": max_force,
        "max_energy_per_atom": max_energy_per_atom,
        "max_stress": max_stress,
        "min_distance": min_distance,
        "min_distance_factor": min_distance_factor,
    }
    for name, limit in limits.items():
        if limit is not None and not limit > 0:
            raise ConfigError(f"{name} must be positive, not {limit}")
    if max_energy_per_atom is not None and reference is None:
        raise ConfigError("max_energy_per_atom needs a reference: the labelled parents, or energies per element")
    energy_of = _reference(reference) if max_energy_per_atom is not None else None

    result = FilterResult([], [], dict.fromkeys(REASONS, 0), limits=limits)
    for atoms in structures:
        fault = _fault(atoms, limits, energy_of)
        if fault is None:
            result.kept.append(atoms)
        else:
            reason, value = fault
            result.removed.append((stable_id(atoms), reason))
            result.values.append(value)
            result.counts[reason] += 1
    return result


def _fault(
    atoms: Atoms, limits: dict[str, float | None], energy_of: Callable[[Atoms], float] | None
) -> tuple[str, float] | None:
    """The first reason to remove a structure and the value behind it."""
    if not _is_finite(atoms):
        return "non_finite", math.nan
    labels = get_labels(atoms)
    if labels.energy is None and labels.forces is None and labels.stress is None:
        return "no_label", math.nan
    if (limit := limits["max_force"]) is not None and labels.forces is not None and len(atoms):
        largest = float(np.linalg.norm(labels.forces, axis=1).max())
        if largest > limit:
            return "max_force", largest
    limit = limits["max_energy_per_atom"]
    if limit is not None and energy_of is not None and labels.energy is not None and len(atoms):
        excess = (labels.energy - energy_of(atoms)) / len(atoms)
        if excess > limit:
            return "max_energy_per_atom", excess
    if (limit := limits["max_stress"]) is not None and labels.stress is not None:
        largest = float(np.abs(labels.stress).max())
        if largest > limit:
            return "max_stress", largest
    return _too_close(atoms, limits["min_distance"], limits["min_distance_factor"])


def _is_finite(atoms: Atoms) -> bool:
    """Whether positions, cell and all labels are finite (:func:`get_labels` would raise)."""
    labels = [stored_results(atoms)[name] for name in LABEL_NAMES if has_label(atoms, name)]
    values = (atoms.positions, atoms.cell.array, *labels)
    return all(np.isfinite(np.asarray(value, dtype=np.float64)).all() for value in values)


def _too_close(atoms: Atoms, distance: float | None, factor: float | None) -> tuple[str, float] | None:
    """``("min_distance", d)`` if a pair coincides, or is below the distance (Å) or multiple of covalent radii."""
    radii = covalent_radii[atoms.numbers]
    least = max(distance or 0.0, COINCIDING)
    cutoff = max(least, 2 * (factor or 0.0) * float(radii.max(initial=0.0)))
    numbers, distances = shortest_edges(atoms, cutoff, stable_id(atoms))
    limit = np.maximum(least, (factor or 0.0) * covalent_radii[numbers].sum(axis=0))
    below = distances[distances < limit]
    return ("min_distance", float(below.min())) if below.size else None


def _reference(reference: Sequence[Atoms] | Mapping[str, float] | None) -> Callable[[Atoms], float]:
    """Function that gives a structure's reference energy in eV: its parent's, or a sum over its elements."""
    if isinstance(reference, Mapping):
        elements = {str(symbol): float(energy) for symbol, energy in reference.items()}

        def of_elements(atoms: Atoms) -> float:
            symbols = atoms.get_chemical_symbols()
            unknown = sorted(set(symbols) - set(elements))
            if unknown:
                raise StructureError(f"reference has no energy of {', '.join(unknown)}", structure=stable_id(atoms))
            return sum(elements[s] for s in symbols)

        return of_elements

    structures = list(reference or ())
    names = require_unique_ids(structures, "reference structures")
    parents = {name: get_labels(atoms).energy for name, atoms in zip(names, structures, strict=True)}

    def of_parent(atoms: Atoms) -> float:
        name = stable_id(atoms)
        parent = str(atoms.info.get("parent_id", name))
        energy = parents.get(parent)
        if energy is None:
            raise StructureError(f"reference has no energy of its parent {parent}", structure=name)
        return energy

    return of_parent
