"""What a network does to training structures in molecular dynamics, and the frames on the way to a failure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ase import Atoms
from ase.io import read

from mdl_physpretrain.augmentation.children import frame_child
from mdl_physpretrain.dynamics.settings import simulation_options
from mdl_physpretrain.dynamics.simulate import simulate
from mdl_physpretrain.dynamics.traces import trajectory_name
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.recipe import Loop, MolecularDynamics
from mdl_physpretrain.structures.identifiers import stable_id

__all__ = ["conditions", "examined_motion", "frame_steps"]

FRAMES = 200  # on disk per trajectory, to choose from


def conditions(options: Loop, md: MolecularDynamics) -> MolecularDynamics:
    """The loop's simulation: that of ``md`` where the loop says nothing else."""
    chosen = {name: getattr(options, name) for name in ("ensemble", "temperature", "timestep")}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    interval = max(1, options.steps // FRAMES)
    return md.model_copy(update={**chosen, "steps": options.steps, "trajectory_interval": interval, "interval": 1})


def examined_motion(
    potential: EnergyModel,
    structures: Sequence[Atoms],
    md: MolecularDynamics,
    options: Loop,
    *,
    seed: int,
    folder: Path,
    label: str,
    progress: bool = False,
) -> tuple[pd.DataFrame, list[Atoms]]:
    """Simulate training structures, and choose frames for the teacher to label.

    Parameters
    ----------
    potential
        On the device where it is to run.
    structures
        With ids.
    md
        Of :func:`conditions`.
    options
        How many frames.
    seed
        Of velocities and noise.
    folder
        ``md.runs.npz`` (what is finished is not done again) and the frames go there.
    label
        Part of the frames' ids.
    progress
        Show a progress bar.

    Returns
    -------
    trajectories : pandas.DataFrame
        A row per structure, as :func:`mdl_physpretrain.dynamics.assess`.
    frames : list[Atoms]
        Children of the structures, see :func:`mdl_physpretrain.augmentation.children.frame_child`.
    """
    arguments = simulation_options(md, folder / "trajectories")
    runs = simulate(potential, structures, seed=seed, checkpoint=folder / "md.runs.npz", progress=progress, **arguments)
    rows = [record.row(arguments["limits"]) for record in runs]
    children = []
    for parent, row in zip(structures, rows, strict=True):
        name = stable_id(parent)
        lost = row["first_unphysical_step"]
        count = options.frames_physical if lost is None else options.frames_lost
        if not count or lost == 0:
            continue
        frames: Any = read(folder / "trajectories" / trajectory_name(name), index=":")
        by_step = {int(frame.info["step"]): frame for frame in frames}
        for step in frame_steps(list(by_step), count, lost=lost, steps=row["steps_done"]):
            child = frame_child(parent, by_step[step], name, f"{label}-md{step}")
            child.info["aug_lost"] = "no" if lost is None else str(row["reason"])
            children.append(child)
    return pd.DataFrame(rows), children


def frame_steps(available: Sequence[int], count: int, *, lost: int | None, steps: int) -> list[int]:
    """The steps of the frames that are labelled.

    Parameters
    ----------
    available
        Steps of which there are frames; step 0, the structure itself, and
        frames after the loss are never chosen.
    count
        At most so many.
    lost
        First unphysical step: frames from half way up to it, ever denser
        (of four: at 50, 78, 94 and 100 %). ``None``: evenly spread.
    steps
        Steps made.
    """
    there = np.array(sorted(s for s in available if 0 < s <= (steps if lost is None else lost)))
    if not len(there) or count < 1:
        return []
    if lost is None:
        places = steps * np.arange(1, count + 1) / count
    else:
        way = np.arange(count) / max(count - 1, 1) if count > 1 else np.ones(1)
        places = lost * (1 - 0.5 * (1 - way) ** 2)
    nearest = np.abs(there[:, None] - places).argmin(axis=0)
    return [int(s) for s in there[np.unique(nearest)]]
