"""Thermal disorder: all atoms displaced at once, in cells that are compressed, stretched and strained."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.units import kB

from mdl_physpretrain.augmentation.children import displaced_child
from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.structures.identifiers import require_unique_ids
from mdl_physpretrain.structures.labels import get_labels
from mdl_physpretrain.structures.randomness import structure_rng

__all__ = ["disorder", "thermal_amplitudes"]


def disorder(
    structures: Sequence[Atoms],
    *,
    n_aug: int = 5,
    amplitude: float | dict[str, float] = 0.25,
    compression: float = 0.06,
    shear: float = 0.03,
    seed: int = 0,
) -> list[Atoms]:
    """``n_aug`` copies of every structure with all atoms displaced and the cell strained.

    In round ``k`` every coordinate of every atom is displaced by a Gaussian of
    standard deviation ``amplitude * (k + 1) / n_aug``: a ladder from a
    fraction of the thermal motion up to ``amplitude``. The cell is scaled by
    ``1 + U(-compression, compression)`` in length and strained by a symmetric
    matrix with elements ``U(-shear, shear)``. Structures without any period,
    and directions without, are not strained.

    Parameters
    ----------
    structures
        Parents with unique ids.
    n_aug
        Rounds per structure.
    amplitude
        Largest standard deviation of a coordinate in Å, of all atoms or by
        symbol (:func:`thermal_amplitudes`).
    compression, shear
        Largest linear strains.
    seed
        Non-negative integer. The numbers belong to the structure: order and
        subset do not change them.

    Returns
    -------
    list[Atoms]
        Rounds of the first parent first; ``structure_id`` is
        ``<parent>-heat<round>``, ``info["aug_amplitude"]`` the standard
        deviation (Å, the largest of all elements), the rest as
        :func:`displaced_child`.

    Raises
    ------
    ConfigError
        If an option is out of range, or an element has no amplitude.
    StructureError
        If there are no structures or two share an id.
    """
    structures = list(structures)
    if not structures:
        raise StructureError("there are no structures to disorder")
    if n_aug < 1:
        raise ConfigError(f"n_aug must be at least 1, not {n_aug}")
    for option, value in (("compression", compression), ("shear", shear)):
        if not 0 <= value < 0.5:
            raise ConfigError(f"{option} must lie in [0, 0.5), not {value}")
    children = []
    for name, atoms in zip(require_unique_ids(structures, "structures"), structures, strict=True):
        rng = structure_rng(seed, f"disorder/{name}")
        largest = _per_atom(atoms, amplitude)
        for k in range(n_aug):
            width = largest * (k + 1) / n_aug
            moves = width[:, None] * rng.normal(size=(len(atoms), 3))
            moves -= moves.mean(axis=0)
            strain = rng.uniform(-shear, shear, (3, 3))
            strain = 0.5 * (strain + strain.T) + rng.uniform(-compression, compression) * np.eye(3)
            strained = bool(atoms.pbc.all()) and (compression > 0 or shear > 0)
            children.append(
                displaced_child(
                    atoms,
                    name,
                    f"heat{k}",
                    moves,
                    strain=strain if strained else None,
                    aug_amplitude=float(width.max()),
                    aug_seed=int(seed),
                )
            )
    return children


def _per_atom(atoms: Atoms, amplitude: float | dict[str, float]) -> np.ndarray:
    """Amplitude of every atom in Å, shape (n,)."""
    symbols = atoms.get_chemical_symbols()
    if isinstance(amplitude, dict):
        missing = sorted(set(symbols) - set(amplitude))
        if missing:
            raise ConfigError(f"amplitude has no value for {', '.join(missing)}")
        values = np.array([amplitude[s] for s in symbols], dtype=np.float64)
    else:
        values = np.full(len(atoms), float(amplitude))
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise ConfigError(f"amplitude must be finite and not negative (Å), not {amplitude}")
    return values


def thermal_amplitudes(
    displaced: Sequence[Atoms], parents: Sequence[Atoms], temperature: float, *, largest: float = 0.5
) -> dict[str, float]:
    """Standard deviation of a coordinate (Å, by symbol) at a temperature (K), from an Einstein model.

    The spring of an element is the regression of the change of force on the displacement, ``k = -sum(dF . u) / sum(u .
    u)`` over its atoms, and the amplitude ``sqrt(kB T / k)`` (equipartition), at most ``largest`` (Å), also where no
    restoring force is found. ``displaced`` and ``parents`` are labelled by the same potential; small displacements of
    all atoms serve best. Raises StructureError if a parent or a force is missing.
    """
    by_id = dict(zip(require_unique_ids(parents, "parents"), parents, strict=True))
    work: dict[str, np.ndarray] = {}
    for atoms in displaced:
        parent = by_id.get(str(atoms.info.get("parent_id")))
        if parent is None:
            raise StructureError("its parent is not among the parents", structure=atoms.info.get("structure_id"))
        after, before = get_labels(atoms).forces, get_labels(parent).forces
        if after is None or before is None:
            raise StructureError("has no forces", structure=atoms.info.get("structure_id"), field="forces")
        moves = atoms.arrays["aug_displacement"]
        pair = np.stack([-((after - before) * moves).sum(axis=1), (moves**2).sum(axis=1)], axis=1)
        for symbol in set(atoms.get_chemical_symbols()):
            chosen = pair[atoms.symbols == symbol].sum(axis=0)
            work[symbol] = work.get(symbol, np.zeros(2)) + chosen
    amplitudes = {}
    for symbol, (restoring, square) in sorted(work.items()):
        stiff = restoring > 0 and square > 0
        amplitudes[symbol] = min(largest, float(np.sqrt(kB * temperature * square / restoring))) if stiff else largest
    return amplitudes
