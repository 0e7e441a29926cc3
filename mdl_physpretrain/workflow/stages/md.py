"""Task of molecular dynamics and the probes of its records: physicality, energy drift."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ase import Atoms

from mdl_physpretrain.dynamics.simulate import simulate
from mdl_physpretrain.probes.base import Simulated
from mdl_physpretrain.workflow.layout import md_file
from mdl_physpretrain.workflow.suite import SuiteMaker

__all__ = ["simulate_potential"]

MAX_FRAMES, LEAST_FRAMES = 64, 8  # of a trajectory, for the report
MAX_POSITIONS = 640_000  # in one file: some 3 MB


def simulate_potential(
    config: Any, folder: Path, show: bool, *, suite_class: SuiteMaker, arm: str, seed: int, label: str = ""
) -> list[str]:
    """Simulate the structures that are not simulated yet, and write the physicality of each trajectory."""
    suite = suite_class(config, folder)
    starts = suite.starts(label)
    records = f"{md_file(seed, arm, label)}.runs.npz"
    options = suite.simulation(arm, seed, label)
    options |= {"n_frames": _kept_frames(starts), "checkpoint": folder / records, "progress": show}
    runs = simulate(suite.potential(arm, seed), starts, **options)
    simulation = Simulated(starts, runs, limits=suite.limits(label))
    outputs = [records]
    for probe in suite.probes("simulation", suite.conditions(label)["ensemble"]):
        outputs += suite.write(probe, probe.tables(simulation), (arm, seed, label))
    return outputs


def _kept_frames(starts: Sequence[Atoms]) -> int:
    """Frames of each trajectory that the report can play; fewer where there are many atoms."""
    frames = min(MAX_FRAMES, MAX_POSITIONS // max(sum(map(len, starts)), 1))
    return frames if frames >= LEAST_FRAMES else 0
