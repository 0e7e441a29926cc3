"""Stage reference: the reference potential's errors, and its MD from the others' starts, once for all networks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms

from mdl_physpretrain.dynamics.simulate import simulate
from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.files import write_atomic
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.probes.base import Simulated
from mdl_physpretrain.probes.single_points import energies_and_forces
from mdl_physpretrain.probes.stiffness import change_errors
from mdl_physpretrain.statistics.reference import REFERENCE_POTENTIAL
from mdl_physpretrain.structures.labels import get_labels
from mdl_physpretrain.workflow.data import random_subset
from mdl_physpretrain.workflow.layout import REFERENCE, REFERENCE_ERRORS, md_file
from mdl_physpretrain.workflow.reference import described, see_every_element
from mdl_physpretrain.workflow.run_suite import RunSuite
from mdl_physpretrain.workflow.suite import SuiteMaker

if TYPE_CHECKING:
    from mdl_physpretrain.workflow.config import RunConfig

__all__ = ["MOST_STRUCTURES", "look_at_reference", "measure_reference", "simulate_reference"]

#: Test structures on which the reference potential's errors are measured, drawn at random.
MOST_STRUCTURES = 100


def look_at_reference(config: RunConfig, folder: Path, show: bool) -> list[str]:
    """See before any training that the potential knows all elements, and write down what it is."""
    suite = RunSuite(config, folder)
    conditions = config.md.conditions()
    starts = [atoms for label in conditions for atoms in suite.reference_starts(label)]
    ensemble = "npt" if any(md.ensemble == "npt" for md in conditions.values()) else "nve"
    see_every_element({"md.reference_potential": suite.reference_potential()}, starts, ensemble)
    words = described(str(config.md.reference_potential), config.md.reference_potential_args)
    write_atomic(folder / REFERENCE, json.dumps({"potential": words}, indent=1))
    return [REFERENCE]


def measure_reference(config: Any, folder: Path, show: bool, *, suite_class: SuiteMaker) -> list[str]:
    """Write how well the reference potential knows forces of the test structures, and changes from frame to frame."""
    suite = suite_class(config, folder)
    structures = [atoms for atoms in suite.test_structures() if get_labels(atoms).forces is not None]
    structures = random_subset(structures, MOST_STRUCTURES, seed=0)
    potential, errors = suite.reference_potential(), dict[str, Any](structures=len(structures))
    try:
        if structures:
            errors |= _force_errors(potential, structures) | {"changes": change_errors(potential, structures)}
    except StructureError as error:
        errors["failed"] = str(error)
    write_atomic(folder / REFERENCE_ERRORS, json.dumps(errors, indent=1))
    return [REFERENCE_ERRORS]


def _force_errors(potential: Any, structures: Sequence[Atoms]) -> dict[str, Any]:
    """Mean absolute errors of a component of the force, and of predicting zero, eV/Å, where it gives an answer."""
    _, forces = energies_and_forces(potential, structures)
    known = [k for k, part in enumerate(forces) if np.isfinite(part).all()]
    truth = np.concatenate([np.asarray(get_labels(structures[k]).forces) for k in known])
    errors = {"forces": np.concatenate([forces[k] for k in known]) - truth, "trivial": truth}
    return {"answered": len(known)} | {name: float(np.abs(values).mean()) for name, values in errors.items()}


def simulate_reference(
    config: Any, folder: Path, show: bool, *, suite_class: SuiteMaker, seed: int, label: str = ""
) -> list[str]:
    """Simulate the structures that are not simulated yet, and write the verdict on each trajectory.

    Parameters
    ----------
    config, folder, show, suite_class, label
        As of :func:`mdl_physpretrain.workflow.stages.md.simulate_potential`.
    seed
        Whose velocities and noise it has.
    """
    suite = suite_class(config, folder)
    potential, starts = suite.reference_potential(), suite.reference_starts(label)
    records = f"{md_file(seed, REFERENCE_POTENTIAL, label)}.runs.npz"
    options = suite.simulation(REFERENCE_POTENTIAL, seed, label)
    if not isinstance(potential, EnergyModel):
        options["engine"] = "ase"  # whatever integrates the networks: the trajectory does not depend on it
    runs = simulate(potential, starts, checkpoint=folder / records, progress=show, **options)
    probe, cell = suite.probe("md"), (REFERENCE_POTENTIAL, seed, label)
    tables = probe.tables(Simulated(starts, runs, limits=suite.limits(label)))
    return [records, *suite.write(probe, tables, cell)]
