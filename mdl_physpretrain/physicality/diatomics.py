"""Energy of two atoms alone, which shows whether a potential has a core."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers

from mdl_physpretrain.batch import build_batch, collate
from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.models.base import EnergyModel, predict

__all__ = ["diatomic_curve", "element_pairs"]


def element_pairs(elements: Sequence[str]) -> list[tuple[str, str]]:
    """Every unordered pair of elements, ordered by atomic number."""
    ordered = sorted(set(elements), key=lambda symbol: atomic_numbers[symbol])
    return list(combinations_with_replacement(ordered, 2))


def diatomic_curve(
    potential: EnergyModel, pair: tuple[str, str] | str, r: Sequence[float] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Energy and force of a pair of atoms in vacuum at given distances.

    Parameters
    ----------
    potential
        Any energy model.
    pair
        Two symbols, ``("Mn", "O")`` or ``"Mn-O"``.
    r
        Distances in Å, shape (n,).

    Returns
    -------
    energy
        Relative to that at the largest distance, eV, shape (n,).
    force
        On the second atom along the direction away from the first, eV/Å,
        shape (n,): positive means repulsion.

    Raises
    ------
    ConfigError
        If the pair or a distance makes no sense.

    References
    ----------
    Fig. 6a of the paper.
    """
    symbols = tuple(pair.split("-")) if isinstance(pair, str) else tuple(pair)
    if len(symbols) != 2 or any(s not in atomic_numbers for s in symbols):
        raise ConfigError(f"{pair!r} is not a pair of elements such as 'Mn-O'")
    distances = np.asarray(r, dtype=np.float64)
    if distances.ndim != 1 or not len(distances) or not np.isfinite(distances).all() or distances.min() <= 0:
        raise ConfigError("distances of a diatomic curve must be positive and finite, in Å")
    batch = collate([build_batch(_molecule(symbols, d), potential.cutoff, potential.dtype) for d in distances])
    was_training = potential.training
    potential.eval()  # a batch normalisation must not mix the distances
    with torch.no_grad():
        out = predict(potential, batch.to(potential.device))
    potential.train(was_training)
    energy = out.energy.detach().double().cpu().numpy()
    force = out.forces.detach().double().cpu().numpy()[1::2, 0]
    return energy - energy[np.argmax(distances)], force


def _molecule(symbols: tuple[str, ...], distance: float) -> Atoms:
    atoms = Atoms(list(symbols), [[0.0, 0.0, 0.0], [distance, 0.0, 0.0]])
    atoms.info["structure_id"] = f"{'-'.join(symbols)} at {distance:g} Å"
    return atoms
