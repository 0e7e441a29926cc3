"""Energies and forces of any potential on a list of structures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.calculator import ASECalculator
from mdl_physpretrain.recipe import AUGMENT
from mdl_physpretrain.teacher.engines import make_engine

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

    Models are evaluated in batches, in their own dtype and in evaluation mode, calculators one structure at a time;
    also where a teacher's forces are too large for labels. Raises StructureError if it fails on every structure or does
    not know an element, ConfigError if it is no potential.
    """
    numbered = []
    for k, atoms in enumerate(structures):
        copy = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        copy.info["structure_id"] = f"{k}: {atoms.info.get('structure_id', atoms.get_chemical_formula())}"
        numbered.append(copy)
    engine = make_engine(potential, AUGMENT.batch_size, stress=False, force=True, bounded=False)
    engine.check(numbered)
    outcomes = [outcome for portion in engine.outcomes(numbered) for outcome in portion]
    energies, forces = np.full(len(numbered), np.nan), []
    for k, (atoms, outcome) in enumerate(zip(numbered, outcomes, strict=True)):
        if isinstance(outcome, str) or outcome.energy is None or outcome.forces is None:
            forces.append(np.full((len(atoms), 3), np.nan))
        else:
            energies[k] = outcome.energy
            forces.append(np.asarray(outcome.forces, dtype=np.float64))
    failed = [(atoms, outcome) for atoms, outcome in zip(numbered, outcomes, strict=True) if isinstance(outcome, str)]
    if len(failed) == len(numbered):
        atoms, reason = failed[0]
        counted = f"{engine.name} failed on {len(failed)} of {len(numbered)} structures"
        raise StructureError(f"{counted}; the first: {reason}", structure=str(atoms.info["structure_id"]))
    return energies, forces


def _calculates(potential: object) -> bool:
    return not isinstance(potential, type) and hasattr(potential, "get_potential_energy")
