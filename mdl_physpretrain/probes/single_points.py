"""Energies and forces of any potential on a list of structures."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.calculator import ASECalculator
from mdl_physpretrain.structures.labels import get_labels
from mdl_physpretrain.teacher.label import label

__all__ = ["Potential", "as_calculator", "energies_and_forces"]

Potential: TypeAlias = EnergyModel | BaseCalculator | Callable[[], BaseCalculator]


def as_calculator(potential: Potential) -> BaseCalculator:
    """Any potential as an ASE calculator.

    Parameters
    ----------
    potential
        An :class:`EnergyModel`, an ASE calculator (returned as it is), or a
        function without arguments that makes one (called once).

    Raises
    ------
    ConfigError
        If it is none of these.
    """
    if isinstance(potential, EnergyModel):
        return ASECalculator(potential)
    if _calculates(potential):
        return potential  # type: ignore[return-value]
    calculator = potential() if callable(potential) else potential
    if not _calculates(calculator):
        raise ConfigError(f"not an EnergyModel, an ASE calculator or a function that makes one: {calculator!r}")
    return calculator


def energies_and_forces(potential: Potential, structures: Sequence[Atoms]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Energies (eV) and forces (eV/Å) by a potential; NaN where it fails or a value is not finite.

    Models are evaluated in batches, in their own dtype and in evaluation mode, calculators one structure at a time.
    Raises StructureError if it fails on every structure or does not know an element, ConfigError if it is no
    potential.
    """
    numbered = []
    for k, atoms in enumerate(structures):
        copy = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        copy.info["structure_id"] = f"{k}: {atoms.info.get('structure_id', atoms.get_chemical_formula())}"
        numbered.append(copy)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* failed on .* structures")  # said by the NaN
        calculated = label(numbered, potential, stress=False, force=True)  # type: ignore[arg-type]
    labels_of = {str(atoms.info["structure_id"]): get_labels(atoms) for atoms in calculated}
    energies, forces = np.full(len(numbered), np.nan), []
    for k, atoms in enumerate(numbered):
        labels = labels_of.get(str(atoms.info["structure_id"]))
        if labels is None or labels.energy is None or labels.forces is None:
            forces.append(np.full((len(atoms), 3), np.nan))
        else:
            energies[k] = labels.energy
            forces.append(np.asarray(labels.forces, dtype=np.float64))
    return energies, forces


def _calculates(potential: object) -> bool:
    return not isinstance(potential, type) and hasattr(potential, "get_potential_energy")
