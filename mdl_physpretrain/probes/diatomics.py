"""Energy of two atoms alone, which shows whether a potential has a core."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.probes.single_points import Potential, energies_and_forces

__all__ = ["diatomic_curve", "element_pairs", "symbols_of"]

BOX_MARGIN = 20.0  # Å between a pair and its images: beyond the cutoff of any local potential


def element_pairs(elements: Sequence[str]) -> list[tuple[str, str]]:
    """Every unordered pair of elements, ordered by atomic number."""
    ordered = sorted(set(elements), key=lambda symbol: atomic_numbers[symbol])
    return list(combinations_with_replacement(ordered, 2))


def symbols_of(pair: tuple[str, str] | str) -> tuple[str, str]:
    """The two elements of ``("Mn", "O")`` or ``"Mn-O"``.

    Raises
    ------
    ConfigError
        If it is no pair of elements.
    """
    symbols = tuple(pair.split("-")) if isinstance(pair, str) else tuple(pair)
    if len(symbols) != 2 or any(s not in atomic_numbers or s == "X" for s in symbols):
        raise ConfigError(f"{pair!r} is not a pair of elements such as 'Mn-O'")
    return symbols


def diatomic_curve(
    potential: Potential, pair: tuple[str, str] | str, r: Sequence[float] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Energy and force of a pair of atoms in vacuum at given distances.

    A calculator that cannot do with two atoms without a cell (CHGNet, for
    one) gets them in a cubic periodic box that leaves 20 Å to the images.

    Parameters
    ----------
    potential
        An :class:`EnergyModel`, an ASE calculator, or a function that makes
        one.
    pair
        Two symbols, ``("Mn", "O")`` or ``"Mn-O"``.
    r
        Distances in Å, shape (n,).

    Returns
    -------
    energy
        Relative to that at the largest distance (at which there is one), eV,
        shape (n,); NaN where the potential fails.
    force
        On the second atom along the direction away from the first, eV/Å,
        shape (n,): positive means repulsion.

    Raises
    ------
    ConfigError
        If the pair or a distance makes no sense.
    StructureError
        If the potential fails at every distance.

    References
    ----------
    Fig. 1, 3 and 6a of the paper.
    """
    symbols = symbols_of(pair)
    distances = np.asarray(r, dtype=np.float64)
    if distances.ndim != 1 or not len(distances) or not np.isfinite(distances).all() or distances.min() <= 0:
        raise ConfigError("distances of a diatomic curve must be positive and finite, in Å")
    molecules = [_molecule(symbols, d) for d in distances]
    try:
        energy, forces = energies_and_forces(potential, molecules)
    except StructureError:
        if isinstance(potential, EnergyModel):
            raise
        for atoms in molecules:
            atoms.cell[:] = np.eye(3) * (distances.max() + BOX_MARGIN)
            atoms.pbc = True
        energy, forces = energies_and_forces(potential, molecules)
    there = np.flatnonzero(np.isfinite(energy))
    zero = energy[there[np.argmax(distances[there])]]
    return energy - zero, np.array([f[1, 0] for f in forces])


def _molecule(symbols: tuple[str, str], distance: float) -> Atoms:
    atoms = Atoms(list(symbols), [[0.0, 0.0, 0.0], [distance, 0.0, 0.0]])
    atoms.info["structure_id"] = f"{'-'.join(symbols)} at {distance:g} Å"
    return atoms
