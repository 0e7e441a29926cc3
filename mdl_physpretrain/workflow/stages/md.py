"""Task of molecular dynamics and the probes of its records: physicality, energy drift."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mdl_physpretrain.dynamics.simulate import simulate
from mdl_physpretrain.probes.base import Simulated
from mdl_physpretrain.workflow.layout import md_file
from mdl_physpretrain.workflow.suite import SuiteMaker

__all__ = ["simulate_potential"]


def simulate_potential(
    config: Any, folder: Path, show: bool, *, suite_class: SuiteMaker, arm: str, seed: int, label: str = ""
) -> list[str]:
    """Simulate the structures that are not simulated yet, and write the physicality of each trajectory."""
    suite = suite_class(config, folder)
    starts = suite.starts(label)
    records = f"{md_file(seed, arm, label)}.runs.npz"
    options = suite.simulation(arm, seed, label)
    runs = simulate(suite.potential(arm, seed), starts, checkpoint=folder / records, progress=show, **options)
    simulation = Simulated(starts, runs, limits=suite.limits(label))
    outputs = [records]
    for probe in suite.probes("simulation", suite.conditions(label)["ensemble"]):
        outputs += suite.write(probe, probe.tables(simulation), (arm, seed, label))
    return outputs
