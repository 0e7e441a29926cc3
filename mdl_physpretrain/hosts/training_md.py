"""MD of a host's network during its training: start structures, and the physicality of every trajectory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from ase import Atoms

from mdl_physpretrain.dynamics import simulate
from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.probes.base import Simulated
from mdl_physpretrain.probes.physicality import Physicality
from mdl_physpretrain.structures import read_structures
from mdl_physpretrain.structures.validation import refuse_damaged
from mdl_physpretrain.workflow.data import random_subset
from mdl_physpretrain.workflow.md_options import Simulation

__all__ = ["start_structures", "trajectory_table"]


def start_structures(
    options: Simulation, parts: Mapping[str, Callable[[], Sequence[Atoms] | None]], section: str, seed: int
) -> list[Atoms]:
    """The structures that ``source``, ``max_atoms`` and ``n_structures`` choose; raises ConfigError if there is none.

    ``parts`` are readers of the host's own data by the name that ``source`` may give; ``section`` is named in messages.
    """
    structures: list[Atoms] = []
    files: dict[str, str] = {}
    for source in options.source:
        part = parts[source]() if source in parts else read_structures(source, duplicates="rename", files=files)
        if not part:
            raise ConfigError(f"{section}.source: the run has no {source!r} data; name another part or a file")
        structures += part
    if options.max_atoms is not None:
        structures = [a for a in structures if len(a) <= options.max_atoms]
    if not structures:
        raise ConfigError(
            f"{section}: no structure to simulate: none in {', '.join(options.source)} "
            f"has at most {options.max_atoms} atoms"
        )
    chosen = random_subset(structures, options.n_structures, seed)
    refuse_damaged(chosen, labels=False, files=files)
    return chosen


def trajectory_table(
    potential: Any, structures: Sequence[Atoms], options: Simulation, trajectories: Path, seed: int
) -> pd.DataFrame:
    """Simulate and assess: one row per trajectory, see :func:`mdl_physpretrain.dynamics.assessment.assess`."""
    arguments = options.simulation(trajectories)
    if not isinstance(potential, EnergyModel):
        arguments["engine"] = "ase"
    runs = simulate(potential, structures, seed=seed, **arguments)
    return Physicality().tables(Simulated(structures, runs, limits=arguments["limits"]))["physicality"]
