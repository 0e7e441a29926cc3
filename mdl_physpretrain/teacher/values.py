"""Energies and forces of any potential on a list of structures, where nothing is labelled: examinations and probes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from weakref import WeakKeyDictionary

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.recipe import AUGMENT
from mdl_physpretrain.teacher.engines import Teacher, make_engine

__all__ = ["energies_and_forces"]

#: By the function that makes them: a network can take seconds to load, and is asked a hundred times.
_kept: WeakKeyDictionary[Callable[[], BaseCalculator], BaseCalculator] = WeakKeyDictionary()


def energies_and_forces(
    potential: Teacher, structures: Sequence[Atoms], *, bare: bool = True
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Energies (eV) and forces (eV/Å) by a potential; NaN where it fails or a value is not finite.

    Models are evaluated in batches, in their own dtype and in evaluation mode, calculators one structure at a time;
    also where a teacher's forces are too large for labels. ``bare``: without magnetic moments and other arrays. Raises
    StructureError if it fails on every structure or does not know an element, ConfigError if it is no potential.
    """
    numbered = []
    for k, atoms in enumerate(structures):
        copy = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc) if bare else atoms.copy()
        copy.info["structure_id"] = f"{k}: {atoms.info.get('structure_id', atoms.get_chemical_formula())}"
        numbered.append(copy)
    calculates = hasattr(potential, "get_potential_energy") and not isinstance(potential, type)
    makes = callable(potential) and not calculates and not isinstance(potential, EnergyModel)
    teacher = partial(_made, potential) if makes else potential
    engine = make_engine(teacher, AUGMENT.batch_size, stress=False, force=True, bounded=False)
    engine.check(numbered)
    outcomes = [outcome for portion in engine.outcomes(numbered) for outcome in portion]
    if makes:
        with suppress(TypeError):  # that no weak reference can be made to
            _kept[potential] = engine.calculator  # type: ignore[attr-defined, index]
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


def _made(factory: Callable[[], BaseCalculator]) -> BaseCalculator:
    """The calculator of the call before, once; then new ones."""
    with suppress(TypeError):
        if (kept := _kept.pop(factory, None)) is not None:
            return kept
    return factory()
