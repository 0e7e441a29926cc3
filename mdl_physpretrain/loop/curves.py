"""Where a network sees holes that the teacher does not: pairs alone and in the crystal, compressed cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from ase import Atoms
from ase.units import kB

from mdl_physpretrain.augmentation.children import displaced_child
from mdl_physpretrain.augmentation.coverage import cover, coverage_table, uncovered
from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.probes.compression import compression_curve, compression_flags
from mdl_physpretrain.probes.diatomic_flags import OUT_OF_REACH, WALL_ENERGY
from mdl_physpretrain.probes.diatomics import diatomic_curve
from mdl_physpretrain.probes.single_points import energies_and_forces
from mdl_physpretrain.structures.identifiers import stable_id
from mdl_physpretrain.structures.labels import get_labels

__all__ = ["compressed_children", "crystal_holes", "in_hole", "pair_bins", "pair_holes", "stretches"]

REACH = 30.0  # kT: e^-30
SHALLOW = 1.0  # eV: a network may be wrong by this much in a distorted cell without atoms falling into it
WALL_SHARE = 0.5  # of the teacher's energy
COMPRESSED_TO = 0.7  # of the length
STEPS_OF_COMPRESSION = 6


def in_hole(network: np.ndarray, teacher: np.ndarray, temperature: float = 300.0) -> np.ndarray:
    """Where the network's energy is within reach and far below the teacher's.

    Parameters
    ----------
    network, teacher
        Energies relative to the undisturbed structure, eV, shape (n,).
    temperature
        K, of the molecular dynamics that the network is for.

    Returns
    -------
    numpy.ndarray
        Shape (n,): the network is less than 30 kT (3 eV at least) up, more
        than 1 eV below the teacher and below half of what the teacher says;
        or not finite.
    """
    reach = max(WALL_ENERGY, REACH * kB * temperature)
    with np.errstate(invalid="ignore"):
        low = (network < reach) & (network < WALL_SHARE * teacher) & (teacher - network > SHALLOW)
    return np.isfinite(teacher) & (low | ~np.isfinite(network))


def pair_bins(structures: Sequence[Atoms]) -> pd.DataFrame:
    """``pair, low, high``: for every pair of elements, distances from its core to the data, Å."""
    return coverage_table(structures)[["pair", "low", "high"]]


def pair_holes(network: EnergyModel, teacher: Any, bins: pd.DataFrame) -> np.ndarray:
    """Which bins lie in a well of the pair alone that the teacher does not have, shape (len(bins),).

    Two atoms in vacuum are not what a network of solids was trained on: a flat curve is no fault there. A well is
    where the energy, on the way in from where the data have the pair, falls by more than 1 eV.
    """
    flagged = np.zeros(len(bins), dtype=bool)
    for pair, rows in bins.groupby("pair", sort=False):
        rows = rows.sort_values("low")
        r = np.append(0.5 * (rows["low"] + rows["high"]).to_numpy(), rows["high"].max())
        try:
            curves = [diatomic_curve(potential, str(pair), r)[0] for potential in (network, teacher)]
        except StructureError:  # a teacher of solids that cannot do with two atoms
            continue
        ours, reference = (curve[:-1] - curve[-1] for curve in curves)
        highest = np.maximum.accumulate(np.append(0.0, ours[::-1]))[:0:-1]
        well = (highest - ours > SHALLOW) & (highest < OUT_OF_REACH) & (reference - ours > SHALLOW)
        flagged[bins.index.get_indexer(rows.index)] = well
    return flagged


def crystal_holes(
    network: EnergyModel, labelled: Sequence[Atoms], parents: Sequence[Atoms], temperature: float = 300.0
) -> np.ndarray:
    """Which labelled structures the network puts into a hole, shape (len(labelled),).

    Parameters
    ----------
    network
        The potential.
    labelled
        Children of the parents, anchored or with the labels of ``parents``' source.
    parents
        With energies on the same scale.
    temperature
        See :func:`in_hole`.
    """
    by_id = {stable_id(atoms): atoms for atoms in parents}
    wanted = [by_id[str(atoms.info["parent_id"])] for atoms in labelled]
    unique = list({stable_id(atoms): atoms for atoms in wanted}.values())
    energies, _ = energies_and_forces(network, [*labelled, *unique])
    before = dict(zip(map(stable_id, unique), energies[len(labelled) :], strict=True))
    network_change = np.array([e - before[stable_id(p)] for e, p in zip(energies, wanted, strict=False)])
    teacher_change = np.array(
        [float(get_labels(a).energy) - float(get_labels(p).energy) for a, p in zip(labelled, wanted, strict=True)]  # type: ignore[arg-type]
    )
    return in_hole(network_change, teacher_change, temperature)


def stretches(bins: pd.DataFrame, flagged: np.ndarray) -> list[str]:
    """The holes in words, such as ``"P-P 1.18-2.08 Å"``."""
    return uncovered(bins.assign(covered=~flagged))


def compressed_children(
    network: EnergyModel, teacher: Any, structures: Sequence[Atoms], label: str
) -> tuple[list[str], list[Atoms]]:
    """Structures that collapse under the network alone, and compressed copies of them to label.

    Parameters
    ----------
    network, teacher
        The potentials.
    structures
        To compress to 0.7 of their length.
    label
        Part of the copies' ids.

    Returns
    -------
    collapsed : list[str]
        Ids of the structures.
    children : list[Atoms]
        Copies at lengths from where the fall begins inwards.
    """
    collapsed, children = [], []
    for atoms in structures:
        if not atoms.pbc.all():
            continue
        name = stable_id(atoms)
        flags = compression_flags(compression_curve(network, atoms))
        if not flags["collapse"] and not flags["failed_points"]:
            continue
        try:
            if compression_flags(compression_curve(teacher, atoms))["collapse"]:
                continue
        except (ConfigError, StructureError):
            continue
        collapsed.append(name)
        begins = flags["collapse_scale"] if flags["collapse"] else 1.0
        for scale in np.linspace(min(begins, 0.98), COMPRESSED_TO, STEPS_OF_COMPRESSION):
            strain = (scale - 1) * np.eye(3)
            nothing = np.zeros((len(atoms), 3))
            children.append(displaced_child(atoms, name, f"{label}-scale{scale:.3f}", nothing, strain=strain))
    return collapsed, children


def covering(structures: Sequence[Atoms], bins: pd.DataFrame, per_bin: int, seed: int, label: str) -> list[Atoms]:
    """Structures with each pair at the distances of the bins, with ids of their own."""
    children = cover(structures, bins=bins, per_bin=per_bin, seed=seed)
    for child in children:
        parent = str(child.info["parent_id"])
        child.info["structure_id"] = f"{parent}-{label}-{str(child.info['structure_id']).removeprefix(f'{parent}-')}"
    return list(children)
