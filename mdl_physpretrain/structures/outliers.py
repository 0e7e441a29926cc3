"""Single labels that are far away from all others: a slip of the pen, a calculation that did not converge."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from ase import Atoms

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.structures.labels import Labels, get_labels, structure_id

__all__ = ["outlier_warnings", "warn_of_outliers"]

FEWEST = 10  # structures with a label: of fewer nobody knows what is usual
FAR_ENERGY = 10.0  # eV/atom, beyond cohesive energies and common compression
FAR_FORCE = 50.0  # eV/Å
FAR_STRESS = 10.0  # eV/Å³
TIMES = 50.0  # the usual deviation, or size
ROUNDS = 20  # of the fit of energies per element


def outlier_warnings(structures: Sequence[Atoms]) -> list[str]:
    """Sentences about labels that are far outside those of the other structures.

    Parameters
    ----------
    structures
        Labels that are missing do not count, nor those of structures with a NaN, which whoever needs them refuses.

    Returns
    -------
    list of str
        One for each label, naming the structure that is farthest off. An energy counts that is more than 10 eV/atom,
        and 50 times the median deviation, from a sum of energies per element (fitted to absolute deviations, so that
        it is not drawn to the outlier); a force or stress that is more than 50 eV/Å or 10 eV/Å³, and 50 times the
        median of the structures' largest.
    """
    structures = [atoms for atoms in structures if "aug_displacement" not in atoms.arrays]  # a teacher may go far
    labels = [_labels(atoms) for atoms in structures]
    sentences = []
    # an atom alone has none of the cohesion that the others' energies per element hold
    known = [k for k, label in enumerate(labels) if label.energy is not None and len(structures[k]) > 1]
    if len(known) >= FEWEST:
        energies = np.array([labels[k].energy for k in known], dtype=np.float64)
        off = _off_composition([structures[k] for k in known], energies)
        far = off > max(FAR_ENERGY, TIMES * float(np.median(off)))
        words = "its energy is {:.3g} eV/atom away from what energies per element give, typical are {:.2g}"
        sentences += _sentence("energy", structures, known, off, far, words)
    for field, limit, unit in (("forces", FAR_FORCE, "eV/Å"), ("stress", FAR_STRESS, "eV/Å³")):
        known = [k for k, label in enumerate(labels) if getattr(label, field) is not None]
        if len(known) >= FEWEST:
            largest = np.array([np.abs(getattr(labels[k], field)).max() for k in known])
            far = largest > max(limit, TIMES * float(np.median(largest)))
            words = f"its largest component is {{:.3g}} {unit}, typical are {{:.2g}}"
            sentences += _sentence(field, structures, known, largest, far, words)
    return sentences


def warn_of_outliers(structures: Sequence[Atoms]) -> None:
    """Warn once of each kind of label that is far outside the others; called where the user's data are read."""
    for sentence in outlier_warnings(structures):
        warnings.warn(f"a label far outside the others: {sentence}", stacklevel=3)


def _labels(atoms: Atoms) -> Labels:
    try:
        return get_labels(atoms)
    except StructureError:
        return Labels()


def _sentence(
    field: str, structures: Sequence[Atoms], known: Sequence[int], sizes: np.ndarray, far: np.ndarray, words: str
) -> list[str]:
    if not far.any():
        return []
    worst = int(np.argmax(sizes))
    name, count = structure_id(structures[known[worst]]), int(far.sum())
    more = f" ({count} of {len(known)} structures are such)" if count > 1 else ""
    return [f"structure {name}, field {field}: {words.format(sizes[worst], float(np.median(sizes)))}{more}"]


def _off_composition(structures: Sequence[Atoms], energies: np.ndarray) -> np.ndarray:
    """Deviations from energies per element, eV/atom, by least absolute deviations (reweighted least squares)."""
    elements = np.unique(np.concatenate([atoms.numbers for atoms in structures]))
    counts = np.array([np.bincount(atoms.numbers, minlength=elements[-1] + 1)[elements] for atoms in structures])
    sizes = counts.sum(axis=1)
    shares, per_atom = counts / sizes[:, None], energies / sizes
    weights, off = np.ones(len(sizes)), np.full(len(sizes), np.inf)
    for _ in range(ROUNDS):
        weighted = shares * weights[:, None]
        fitted, *_ = np.linalg.lstsq(weighted.T @ shares, weighted.T @ per_atom, rcond=None)  # as many as elements
        before, off = off, np.abs(shares @ fitted - per_atom)
        if np.allclose(before, off, rtol=1e-3, atol=1e-4):
            break
        weights = 1 / np.maximum(off, 1e-3)
    return off
