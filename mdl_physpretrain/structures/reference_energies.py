"""Reference energies of elements: the part of the energy that composition explains."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.structures.labels import get_labels

__all__ = ["reference_energies"]


def reference_energies(structures: Sequence[Atoms]) -> dict[str, float]:
    r"""Least-squares energy per atom of each element.

    .. math:: \min_e \sum_s (E_s - \sum_Z n_{sZ}\, e_Z)^2

    with the smallest :math:`|e|` where compositions do not determine it
    (one composition only, or fewer compositions than elements).

    Parameters
    ----------
    structures
        Those without an energy are ignored.

    Returns
    -------
    dict
        Element symbol to energy in eV, sorted by atomic number, for every
        element of ``structures`` (zero where no structure with the element
        has an energy).

    Raises
    ------
    StructureError
        If no structure has an energy.
    """
    elements = np.unique(np.concatenate([atoms.numbers for atoms in structures])) if len(structures) else np.array([])
    rows, energies = [], []
    for atoms in structures:
        energy = get_labels(atoms).energy
        if energy is not None:
            rows.append((atoms.numbers[:, None] == elements).sum(axis=0))
            energies.append(energy)
    if not energies:
        raise StructureError("no structure has an energy to fit reference energies to", field="energy")
    solution = np.linalg.lstsq(np.array(rows, dtype=np.float64), np.array(energies), rcond=1e-10)[0]
    return {chemical_symbols[z]: float(e) for z, e in zip(elements, solution, strict=True)}
