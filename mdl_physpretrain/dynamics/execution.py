"""Running batches of structures in this process, or by the workers of an executor."""

from __future__ import annotations

import contextlib
import shutil
import uuid
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from mdl_physpretrain.dynamics.ase_engine import run_ase
from mdl_physpretrain.dynamics.batched_engine import BatchedRun
from mdl_physpretrain.dynamics.checkpoint import MDCheckpoint
from mdl_physpretrain.dynamics.records import RunRecord
from mdl_physpretrain.dynamics.sampled_frames import FrameSampler
from mdl_physpretrain.dynamics.settings import MDSettings
from mdl_physpretrain.dynamics.state import maxwell_velocities
from mdl_physpretrain.dynamics.traces import TrajectoryWriter
from mdl_physpretrain.errors import ConfigError, PhysPretrainError, StructureError
from mdl_physpretrain.executors.distribute import LostWork, distribute
from mdl_physpretrain.executors.transfer import SentPotential, receive, send
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.calculator import ASECalculator
from mdl_physpretrain.potentials.compiled_graph import compiled
from mdl_physpretrain.potentials.identity import is_calculator
from mdl_physpretrain.progress import track
from mdl_physpretrain.structures.randomness import trajectory_rng

__all__ = ["Simulation", "TrajectoryFiles", "run_by_workers", "run_here"]

UNFINISHED = ".unfinished-"  # folders of workers; their files move out of them when they are whole


