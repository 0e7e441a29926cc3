"""Reference energies of elements: the part of the energy that composition explains."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.structures.labels import get_labels

__all__ = ["chosen_references", "is_isolated_atom", "reference_energies"]

ISOLATED = 8.0  # Å: an atom whose images are this far away is alone


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


def references_if_labelled(structures: Sequence[Atoms]) -> dict[str, float]:
    """:func:`reference_energies`, or nothing where no structure has an energy: forces alone are data, too."""
    if all(get_labels(atoms).energy is None for atoms in structures):
        return {}
    return reference_energies(structures)


def is_isolated_atom(atoms: Atoms) -> bool:
    """Whether a structure is one atom without neighbours: in no cell, or in a large one."""
    lengths = atoms.cell.lengths()[atoms.pbc]
    return len(atoms) == 1 and bool((lengths >= ISOLATED).all())


def chosen_references(structures: Sequence[Atoms], choice: str | Mapping[str, float]) -> dict[str, float]:
    """Reference energy of each element, in eV.

    Parameters
    ----------
    structures
        Labelled.
    choice
        "fit": :func:`reference_energies`; "isolated": of the isolated atoms
        among the structures; or the energies themselves, by element.

    Raises
    ------
    StructureError
        If an element has none.
    """
    if choice == "fit":
        return reference_energies(structures)
    elements = [chemical_symbols[z] for z in sorted({int(z) for atoms in structures for z in atoms.numbers})]
    energies: dict[str, list[float]] = {}
    if isinstance(choice, Mapping):
        energies = {symbol: [float(energy)] for symbol, energy in choice.items()}
    else:
        for atoms in filter(is_isolated_atom, structures):
            energy = get_labels(atoms).energy
            if energy is not None:
                energies.setdefault(atoms.get_chemical_symbols()[0], []).append(energy)
    missing = [symbol for symbol in elements if symbol not in energies]
    if missing:
        where = "no isolated atom (one atom, no cell or one of 8 Å and more) with an energy"
        where = "no reference energy" if isinstance(choice, Mapping) else where
        raise StructureError(f"{where} of {', '.join(missing)}", field="references")
    spread = {symbol: np.ptp(energies[symbol]) for symbol in elements if np.ptp(energies[symbol]) > 0.1}
    if spread:
        symbol = max(spread, key=lambda s: spread[s])
        message = f"isolated {symbol} has energies that differ by {spread[symbol]:.3g} eV: the lowest is taken"
        warnings.warn(message, stacklevel=2)
    return {symbol: min(energies[symbol]) for symbol in elements}
