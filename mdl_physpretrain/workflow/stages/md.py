"""Molecular dynamics with a potential, and the probes of its records: physicality, energy drift."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mdl_physpretrain.dynamics.simulate import simulate
from mdl_physpretrain.probes.base import Simulated
from mdl_physpretrain.workflow.layout import md_file
from mdl_physpretrain.workflow.suite import SuiteMaker

__all__ = ["simulate_potential"]


def simulate_potential(
    config: Any, folder: Path, show: bool, *, suite: SuiteMaker, arm: str, seed: int, label: str = ""
) -> list[str]:
    """Simulate the structures that are not simulated yet, and write the verdict on each trajectory."""
    judge = suite(config, folder)
    starts = judge.starts(label)
    records = f"{md_file(seed, arm, label)}.runs.npz"
    options = judge.simulation(arm, seed, label)
    runs = simulate(judge.potential(arm, seed), starts, checkpoint=folder / records, progress=show, **options)
    asked = Simulated(starts, runs, limits=judge.limits(label))
    outputs = [records]
    for probe in judge.probes("simulation", judge.conditions(label)["ensemble"]):
        outputs += judge.write(probe, probe.tables(asked), (arm, seed, label))
    return outputs
