"""Rates of a run on this machine: its own network takes a few steps with its own structures."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ase import Atoms

from mdl_physpretrain.dynamics.simulate import simulate
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.devices import resolve_device
from mdl_physpretrain.recipe import Training
from mdl_physpretrain.structures import read_structures
from mdl_physpretrain.teacher.source import calculator_factory
from mdl_physpretrain.training.train import train
from mdl_physpretrain.workflow.cost import Rates, Sizes
from mdl_physpretrain.workflow.data import read_part
from mdl_physpretrain.workflow.layout import LABELLED
from mdl_physpretrain.workflow.run_suite import RunSuite

if TYPE_CHECKING:
    from mdl_physpretrain.workflow.config import RunConfig

__all__ = ["data_sizes", "measured_rates"]

ENOUGH = 1.0  # seconds that a measurement should take; one that has taken them is not repeated with more
BATCHES, STEPS = 4, 20
FEW_STEPS = 4  # where what comes before the first step, or a step, is slow
ATOMS = 400  # that move at once, where so many are there


def data_sizes(config: RunConfig, folder: Path) -> Sizes:
    """Numbers of structures and atoms of the prepared data of a run folder."""
    train_part, val_part, test_part = (read_part(folder, name) for name in ("train", "val", "test"))
    starts = RunSuite(config, folder).starts()
    labelled = read_structures(folder / LABELLED) if (folder / LABELLED).is_file() else None
    return Sizes(
        train=_size(train_part),
        val=_size(val_part),
        test=_size(test_part),
        starts=_size(starts),
        elements=len({s for a in train_part for s in a.symbols}),
        labelled=None if labelled is None else _size(labelled),
    )


def measured_rates(config: RunConfig, folder: Path, jobs: int) -> Rates:
    """Time a few training steps and MD steps of the run's network on its prepared data; some seconds.

    Parameters
    ----------
    config
        Of the run.
    folder
        In which the data are prepared.
    jobs
        Tasks at a time: with several, each has one thread.
    """
    structures = read_part(folder, "train")
    starts = _few(RunSuite(config, folder).starts(), ATOMS)
    md = config.md.simulation(folder) | {"stop_on": (), "trajectory_dir": None, "checkpoint": None}
    with _undisturbed(jobs):
        network, per_atom = _training(config, structures)
        network.to(resolve_device(config.device))
        rates = {"train": per_atom, "md": _stepping(network, starts, md)}
        if config.md.reference_potential is not None:
            potential = RunSuite(config, folder).reference_potential()
            engine = md["engine"] if isinstance(potential, EnergyModel) else "ase"
            rates["reference"] = _stepping(potential, starts[:1], md | {"engine": engine})
        if config.teacher.calculator is not None and config.uses_labels:
            rates["label"] = _stepping(calculator_factory(config.teacher), structures[:1], md | {"engine": "ase"})
    return Rates(**rates)


def _training(config: RunConfig, structures: Sequence[Atoms]) -> tuple[Any, float]:
    """A network of the run, trained for an epoch, and seconds per atom of a training step."""
    options = config.finetune.model_dump(include=set(Training.model_fields)) | {"epochs": 2, "optimizer": "adamw"}
    if isinstance(options["force_scale"], str):
        options["force_scale"] = None
    trainer: dict[str, Any] = {"accelerator": config.accelerator, "devices": 1}
    for batches in (1, BATCHES):
        sample = list(structures[:: max(1, len(structures) // (batches * config.finetune.batch_size))])
        sample = sample[: batches * config.finetune.batch_size]
        network = train(
            config.backbone.name,
            sample,
            val=sample[:1],
            model_args=config.backbone.args,
            core=config.backbone.core,
            references=dict.fromkeys(sorted({s for a in structures for s in a.symbols}), 0.0),
            **trainer,
            **options,
        )
        first, second = (row["seconds"] for row in network.metadata["history"])
        if second - first > ENOUGH / 4 or len(sample) == len(structures):
            break
    network.metadata = {}
    return network, (second - first) / sum(map(len, sample))


def _stepping(potential: Any, starts: Sequence[Atoms], options: dict[str, Any]) -> float:
    """Seconds per atom and step of MD."""

    def run(steps: int) -> float:
        return _seconds(lambda: simulate(potential, starts, seed=0, **options | {"steps": steps}))

    run(1)  # compiles what is compiled
    few = run(2)  # with what a call takes once: a calculator reads its weights
    steps = FEW_STEPS if few > ENOUGH else STEPS
    return max(run(2 + steps) - few, 1e-6) / steps / sum(map(len, starts))


@contextmanager
def _undisturbed(jobs: int) -> Iterator[None]:
    """Threads as the run will have them; random numbers and warnings as if nothing had been measured."""
    threads = torch.get_num_threads()
    try:
        if jobs > 1:
            torch.set_num_threads(1)
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(threads)


def _few(structures: Sequence[Atoms], atoms: int) -> list[Atoms]:
    """The first structures with about so many atoms, at least one."""
    chosen: list[Atoms] = []
    for structure in structures:
        chosen.append(structure)
        if sum(map(len, chosen)) >= atoms:
            break
    return chosen


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _size(part: Sequence[Atoms]) -> tuple[int, int]:
    return len(part), sum(map(len, part))
