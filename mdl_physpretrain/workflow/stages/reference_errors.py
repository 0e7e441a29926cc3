"""Stage reference: how well the reference potential knows the test structures."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.files import write_atomic
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.probes.single_points import energies_and_forces
from mdl_physpretrain.structures.labels import get_labels
from mdl_physpretrain.teacher.changes import frame_pairs, skill_of_forces
from mdl_physpretrain.workflow.data import random_subset, without_nan
from mdl_physpretrain.workflow.suite import SuiteMaker

__all__ = ["MOST_STRUCTURES", "REFERENCE_ERRORS", "measure_reference"]

#: Test structures on which the errors are measured, drawn at random.
MOST_STRUCTURES = 100
REFERENCE_ERRORS = "reference/errors.json"


def measure_reference(
    config: Any, folder: Path, show: bool, *, suite_class: SuiteMaker, tolerate: bool = False
) -> list[str]:
    """Write the reference potential's errors of forces, and of changes of force between frames of the same atoms.

    Parameters
    ----------
    config, folder, show, suite_class
        As of :func:`mdl_physpretrain.workflow.stages.md.simulate_potential`.
    tolerate
        Write down a potential that answers for none of the structures, instead of raising.

    Raises
    ------
    StructureError
        If it fails on all of them.
    """
    (folder / REFERENCE_ERRORS).unlink(missing_ok=True)
    suite = suite_class(config, folder)
    structures = [atoms for atoms in suite.test_structures() if get_labels(atoms).forces is not None]
    structures = random_subset(structures, MOST_STRUCTURES, seed=0)
    potential, errors = suite.reference_potential(), dict[str, Any](structures=len(structures))
    try:
        errors |= _errors(potential, [atoms for atoms in structures if _knows(potential, atoms)])
    except StructureError as error:
        if not tolerate:
            raise
        warnings.warn(f"the errors of the reference potential are not known: {error}", stacklevel=2)
        errors["failed"] = str(error)
    write_atomic(folder / REFERENCE_ERRORS, json.dumps(without_nan(errors), indent=1))
    return [REFERENCE_ERRORS]


def _knows(potential: Any, atoms: Atoms) -> bool:
    """Whether a network has seen the elements; a calculator says so itself, structure by structure."""
    if not isinstance(potential, EnergyModel):
        return True
    known = potential.known_elements()
    return not potential.untrained_elements(atoms.symbols) and (known is None or set(atoms.symbols) <= known)


def _errors(potential: Any, structures: Sequence[Atoms]) -> dict[str, Any]:
    """Mean absolute errors of a component, and of predicting none, eV/Å, of the structures that it answers for."""
    if not structures:
        return {}
    _, forces = energies_and_forces(potential, structures)
    taught = {k: part for k, part in enumerate(forces) if np.isfinite(part).all()}
    truth = np.concatenate([np.asarray(get_labels(structures[k]).forces) for k in taught])
    error = np.concatenate(list(taught.values())) - truth
    answer: dict[str, Any] = {
        "answered": len(taught),
        "forces": float(np.abs(error).mean()),
        "trivial": float(np.abs(truth).mean()),
    }
    if pairs := [p for p in frame_pairs(structures) if p.first in taught and p.second in taught]:
        skill = skill_of_forces(taught, structures, pairs)
        if skill.pairs:
            answer["changes"] = {name: getattr(skill, name) for name in ("stiffness", "error", "trivial", "pairs")}
    return answer
