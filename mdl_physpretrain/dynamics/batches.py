"""Structures that are simulated together, in this process or in others."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from mdl_physpretrain.dynamics.ase_engine import run_ase
from mdl_physpretrain.dynamics.batched import run_batched
from mdl_physpretrain.dynamics.finished_runs import RunStore
from mdl_physpretrain.dynamics.records import RunRecord
from mdl_physpretrain.dynamics.settings import MDSettings
from mdl_physpretrain.dynamics.state import maxwell_velocities
from mdl_physpretrain.dynamics.traces import TrajectoryWriter
from mdl_physpretrain.errors import ConfigError, PhysPretrainError, StructureError
from mdl_physpretrain.executors.distribute import LostWork, distribute
from mdl_physpretrain.executors.transfer import SentPotential, receive, send
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.calculator import ASECalculator
from mdl_physpretrain.potentials.identity import is_calculator
from mdl_physpretrain.progress import track
from mdl_physpretrain.structures.randomness import trajectory_rng

__all__ = ["Files", "Run", "run_elsewhere", "run_here"]

UNFINISHED = ".unfinished-"  # folders of workers; their files move out of them when they are whole


@dataclass(frozen=True)
class Files:
    """Trajectory files that are wanted, see :class:`TrajectoryWriter`."""

    folder: Path
    interval: int
    file_format: str
    timestep: float

    def writer(self, ids: Sequence[str], folder: Path | None = None) -> TrajectoryWriter:
        """What writes them, perhaps in another folder."""
        return TrajectoryWriter(
            folder or self.folder, ids, interval=self.interval, file_format=self.file_format, timestep=self.timestep
        )


@dataclass(frozen=True)
class Run:
    """How structures are simulated; goes to the workers.

    Attributes
    ----------
    settings
        What decides a trajectory.
    engine
        ``"batched"`` or ``"ase"``.
    skin
        Å.
    files
        Trajectory files, if any.
    """

    settings: MDSettings
    engine: str
    skin: float
    files: Files | None


def run_here(
    run: Run,
    potential: Any,
    portions: Sequence[Sequence[int]],
    structures: Sequence[Atoms],
    store: RunStore,
    progress: bool,
) -> None:
    """Simulate portions one after the other.

    Parameters
    ----------
    run
        How.
    potential
        Model, calculator or factory.
    portions
        Indices of structures that are simulated together.
    structures
        With ids; not changed.
    store
        Takes the records.
    progress
        Show progress bars.
    """
    writer = None if run.files is None else run.files.writer(store.order)
    name = f"MD {run.settings.ensemble.upper()}"
    one_bar = run.engine == "ase"
    for number, part in enumerate(track(portions, name, enabled=progress and one_bar), start=1):
        together = [structures[k].copy() for k in part]
        title = f"{name}, batch {number} of {len(portions)} ({len(part)} structures)"
        _simulate(run, potential, together, writer, store.add, title, progress and not one_bar)
        store.save(often=True)


def run_elsewhere(
    run: Run,
    potential: Any,
    portions: Sequence[Sequence[int]],
    structures: Sequence[Atoms],
    store: RunStore,
    progress: bool,
    executor: Executor,
) -> None:
    """Like :func:`run_here`, by the workers of an executor.

    Raises
    ------
    StructureError
        After all others have been simulated, of a structure whose workers
        all died.
    ConfigError
        If the potential cannot be sent.
    """
    if not portions:
        return
    sent = send(potential)
    paths: dict[str, Path] = {}
    if run.files is not None:
        paths = run.files.writer(store.order).paths
        _forget_unfinished(run.files.folder)
    work = distribute(executor, run_portion, portions, lambda part: (run, sent, [structures[k] for k in part]))
    name = f"MD {run.settings.ensemble.upper()}, {len(portions)} portions"
    lost: dict[str, LostWork] = {}
    try:
        for part, result in track(work, name, total=len(portions), enabled=progress):
            if isinstance(result, LostWork):
                lost.update({structures[k].info["structure_id"]: result for k in part})
                continue
            records, folder = result
            if folder is not None:
                _take(Path(folder), [paths[record.structure_id] for record in records])
            for record in records:
                store.add(record)
            store.save(often=True)
    finally:
        if run.files is not None:
            _forget_unfinished(run.files.folder)
    if lost:
        first, why = next(iter(lost.items()))
        others = f"; so did those of {len(lost) - 1} other structures" if len(lost) > 1 else ""
        raise StructureError(f"{why.reason}{others}; the other structures are finished", structure=first)


def run_portion(run: Run, sent: SentPotential, structures: list[Atoms]) -> tuple[list[RunRecord], str | None]:
    """In a worker: simulate structures; records, and the folder of their trajectories."""
    records: list[RunRecord] = []
    writer = folder = None
    if run.files is not None:
        folder = run.files.folder / f"{UNFINISHED}{uuid.uuid4().hex}"  # a second attempt has its own
        writer = run.files.writer([a.info["structure_id"] for a in structures], folder)
    _simulate(run, receive(sent), structures, writer, records.append, "MD", False)
    return records, None if folder is None else str(folder)


def thermalise(atoms: Atoms, settings: MDSettings) -> np.random.Generator:
    """Give a structure its initial velocities; return the generator for its noise."""
    rng = trajectory_rng(settings.seed, atoms.info["structure_id"])
    if settings.initial_velocities == "maxwell":
        atoms.set_velocities(maxwell_velocities(atoms.get_masses(), settings.temperature, rng))
    elif not atoms.has("momenta"):
        atoms.set_velocities(np.zeros((len(atoms), 3)))
    return rng


def _simulate(
    run: Run,
    potential: Any,
    structures: list[Atoms],
    writer: TrajectoryWriter | None,
    finished: Callable[[RunRecord], None],
    title: str,
    progress: bool,
) -> None:
    """One portion; the structures are changed."""
    generators = [thermalise(atoms, run.settings) for atoms in structures]
    if run.engine == "batched":
        assert isinstance(potential, EnergyModel)
        run_batched(
            potential.eval(),
            structures,
            generators,
            run.settings,
            skin=run.skin,
            writer=writer,
            finished=finished,
            description=title,
            progress=progress,
        )
        return

    if isinstance(potential, EnergyModel):
        potential = ASECalculator(potential)
    for atoms, generator in zip(structures, generators, strict=True):
        calculator = potential if is_calculator(potential) else potential()
        if not is_calculator(calculator):
            raise ConfigError(f"the function given as potential returned {type(calculator).__name__}, no calculator")
        run_ase(calculator, atoms, generator, run.settings, writer=writer, finished=finished)


def _take(folder: Path, targets: Sequence[Path]) -> None:
    """Move trajectories out of a worker's folder."""
    if not folder.is_dir():
        raise PhysPretrainError(
            f"a worker wrote trajectories to {folder}, which is not there: they need a folder that all machines share"
        )
    for target in targets:
        with contextlib.suppress(FileNotFoundError):  # of a trajectory without a single frame
            (folder / target.name).replace(target)
    shutil.rmtree(folder, ignore_errors=True)


def _forget_unfinished(folder: Path) -> None:
    for left in folder.glob(f"{UNFINISHED}*"):
        shutil.rmtree(left, ignore_errors=True)
