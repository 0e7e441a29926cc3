"""Stage reference: MD of the reference potential from the starts of the others, once for all networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdl_physpretrain.dynamics.simulate import simulate
from mdl_physpretrain.files import write_atomic
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.probes.base import Simulated
from mdl_physpretrain.statistics.reference import REFERENCE_POTENTIAL
from mdl_physpretrain.workflow.layout import REFERENCE, md_file
from mdl_physpretrain.workflow.reference import described, see_every_element
from mdl_physpretrain.workflow.run_suite import RunSuite
from mdl_physpretrain.workflow.suite import SuiteMaker

if TYPE_CHECKING:
    from mdl_physpretrain.workflow.config import RunConfig

__all__ = ["look_at_reference", "simulate_reference"]


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
