"""Outcomes of many structures: portion by portion, here or elsewhere, kept in a file."""

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
from mdl_physpretrain.executors.scatter import Lost, scatter
from mdl_physpretrain.executors.transfer import SentPotential, receive, send
from mdl_physpretrain.progress import track
from mdl_physpretrain.structures.identifiers import stable_id
from mdl_physpretrain.teacher.engines import Engine, make_engine
from mdl_physpretrain.teacher.journal import Journal, Outcome

__all__ = ["evaluate", "portions"]

PORTION_BATCHES = 4  # of a model, about
PORTIONS_OF_CALCULATOR = 256  # its speed is not known; a death costs one of them
PORTION_STRUCTURES = 16  # of a calculator, at most
FLUSH_SECONDS = 5.0  # finished work that a kill can cost when single structures take long
Part = tuple[Sequence[int], list[Outcome]]
_own = threading.local()  # the engine of a worker


def evaluate(
    jobs: Sequence[Atoms],
    engine: Engine,
    *,
    resume: str | Path | None,
    batch_size: int,
    on_error: str,
    progress: bool,
    executor: Executor | None,
    teacher: Any,
    stress: bool,
) -> list[Outcome]:
    """Outcomes of all jobs; those in the resume file are not computed again.

    Parameters
    ----------
    jobs
        Structures.
    engine
        Of the teacher, in this process.
    resume
        File of finished work.
    batch_size, on_error, progress, executor, teacher, stress
        Of :func:`mdl_physpretrain.teacher.label`.

    Raises
    ------
    StructureError
        With ``on_error="raise"``, of a structure that failed.
    ConfigError
        If the file is of other work or the teacher cannot be sent.
    """
    journal = None if resume is None else Journal(Path(resume), _fingerprint(jobs, engine))
    found: dict[int, Outcome] = {} if journal is None else journal.read()
    if on_error == "raise":
        _raise_failed(jobs, found, engine, f" (recorded in {resume}; delete that to try again)")
    todo = [left for part in portions(jobs, engine) if (left := [k for k in part if k not in found])]
    if executor is None:
        parts = _here(jobs, engine, todo, progress)
    else:
        sent = send(teacher) if todo else None
        parts = _elsewhere(jobs, engine.name, todo, executor, (sent, batch_size, stress), progress)
    unsaved: dict[int, Outcome] = {}
    last = time.monotonic()

    def save() -> None:
        if on_error == "raise":  # what is raised for is tried again
            for k in [k for k, outcome in unsaved.items() if isinstance(outcome, str)]:
                del unsaved[k]
        if journal is not None and unsaved:
            journal.append(unsaved)
        unsaved.clear()

    try:
        for indices, outcomes in parts:
            new = dict(zip(indices, outcomes, strict=True))
            found |= new
            unsaved |= new
            if on_error == "raise" and any(isinstance(o, str) for o in outcomes):
                break
            if len(unsaved) >= batch_size or time.monotonic() > last + FLUSH_SECONDS:
                save()
                last = time.monotonic()
    finally:
        save()
    if on_error == "raise":
        _raise_failed(jobs, found, engine)
    return [found[k] for k in range(len(jobs))]


def portions(jobs: Sequence[Atoms], engine: Engine) -> list[range]:
    """Which jobs are done together, whoever does them."""
    if engine.cutoff is None:
        size = min(max(len(jobs) // PORTIONS_OF_CALCULATOR, 1), PORTION_STRUCTURES)
        return [range(start, min(start + size, len(jobs))) for start in range(0, len(jobs), size)]
    ends, edges = [], 0.0
    for k, atoms in enumerate(jobs):
        edges += _edges(atoms, engine.cutoff)
        if edges >= PORTION_BATCHES * engine.max_edges or k == len(jobs) - 1:
            ends.append(k + 1)
            edges = 0.0
    return [range(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def _edges(atoms: Atoms, cutoff: float) -> float:
    """About how many directed edges a structure has."""
    volume = abs(float(np.linalg.det(atoms.cell.array))) if atoms.pbc.all() else 0.0
    per_atom = max(volume, 1.0) / len(atoms) if volume else 10.0  # Å³, of dense matter
    neighbours = 4 / 3 * math.pi * cutoff**3 / per_atom
    return len(atoms) * (neighbours if atoms.pbc.any() else min(neighbours, len(atoms) - 1.0))


def _here(jobs: Sequence[Atoms], engine: Engine, todo: Sequence[Sequence[int]], progress: bool) -> Iterator[Part]:
    total = sum(map(len, todo))
    if not total:
        return
    stream = track((jobs[k] for part in todo for k in part), f"label ({engine.name})", total=total, enabled=progress)
    for part in todo:
        ahead = iter(part)
        for outcomes in engine.outcomes(itertools.islice(stream, len(part))):
            yield list(itertools.islice(ahead, len(outcomes))), outcomes


def _elsewhere(
    jobs: Sequence[Atoms],
    name: str,
    todo: Sequence[Sequence[int]],
    executor: Executor,
    how: tuple[SentPotential | None, int, bool],
    progress: bool,
) -> Iterator[Part]:
    work = scatter(executor, label_portion, todo, lambda part: ([_bare(jobs[k]) for k in part], *how))
    for indices, result in track(work, f"label ({name}), portions", total=len(todo), enabled=progress):
        yield indices, [result.reason] if isinstance(result, Lost) else result


def _bare(atoms: Atoms) -> Atoms:
    copy = atoms.copy()  # without calculator
    copy.info["structure_id"] = stable_id(atoms)
    copy.set_constraint()
    return copy


def label_portion(jobs: Sequence[Atoms], sent: SentPotential, batch_size: int, stress: bool) -> list[Outcome]:
    """In a worker: the outcomes of some structures."""
    kind = (sent.digest, batch_size, stress)
    if getattr(_own, "kind", None) != kind:  # making a calculator may take longer than a portion
        # the examination was looked at where the labels go
        _own.engine, _own.kind = make_engine(receive(sent), batch_size, stress, force=True), kind
    return [outcome for part in _own.engine.outcomes(jobs) for outcome in part]


def _raise_failed(jobs: Sequence[Atoms], found: dict[int, Outcome], engine: Engine, more: str = "") -> None:
    failed = next((k for k in sorted(found) if isinstance(found[k], str)), None)
    if failed is not None:
        raise StructureError(f"{engine.name} failed: {found[failed]}{more}", structure=stable_id(jobs[failed]))


def _fingerprint(jobs: Sequence[Atoms], engine: Engine) -> str:
    """What a resume file must have been made of: the same teacher and structures in the same order."""
    digest = blake2b(engine.identity(), digest_size=16)
    for atoms in jobs:
        digest.update(f"{stable_id(atoms)}\0{len(atoms)}".encode())
        for array, dtype in (
            (atoms.numbers, "<i8"),
            (atoms.positions, "<f8"),
            (atoms.cell.array, "<f8"),
            (atoms.pbc, "?"),
        ):
            digest.update(np.ascontiguousarray(array, dtype=dtype).tobytes())
    return digest.hexdigest()
