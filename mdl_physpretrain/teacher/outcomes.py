"""Labelling of many structures in batches, by this process or workers, with a resume file."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.executors.distribute import LostWork, distribute
from mdl_physpretrain.executors.transfer import SentPotential, receive, send
from mdl_physpretrain.potentials.identity import potential_fingerprint
from mdl_physpretrain.progress import track
from mdl_physpretrain.structures.fingerprint import structure_hash
from mdl_physpretrain.structures.identifiers import stable_id
from mdl_physpretrain.teacher.engines import Engine, make_engine
from mdl_physpretrain.teacher.journal import Journal, Outcome

__all__ = ["label_outcomes", "work_units"]

UNIT_BATCHES = 4  # of a model, about
UNITS_OF_CALCULATOR = 256  # its speed is not known; a death costs one of them
UNIT_STRUCTURES = 16  # of a calculator, at most
FLUSH_SECONDS = 5.0  # finished work that a kill can cost when single structures take long
Part = tuple[Sequence[int], list[Outcome]]
_worker = threading.local()  # the engine of a worker


def label_outcomes(
    jobs: Sequence[Atoms],
    engine: Engine,
    teacher: Any,
    *,
    batch_size: int,
    stress: bool,
    resume: str | Path | None,
    on_error: str,
    executor: Executor | None,
    progress: bool,
) -> list[Outcome]:
    """Outcomes of all jobs, see :func:`mdl_physpretrain.teacher.label`.

    Those in the resume file are not computed again.
    """
    outcomes: dict[int, Outcome] = {}
    journal = None
    if resume is not None:
        digest = blake2b(f"{engine.name}\0{stress}\0{potential_fingerprint(engine.potential)}".encode(), digest_size=16)
        for atoms in jobs:
            digest.update(f"{stable_id(atoms)}\0{structure_hash(atoms)}\0".encode())
        journal = Journal(Path(resume), digest.hexdigest())
        outcomes = journal.read()

    def raise_failed(hint: str = "") -> None:
        failed = next((k for k in sorted(outcomes) if isinstance(outcomes[k], str)), None)
        if on_error == "raise" and failed is not None:
            raise StructureError(f"{engine.name} failed: {outcomes[failed]}{hint}", structure=stable_id(jobs[failed]))

    raise_failed(f" (recorded in {resume}; delete that to try again)")
    todo = [left for unit in work_units(jobs, engine) if (left := [k for k in unit if k not in outcomes])]
    if executor is None:
        parts = _label_here(jobs, engine, todo, progress)
    else:
        sent = send(teacher) if todo else None
        parts = _label_by_workers(jobs, engine.name, todo, executor, (sent, batch_size, stress), progress)
    unsaved: dict[int, Outcome] = {}
    last_saved = time.monotonic()

    def save() -> None:
        if on_error == "raise":  # what is raised for is tried again
            for k in [k for k, outcome in unsaved.items() if isinstance(outcome, str)]:
                del unsaved[k]
        if journal is not None and unsaved:
            journal.append(unsaved)
        unsaved.clear()

    try:
        for indices, results in parts:
            new = dict(zip(indices, results, strict=True))
            outcomes |= new
            unsaved |= new
            if on_error == "raise" and any(isinstance(outcome, str) for outcome in results):
                break
            if len(unsaved) >= batch_size or time.monotonic() > last_saved + FLUSH_SECONDS:
                save()
                last_saved = time.monotonic()
    finally:
        save()
    raise_failed()
    return [outcomes[k] for k in range(len(jobs))]


def work_units(jobs: Sequence[Atoms], engine: Engine) -> list[range]:
    """Which jobs are done together, whoever does them."""
    if engine.cutoff is None:
        size = min(max(len(jobs) // UNITS_OF_CALCULATOR, 1), UNIT_STRUCTURES)
        return [range(start, min(start + size, len(jobs))) for start in range(0, len(jobs), size)]
    ends, edges = [], 0.0
    for k, atoms in enumerate(jobs):
        edges += _edges(atoms, engine.cutoff)
        if edges >= UNIT_BATCHES * engine.max_edges or k == len(jobs) - 1:
            ends.append(k + 1)
            edges = 0.0
    return [range(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def _edges(atoms: Atoms, cutoff: float) -> float:
    """About how many directed edges a structure has."""
    volume = abs(float(np.linalg.det(atoms.cell.array))) if atoms.pbc.all() else 0.0
    per_atom = max(volume, 1.0) / len(atoms) if volume else 10.0  # Å³, of dense matter
    neighbours = 4 / 3 * math.pi * cutoff**3 / per_atom
    return len(atoms) * (neighbours if atoms.pbc.any() else min(neighbours, len(atoms) - 1.0))


def _label_here(jobs: Sequence[Atoms], engine: Engine, todo: Sequence[Sequence[int]], progress: bool) -> Iterator[Part]:
    total = sum(map(len, todo))
    if not total:
        return
    stream = track((jobs[k] for part in todo for k in part), f"label ({engine.name})", total=total, enabled=progress)
    for part in todo:
        ahead = iter(part)
        for outcomes in engine.outcomes(itertools.islice(stream, len(part))):
            yield list(itertools.islice(ahead, len(outcomes))), outcomes


def _label_by_workers(
    jobs: Sequence[Atoms],
    name: str,
    todo: Sequence[Sequence[int]],
    executor: Executor,
    options: tuple[SentPotential | None, int, bool],
    progress: bool,
) -> Iterator[Part]:
    work = distribute(executor, label_unit, todo, lambda part: ([_bare(jobs[k]) for k in part], *options))
    for indices, result in track(work, f"label ({name}), portions", total=len(todo), enabled=progress):
        yield indices, [result.reason] if isinstance(result, LostWork) else result


def _bare(atoms: Atoms) -> Atoms:
    copy = atoms.copy()  # without calculator
    copy.info["structure_id"] = stable_id(atoms)
    copy.set_constraint()
    return copy


def label_unit(jobs: Sequence[Atoms], sent: SentPotential, batch_size: int, stress: bool) -> list[Outcome]:
    """In a worker: the outcomes of some structures."""
    key = (sent.digest, batch_size, stress)
    if getattr(_worker, "key", None) != key:  # making a calculator may take longer than a unit
        # the examination was looked at where the labels go
        _worker.engine, _worker.key = make_engine(receive(sent), batch_size, stress, force=True), key
    return [outcome for part in _worker.engine.outcomes(jobs) for outcome in part]
