"""Labels of augmented structures, by an EAM or by any ASE calculator.

A teacher is an engine that turns structures into outcomes: labels, or the
reason why there are none. Everything else (resume, anchoring, reporting) does
not know which kind of teacher is at work.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, cast

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from ase.data import chemical_symbols
from ase.stress import voigt_6_to_full_3x3_stress

from mdl_physpretrain.augmentation.anchor import anchored_labels, parents_of
from mdl_physpretrain.augmentation.seeding import stable_id
from mdl_physpretrain.batch import AtomicBatch, build_batch, collate
from mdl_physpretrain.errors import ConfigError, StructureError, TeacherRefused
from mdl_physpretrain.models.base import EnergyModel, predict
from mdl_physpretrain.models.calculator import ASECalculator
from mdl_physpretrain.structures.labels import Labels, set_labels
from mdl_physpretrain.teacher.evaluation import Engine, evaluate
from mdl_physpretrain.teacher.journal import Outcome
from mdl_physpretrain.teacher.kernel_labels import EAMKernel

if TYPE_CHECKING:
    from concurrent.futures import Executor

__all__ = ["LabelFailure", "Labelled", "Teacher", "label", "make_engine"]

Teacher: TypeAlias = EnergyModel | BaseCalculator | Callable[[], BaseCalculator]

MAX_EDGES_CPU = 100_000  # per batch: what fits the cache is fastest
MAX_EDGES_GPU = 4_000_000


class LabelFailure(NamedTuple):
    """A structure without labels, and why."""

    structure_id: str
    reason: str


class Labelled(list[Atoms]):
    """The labelled structures: a list that knows what could not be labelled.

    Attributes
    ----------
    failures
        One entry per structure that is missing in the list.
    """

    def __init__(self, structures: Iterable[Atoms] = (), *, failures: Iterable[LabelFailure] = ()) -> None:
        super().__init__(structures)
        self.failures = list(failures)


def label(
    structures: Sequence[Atoms],
    teacher: Teacher,
    *,
    batch_size: int = 64,
    stress: bool = True,
    anchor: bool = False,
    parents: Sequence[Atoms] | None = None,
    resume: str | Path | None = None,
    force: bool = False,
    on_error: Literal["skip", "raise"] = "skip",
    executor: Executor | None = None,
    progress: bool = False,
) -> Labelled:
    """Copies of the structures with the teacher's energy, forces and stress.

    Parameters
    ----------
    structures
        Usually of :func:`mdl_physpretrain.augmentation.augment`.
    teacher
        An :class:`EnergyModel` (evaluated in batches, in its own dtype and on
        its own device), an ASE calculator, or a function without arguments
        that makes one.
    batch_size
        Most structures per batch of a model (fewer where they have many
        edges), and per chunk of the ``resume`` file.
    stress
        Label the stress, where the structure has a volume and the teacher
        knows it.
    anchor
        Correct the teacher to first order with the parent's own labels, so
        that it describes the change on the way from the parent ``x0`` to
        ``x = x0 + u`` and the labels of the parent the rest (our method, not
        the paper's)::

            E = E_T(x) - [E_T(x0) - F_T(x0).u] + [E_ref(x0) - F_ref(x0).u]
            F = F_T(x) - F_T(x0) + F_ref(x0)
            S = S_T(x) - S_T(x0) + S_ref(x0)

        ``F`` is exactly ``-dE/dx`` for a fixed parent. ``S`` is not exactly
        the strain derivative of ``E``: straining ``x0`` and ``u`` together
        also changes ``(F_ref - F_T)(x0).u``, which adds terms of first order
        in ``u``, one of which needs the reference's second derivatives. They
        are left out; the error vanishes with ``u``. Without a reference stress
        of the parent there is no stress label.
    parents
        With ``anchor``: the labelled parents, matched by ``info["parent_id"]``;
        ``u`` is ``arrays["aug_displacement"]``. Ignored otherwise.
    resume
        File that finished chunks are appended to, with checksums. A later call
        with the same structures and teacher takes them from there, drops a
        torn end, and goes on; the result is that of an uninterrupted call. Of
        an ASE calculator only name and parameters are compared: a change of
        weights that these do not show is not noticed. The file stays; delete
        it when the labels are saved.
    force
        Let a teacher label that failed its examination.
    on_error
        A structure that the teacher fails on (an exception of a calculator, a
        label that is not finite) is ``"skip"``: left out, listed in
        ``.failures``, with one warning; or ``"raise"``: a StructureError.
        Finished work is in the ``resume`` file either way.
    executor
        Workers that share the labelling: any ``concurrent.futures.Executor``
        (:class:`mdl_physpretrain.distributed.Processes`, Dask's
        ``client.get_executor()``, ...). The labels are those of one process
        with one thread on the same kind of machine, bit for bit. The teacher
        travels as checkpoint or by name; a calculator that cannot be pickled
        has to be made by a function of a module. A structure that kills every
        worker counts as failed.
    progress
        Show a progress bar.

    Returns
    -------
    Labelled
        A ``list[Atoms]`` in the order given; energy in eV, forces in eV/Å,
        stress in eV/Å³ (ASE sign) as float64 on a ``SinglePointCalculator``;
        ``info["label_source"]`` is the teacher's name (``"eam"``, ``"emt"``,
        with ``"-anchored"`` behind it where it is).

    Raises
    ------
    TeacherRefused
        If the teacher failed its examination and is not forced.
    StructureError
        On an element that the teacher does not know, a missing or unsuitable
        parent, or when every structure failed.
    ConfigError
        On an option out of range, a ``resume`` file of other work, or a
        teacher that cannot be sent to another process.
    PhysPretrainError
        If the executor takes no more work.
    """
    structures = list(structures)
    if not structures:
        raise StructureError("there are no structures to label")
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, not {batch_size}")
    if on_error not in ("skip", "raise"):
        raise ConfigError(f"on_error must be 'skip' or 'raise', not {on_error!r}")
    engine = make_engine(teacher, batch_size, stress, force)
    needed = parents_of(structures, parents) if anchor else {}
    # the parents are jobs like the others, so that an interruption does not cost them either
    jobs = [*needed.values(), *structures]
    engine.check(jobs)
    outcomes = evaluate(
        jobs,
        engine,
        resume=resume,
        batch_size=batch_size,
        on_error=on_error,
        progress=progress,
        executor=executor,
        teacher=teacher,
        stress=stress,
    )
    of_parent = dict(zip(needed, outcomes, strict=False))

    result = Labelled()
    for atoms, outcome in zip(structures, outcomes[len(needed) :], strict=True):
        if anchor and not isinstance(outcome, str):
            parent = str(atoms.info["parent_id"])
            outcome = anchored_labels(atoms, outcome, needed[parent], of_parent[parent])
        if isinstance(outcome, str):
            result.failures.append(LabelFailure(stable_id(atoms), outcome))
            continue
        copy = set_labels(atoms.copy(), outcome)
        copy.info["label_source"] = f"{engine.name}-anchored" if anchor else engine.name
        result.append(copy)
    if result.failures:
        first = result.failures[0]
        counted = f"{engine.name} failed on {len(result.failures)} of {len(structures)} structures"
        if not result:
            raise StructureError(f"{counted}; the first: {first.reason}", structure=first.structure_id)
        warnings.warn(f"{counted}; the first, {first.structure_id}: {first.reason}", stacklevel=2)
    return result


def refuse_failed(teacher: EnergyModel, force: bool) -> None:
    """Raise :class:`TeacherRefused` for a teacher that failed its examination, unless forced."""
    verdict = getattr(teacher, "metadata", {}).get("examination", {})
    if verdict.get("passed") is False and not force:
        reasons = "; ".join(map(str, verdict.get("failures", []))) or "no reasons recorded"
        raise TeacherRefused(
            f"this teacher failed its examination and may not label: {reasons}. Fit a better one, "
            "or label with force=True if you know that this one will do"
        )


def make_engine(teacher: Teacher, batch_size: int, stress: bool, force: bool) -> Engine:
    """What labels with a teacher in this process."""
    if isinstance(teacher, ASECalculator):
        teacher = teacher.model  # the same numbers, in batches
    if isinstance(teacher, EnergyModel):
        refuse_failed(teacher, force)
        kind = _KernelEngine if EAMKernel.suits(teacher) else _ModelEngine
        return kind(teacher, batch_size, stress)
    if isinstance(teacher, type) or not hasattr(teacher, "get_potential_energy"):
        if not callable(teacher):
            raise ConfigError(
                f"teacher must be an EnergyModel, an ASE calculator or a function that makes one, not {teacher!r}"
            )
        return _CalculatorEngine(teacher(), teacher, stress)
    return _CalculatorEngine(cast("BaseCalculator", teacher), None, stress)


class _ModelEngine:
    """An :class:`EnergyModel`, in batches limited by structures and edges."""

    def __init__(self, model: EnergyModel, batch_size: int, stress: bool) -> None:
        self.model, self.batch_size, self.stress = model, batch_size, stress
        self.name = model.registry_name or type(model).__name__.lower()
        self.cutoff: float | None = model.cutoff
        self.max_edges = MAX_EDGES_CPU if model.device.type == "cpu" else MAX_EDGES_GPU

    def check(self, jobs: Sequence[Atoms]) -> None:
        # parts of a Sum count too
        parts: list[Any] = [m for m in self.model.modules() if hasattr(m, "elements")]
        known = [{str(e) for e in part.elements} for part in parts]
        if not known:
            return
        allowed = set.intersection(*known)
        for atoms in jobs:
            strange = sorted({chemical_symbols[z] for z in np.unique(atoms.numbers)} - allowed)
            if strange:
                raise StructureError(
                    f"element {', '.join(strange)} is unknown to this {self.name} ({', '.join(sorted(allowed))})",
                    structure=stable_id(atoms),
                    field="numbers",
                )

    def identity(self) -> bytes:
        digest = blake2b(json.dumps([self.name, self.stress, self.model.hparams], sort_keys=True, default=str).encode())
        for key, value in self.model.state_dict().items():
            digest.update(f"{key}{tuple(value.shape)}{value.dtype}".encode())
            digest.update(value.detach().cpu().double().numpy().tobytes())
        return digest.digest()

    def outcomes(self, jobs: Iterable[Atoms]) -> Iterator[list[Outcome]]:
        training = self.model.training
        self.model.eval()
        try:
            pending: list[AtomicBatch | str] = []
            edges = 0
            for atoms in jobs:
                item = self._batch(atoms)
                size = 0 if isinstance(item, str) else item.edge_index.shape[1]
                if pending and (len(pending) == self.batch_size or edges + size > self.max_edges):
                    yield self._predict(pending)
                    pending, edges = [], 0
                pending.append(item)
                edges += size
            if pending:
                yield self._predict(pending)
        finally:
            self.model.train(training)

    def _batch(self, atoms: Atoms) -> AtomicBatch | str:
        bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        bare.info["structure_id"] = stable_id(atoms)
        try:
            return build_batch(bare, self.model.cutoff, dtype=self.model.dtype)
        except StructureError as error:
            return str(error)

    def _predict(self, items: list[AtomicBatch | str]) -> list[Outcome]:
        batches = [item for item in items if not isinstance(item, str)]
        found = iter(self._labels(batches) if batches else [])
        return [item if isinstance(item, str) else next(found) for item in items]

    def _labels(self, batches: list[AtomicBatch]) -> list[Outcome]:
        batch = collate(batches).to(self.model.device)
        try:
            with torch.no_grad():
                out = predict(self.model, batch)
        except StructureError as error:
            if len(batches) == 1:
                return [str(error)]
            return [outcome for single in batches for outcome in self._labels([single])]
        energy, forces, stress = (x.detach().double().cpu().numpy() for x in (out.energy, out.forces, out.stress))
        has_stress = self.stress & (batch.volumes > 1e-9).cpu().numpy()
        ends = np.cumsum(batch.n_atoms.cpu().numpy())
        return [
            _checked(Labels(float(energy[k]), part.copy(), stress[k].copy() if has_stress[k] else None))
            for k, part in enumerate(np.split(forces, ends[:-1]))
        ]


class _KernelEngine(_ModelEngine):
    """An EAM in machine code; what is unusual is left to the reference, with its errors."""

    def outcomes(self, jobs: Iterable[Atoms]) -> Iterator[list[Outcome]]:
        kernel = EAMKernel(self.model)  # type: ignore[arg-type]
        for portion in kernel.stream(jobs, torch.get_num_threads()):
            yield [self._outcome(atoms, labels) for atoms, labels in portion]

    def _outcome(self, atoms: Atoms, labels: Labels | None) -> Outcome:
        if labels is None:
            return self._predict([self._batch(atoms)])[0]
        return _checked(labels if self.stress else Labels(labels.energy, labels.forces, None))


class _CalculatorEngine:
    """Any ASE calculator, one structure at a time; made anew after a failure where that is possible."""

    cutoff: float | None = None
    max_edges = 0

    def __init__(self, calculator: BaseCalculator, factory: Callable[[], BaseCalculator] | None, stress: bool) -> None:
        self.calculator, self.factory, self.stress = calculator, factory, stress
        self.name = str(getattr(calculator, "name", None) or type(calculator).__name__.lower())

    def check(self, jobs: Sequence[Atoms]) -> None:
        """An ASE calculator does not say which elements it knows."""

    def identity(self) -> bytes:
        kind = type(self.calculator)
        parameters = dict(getattr(self.calculator, "parameters", None) or {})
        # other values may print an address, which changes from run to run
        plain = {k: v for k, v in parameters.items() if isinstance(v, (str, int, float, bool, list, tuple, type(None)))}
        known = [kind.__module__, kind.__qualname__, self.name, self.stress, plain]
        return json.dumps(known, sort_keys=True, default=str).encode()

    def outcomes(self, jobs: Iterable[Atoms]) -> Iterator[list[Outcome]]:
        for atoms in jobs:
            yield [self._one(atoms)]

    def _one(self, atoms: Atoms) -> Outcome:
        free = atoms.copy()
        free.set_constraint()  # labels are the forces of the potential, not of the constraints
        calculator = self.calculator
        try:
            energy = float(calculator.get_potential_energy(free))
            forces = np.array(calculator.get_forces(free), dtype=np.float64)
            stress = self._stress(free) if self.stress and abs(np.linalg.det(free.cell.array)) > 1e-9 else None
        except Exception as error:  # a foreign code may raise anything; one structure must not cost the others
            if self.factory is not None:
                self.calculator = self.factory()
            elif hasattr(calculator, "reset"):
                calculator.reset()
            lines = str(error).splitlines() or [""]
            return f"{type(error).__name__}: {lines[0][:300]}"
        return _checked(Labels(energy, forces, stress))

    def _stress(self, atoms: Atoms) -> np.ndarray | None:
        try:
            found = np.asarray(self.calculator.get_stress(atoms), dtype=np.float64)
        except NotImplementedError:
            return None
        return voigt_6_to_full_3x3_stress(found) if found.size == 6 else found.reshape(3, 3).copy()


def _checked(labels: Labels) -> Outcome:
    for name in ("energy", "forces", "stress"):
        value = getattr(labels, name)
        if value is not None and not np.isfinite(value).all():
            return f"NaN or infinite {name}"
    return labels
