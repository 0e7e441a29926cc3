"""Frames of short molecular dynamics with the teacher, in which all atoms move together as they do at a temperature."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.io import read

from mdl_physpretrain.augmentation.children import frame_child
from mdl_physpretrain.dynamics.simulate import simulate
from mdl_physpretrain.dynamics.traces import trajectory_name
from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.recipe import AUGMENT
from mdl_physpretrain.structures.identifiers import require_unique_ids
from mdl_physpretrain.structures.randomness import structure_rng

__all__ = ["thermal_motion"]

GRID = 30  # frames on disk per trajectory, to choose from
FRICTION = 0.02  # 1/fs: the start is no thermal frame, and should become one soon
FARTHEST = 3.0  # Å: an atom that went so far says nothing about its parent


def thermal_motion(
    structures: Sequence[Atoms],
    teacher: Any,
    temperature: float,
    *,
    frames: int = AUGMENT.thermal_rounds,
    duration: float = AUGMENT.thermal_time,
    hotter: float = AUGMENT.thermal_factor,
    most: int | None = AUGMENT.thermal_structures,
    seed: int = 0,
    directory: Path | None = None,
    progress: bool = False,
) -> list[Atoms]:
    """Frames of the teacher's Langevin dynamics from every structure.

    Displacements of neighbours in such frames are correlated, and close atoms
    rare, as they are in the dynamics that a network is to survive; atoms that
    are displaced one by one have forces several times larger.

    Parameters
    ----------
    structures
        Parents with unique ids.
    teacher
        What :func:`mdl_physpretrain.teacher.label` takes.
    temperature
        K.
    frames
        Per structure: every second one, from the first on, at ``temperature``, the others at ``hotter`` times it.
    duration
        Length of a trajectory in fs, in steps of 0.5 fs times the root of the lightest mass in u, at most 2 fs. Frames
        are denser at its beginning.
    hotter
        Factor of the temperature of the second trajectory.
    most
        At most so many structures, a random choice; ``None``: all.
    seed
        Of the choice, of velocities and noise.
    directory
        Of the trajectories; after an interruption the same call goes on there. ``None``: a temporary one.
    progress
        Show a progress bar.

    Returns
    -------
    list[Atoms]
        As :func:`mdl_physpretrain.augmentation.children.frame_child`, ids ``<parent>-md<number>``; frames in which an
        atom is farther than 3 Å from its place, or that the teacher does not reach, are missing, with a warning.

    Raises
    ------
    ConfigError
        If an option is out of range.
    StructureError
        If two structures share an id, or the teacher does not know an element.
    """
    if not (temperature > 0 and duration > 0 and hotter > 0 and frames >= 1):
        raise ConfigError("temperature, duration, hotter and frames must be positive")
    structures = list(structures)
    names = require_unique_ids(structures, "structures")
    chosen = list(range(len(structures)))
    if most is not None and most < len(structures):
        chosen = sorted(int(k) for k in structure_rng(seed, "thermal motion").permutation(len(structures))[:most])
    counts = {1.0: -(-frames // 2), hotter: frames // 2} if hotter != 1.0 else {1.0: frames}
    children: dict[tuple[int, int], Atoms] = {}
    place_of_files = tempfile.TemporaryDirectory() if directory is None else nullcontext(directory)
    with place_of_files as folder, _one_thread():
        for part, (factor, count) in enumerate(counts.items()):
            if not count:
                continue
            place = Path(folder) / f"{factor:g}"
            for timestep, members in _by_timestep([structures[k] for k in chosen], chosen).items():
                steps = max(1, round(duration / timestep))
                every = max(1, steps // GRID)
                simulate(
                    teacher,
                    [structures[k] for k in members],
                    temperature=factor * temperature,
                    timestep=timestep,
                    steps=steps,
                    friction=FRICTION,
                    seed=seed + part,
                    stop_on=("nan", "explosion"),
                    trajectory_dir=place,
                    trajectory_interval=every,
                    checkpoint=None if directory is None else place.with_name(f"{factor:g}-{timestep:g}fs.npz"),
                    progress=progress,
                )
                for k in members:
                    file = place / trajectory_name(names[k])
                    written: Any = read(file, index=":") if file.is_file() else []
                    for number, frame in enumerate(_spread(written, count, steps)):
                        child = frame_child(structures[k], frame, names[k], f"md{len(counts) * number + part}")
                        child.info["aug_temperature"] = factor * temperature
                        if np.abs(child.arrays["aug_displacement"]).max() < FARTHEST:
                            children[k, len(counts) * number + part] = child
    missing = frames * len(chosen) - len(children)
    if missing:
        warnings.warn(
            f"{missing} of {frames * len(chosen)} frames of the teacher's MD are missing: an atom left its place by "
            f"more than {FARTHEST:g} Å, or the trajectory ended early",
            stacklevel=2,
        )
    return [children[key] for key in sorted(children)]


@contextmanager
def _one_thread() -> Iterator[None]:
    """PyTorch on one thread: on two, a classical force field's small tensors take six times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _by_timestep(structures: Sequence[Atoms], numbers: Sequence[int]) -> dict[float, list[int]]:
    """Numbers of the structures by the time step (fs) that their lightest atom allows."""
    groups: dict[float, list[int]] = {}
    for atoms, number in zip(structures, numbers, strict=True):
        timestep = min(2.0, round(0.5 * float(np.sqrt(atoms.get_masses().min())), 1))
        groups.setdefault(max(timestep, 0.1), []).append(number)
    return groups


def _spread(frames: Sequence[Atoms], count: int, steps: int) -> list[Atoms]:
    """Finite frames of the whole duration, denser at its beginning; the start itself is none."""
    moved = [f for f in frames if int(f.info["step"]) > 0 and np.isfinite(f.positions).all()]
    if not moved:
        return []
    at = np.array([int(f.info["step"]) for f in moved])
    places = steps * (np.arange(1, count + 1) / count) ** 1.5
    nearest = np.abs(at[:, None] - places[places <= at[-1] * 1.05]).argmin(axis=0)
    return [moved[k] for k in np.unique(nearest)]