@dataclass(frozen=True)
class TrajectoryFiles:
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
class Simulation:
    """How structures are simulated; goes to the workers.

    Attributes
    ----------
    settings
        What decides a trajectory.
    engine
        ``"batched"`` or ``"ase"``.
    skin
        Of Verlet lists, Å.
    files
        Trajectory files, if any.
    n_frames
        Frames of a trajectory that its record keeps; 0: the last one only.
    compiled
        Networks of the batched engine by PyTorch's compiler.
    """

    settings: MDSettings
    engine: str
    skin: float
    files: TrajectoryFiles | None
    n_frames: int = 0
    compiled: bool | None = False

    def run(
        self,
        potential: Any,
        structures: Sequence[Atoms],
        writer: TrajectoryWriter | None,
        finished: Callable[[RunRecord], None],
        *,
        title: str = "MD",
        progress: bool = False,
        step_done: Callable[[], object] = lambda: None,
        memory: Callable[[Atoms], Path | None] = lambda atoms: None,
    ) -> None:
        """Simulate structures, which are changed, together; ``finished`` takes their records.

        ``step_done`` is called after every step of the ASE engine; ``memory`` names its files of results.
        """
        sampler = FrameSampler(self.n_frames) if self.n_frames else None
        if self.engine == "batched":
            assert isinstance(potential, EnergyModel)
            shown = {"title": title, "progress": progress}
            with compiled(potential.eval(), self.compiled, self.settings.steps):
                self._batches(potential, structures, writer, finished, sampler=sampler, **shown)
            return
        memories = [memory(atoms) for atoms in structures]  # of the velocities that were given, too
        generators = [self._thermalise(atoms) for atoms in structures]
        if isinstance(potential, EnergyModel):
            potential = ASECalculator(potential)
        failures: list[StructureError] = []
        for atoms, generator, file in zip(structures, generators, memories, strict=True):
            calculator = potential if is_calculator(potential) else potential()
            if not is_calculator(calculator):
                raise ConfigError(
                    f"the function given as potential returned {type(calculator).__name__}, no calculator"
                )
            try:
                run_ase(
                    calculator, atoms, generator, self.settings, writer=writer, finished=finished, step_done=step_done,
                    sampler=sampler, memory=file,
                )  # fmt: skip
            except StructureError as error:  # one structure must not cost those behind it
                failures.append(error)
        if failures:
            raise failures[0]

    def _batches(
        self,
        potential: EnergyModel,
        structures: Sequence[Atoms],
        writer: TrajectoryWriter | None,
        finished: Callable[[RunRecord], None],
        **options: Any,
    ) -> None:
        """All in one batch; in halves, from the start, if the memory of a GPU does not hold it."""
        ended: set[str] = set()

        def add(record: RunRecord) -> None:
            ended.add(record.structure_id)
            finished(record)

        try:
            generators = [self._thermalise(atoms) for atoms in structures]
            BatchedRun.simulate(
                potential, structures, generators, self.settings, skin=self.skin, writer=writer, finished=add, **options
            )
            return
        except torch.cuda.OutOfMemoryError as error:
            message = str(error).splitlines()[0]
            if len(structures) - len(ended) < 2:
                raise
        left = [atoms for atoms in structures if atoms.info["structure_id"] not in ended]
        torch.cuda.empty_cache()  # outside of the exception, which holds the batch
        warnings.warn(f"a batch of {len(left)} structures is simulated in halves: {message}", stacklevel=2)
        for part in (left[: len(left) // 2], left[len(left) // 2 :]):
            self._batches(potential, part, writer, finished, **options)

    def _thermalise(self, atoms: Atoms) -> np.random.Generator:
        """Give a structure its initial velocities; return the generator for its noise."""
        rng = trajectory_rng(self.settings.seed, atoms.info["structure_id"])
        if self.settings.initial_velocities == "maxwell":
            atoms.set_velocities(maxwell_velocities(atoms.get_masses(), self.settings.temperature, rng))
        elif not atoms.has("momenta"):
            atoms.set_velocities(np.zeros((len(atoms), 3)))
        return rng


def run_here(
    simulation: Simulation,
    potential: Any,
    batches: Sequence[Sequence[int]],
    structures: Sequence[Atoms],
    checkpoint: MDCheckpoint,
    progress: bool,
) -> None:
    """Simulate batches one after the other.

    Parameters
    ----------
    simulation
        How.
    potential
        Model, calculator or factory.
    batches
        Indices of structures that are simulated together.
    structures
        With ids; not changed.
    checkpoint
        Takes the records.
    progress
        Show progress bars.
    """
    writer = None if simulation.files is None else simulation.files.writer(checkpoint.order)
    name = f"MD {simulation.settings.ensemble.upper()}"
    one_bar, length = simulation.engine == "ase", simulation.settings.steps
    steps = track(range(len(batches) * length), f"{name}, steps of {len(batches)} structures",
                  enabled=progress and one_bar)  # fmt: skip
    done = 0
    failures: list[StructureError] = []

    def advance(until: int) -> None:
        nonlocal done
        while done < until:
            next(steps, None)
            done += 1

    with contextlib.closing(steps):
        for number, batch in enumerate(batches, start=1):
            copies = [structures[k].copy() for k in batch]
            title = f"{name}, batch {number} of {len(batches)} ({len(batch)} structures)"
            try:
                simulation.run(
                    potential, copies, writer, checkpoint.add, title=title, progress=progress and not one_bar,
                    step_done=lambda: advance(done + 1), memory=checkpoint.memory,
                )  # fmt: skip
            except StructureError as error:
                if simulation.engine != "ase":
                    raise
                failures.append(error)
            advance(number * length)  # one that was lost has no further steps
            checkpoint.save(often=True)
            checkpoint.forget(structures[k] for k in batch)
    _tell(failures)


def run_by_workers(
    simulation: Simulation,
    potential: Any,
    batches: Sequence[Sequence[int]],
    structures: Sequence[Atoms],
    checkpoint: MDCheckpoint,
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
    if not batches:
        return
    sent = send(potential)
    paths: dict[str, Path] = {}
    if simulation.files is not None:
        paths = simulation.files.writer(checkpoint.order).paths
        _remove_unfinished(simulation.files.folder)
    work = distribute(executor, run_batch, batches, lambda part: (simulation, sent, [structures[k] for k in part]))
    name = f"MD {simulation.settings.ensemble.upper()}, {len(batches)} portions"
    lost: dict[str, LostWork] = {}
    failures: list[StructureError] = []
    try:
        for part, result in track(work, name, total=len(batches), enabled=progress):
            if isinstance(result, LostWork):
                lost.update({structures[k].info["structure_id"]: result for k in part})
                continue
            records, folder, failure = result
            failures += [failure] if failure is not None else []
            if folder is not None:
                _collect_trajectories(Path(folder), [paths[record.structure_id] for record in records])
            for record in records:
                checkpoint.add(record)
            checkpoint.save(often=True)
    finally:
        if simulation.files is not None:
            _remove_unfinished(simulation.files.folder)
    if lost:
        first, cause = next(iter(lost.items()))
        suffix = f"; so did those of {len(lost) - 1} other structures" if len(lost) > 1 else ""
        raise StructureError(f"{cause.reason}{suffix}; the other structures are finished", structure=first)
    _tell(failures)


def run_batch(
    simulation: Simulation, sent: SentPotential, structures: list[Atoms]
) -> tuple[list[RunRecord], str | None, StructureError | None]:
    """In a worker: simulate structures; records, the folder of their trajectories, and why one has none."""
    records: list[RunRecord] = []
    writer = folder = None
    if simulation.files is not None:
        folder = simulation.files.folder / f"{UNFINISHED}{uuid.uuid4().hex}"  # a second attempt has its own
        writer = simulation.files.writer([a.info["structure_id"] for a in structures], folder)
    failure = None
    try:
        simulation.run(receive(sent), structures, writer, records.append)
    except StructureError as error:
        if simulation.engine != "ase":
            raise
        failure = StructureError(error.message, structure=error.structure, field=error.field)  # travels without cause
    return records, None if folder is None else str(folder), failure


def _tell(failures: Sequence[StructureError]) -> None:
    """Raise what happened to structures that could not be simulated, when all others are finished."""
    if not failures:
        return
    first, n = failures[0], len(failures)
    others = f"; so it was with {n - 1} other structures" if n > 1 else ""
    message = f"{first.message}{others}; all others are finished"
    raise StructureError(message, structure=first.structure, field=first.field) from first


def _collect_trajectories(folder: Path, targets: Sequence[Path]) -> None:
    """Move trajectories out of a worker's folder."""
    if not folder.is_dir():
        raise PhysPretrainError(
            f"a worker wrote trajectories to {folder}, which is not there: they need a folder that all machines share"
        )
    for target in targets:
        with contextlib.suppress(FileNotFoundError):  # of a trajectory without a single frame
            (folder / target.name).replace(target)
    shutil.rmtree(folder, ignore_errors=True)


def _remove_unfinished(folder: Path) -> None:
    for abandoned in folder.glob(f"{UNFINISHED}*"):
        shutil.rmtree(abandoned, ignore_errors=True)
