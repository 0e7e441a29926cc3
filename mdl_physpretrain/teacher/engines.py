"""Engines of labelling: an energy model in batches, the EAM's kernel, or an ASE calculator.

An engine turns structures into outcomes: labels, or the reason why there are none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, cast

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from ase.data import chemical_symbols

from mdl_physpretrain.errors import ConfigError, StructureError, TeacherRefused
from mdl_physpretrain.graphs.batch import AtomicBatch, build_batch, collate
from mdl_physpretrain.potentials.base import EnergyModel, Prediction, predict
from mdl_physpretrain.potentials.calculator import ASECalculator
from mdl_physpretrain.potentials.results import energy_of, forces_of, stress_of
from mdl_physpretrain.potentials.zbl import ZBL
from mdl_physpretrain.structures.identifiers import stable_id
from mdl_physpretrain.structures.labels import LABEL_NAMES, Labels
from mdl_physpretrain.teacher.journal import Outcome

__all__ = ["LABEL_BOUND", "Engine", "Teacher", "make_engine", "refuse_examined", "refuse_failed"]

Teacher: TypeAlias = EnergyModel | BaseCalculator | Callable[[], BaseCalculator]

MAX_EDGES_CPU = 100_000  # per batch: what fits the cache is fastest
MAX_EDGES_GPU = 4_000_000
LABEL_BOUND = 1000.0  # eV/Å: ten times the nuclear repulsion at half the sum of covalent radii


class Engine(Protocol):
    """What labelling needs to know of a teacher."""

    name: str
    potential: object  # the model or the calculator itself
    cutoff: float | None  # Å; of a model
    max_edges: int  # per batch of a model

    def check(self, jobs: Sequence[Atoms]) -> None:
        """Raise if a structure is beyond the teacher, before any work is done."""

    def outcomes(self, jobs: Iterable[Atoms]) -> Iterator[list[Outcome]]:
        """Outcomes in order, some at a time; how many depends on the structures only."""

    def source(self, atoms: Atoms) -> str:
        """Name of what labels a structure."""


def refuse_failed(teacher: EnergyModel, force: bool, section: str | None = None) -> None:
    """Raise :class:`TeacherRefused` for a teacher that failed its examination (in its metadata), unless forced."""
    refuse_examined(teacher.metadata.get("examination", {}), force, section)


def refuse_examined(examination: Mapping[str, Any], force: bool, section: str | None = None) -> None:
    """Raise :class:`TeacherRefused` for an examination that was failed, unless forced."""
    if examination.get("passed") is False and not force:
        reasons = "; ".join(map(str, examination.get("failures", []))) or "no reasons recorded"
        advice = "Fit a better one, or label with force=True if you know that this one will do"
        if section is not None:
            advice = f"Change the section {section}, or set '{section}.force: true' if you know that it will do"
        raise TeacherRefused(f"the teacher failed its examination and may not label: {reasons}. {advice}")


def make_engine(teacher: Teacher, batch_size: int, stress: bool, force: bool, *, bounded: bool = True) -> Engine:
    """What labels with a teacher in this process.

    ``bounded``: labels of forces that the examination of a model does not vouch for are refused.
    """
    if isinstance(teacher, ASECalculator):
        teacher = teacher.model  # the same numbers, in batches
    if isinstance(teacher, EnergyModel):
        refuse_failed(teacher, force)
        kind = _ModelEngine if teacher.labeller() is None else _LabellerEngine
        return kind(teacher, batch_size, stress, bounded)
    if hasattr(teacher, "labelling_engine"):  # two potentials
        engine: Engine = teacher.labelling_engine(batch_size, stress, force, bounded)
        return engine
    if isinstance(teacher, type) or not hasattr(teacher, "get_potential_energy"):
        if not callable(teacher):
            raise ConfigError(
                f"teacher must be an EnergyModel, an ASE calculator or a function that makes one, not {teacher!r}"
            )
        return _CalculatorEngine(teacher(), teacher, stress)
    return _CalculatorEngine(cast("BaseCalculator", teacher), None, stress)


class _ModelEngine:
    """An :class:`EnergyModel`, in batches limited by structures and edges."""

    def __init__(self, model: EnergyModel, batch_size: int, stress: bool, bounded: bool) -> None:
        self.model, self.potential = model, cast("object", model)
        self.batch_size, self.stress = batch_size, stress
        self.name = model.registry_name or type(model).__name__.lower()
        self.cutoff: float | None = model.cutoff
        self.max_edges = MAX_EDGES_CPU if model.device.type == "cpu" else MAX_EDGES_GPU
        examination = model.metadata.get("examination")
        self.max_force = examination.get("max_force") if bounded and isinstance(examination, dict) else None

    def source(self, atoms: Atoms) -> str:
        return self.name

    def check(self, jobs: Sequence[Atoms]) -> None:
        allowed = self.model.known_elements()
        for atoms in jobs:
            symbols = {chemical_symbols[z] for z in np.unique(atoms.numbers)}
            if unknown := sorted(symbols - allowed) if allowed is not None else []:
                words = "is unknown to"
            else:
                unknown, words = self.model.untrained_elements(symbols), "was not in the training of"
            if unknown:
                known = ", ".join(sorted(allowed or self.model.metadata["elements"]))
                raise StructureError(
                    f"element {', '.join(unknown)} {words} this {self.name} ({known})",
                    structure=stable_id(atoms),
                    field="numbers",
                )

    def outcomes(self, jobs: Iterable[Atoms]) -> Iterator[list[Outcome]]:
        training = self.model.training
        self.model.eval()
        try:
            pending: list[AtomicBatch | str] = []
            waiting: list[Atoms] = []
            edges = 0
            for atoms in jobs:
                item = self._batch(atoms)
                size = 0 if isinstance(item, str) else item.edge_index.shape[1]
                if pending and (len(pending) == self.batch_size or edges + size > self.max_edges):
                    yield self._bounded(self._predict(pending), waiting)
                    pending, waiting, edges = [], [], 0
                pending.append(item)
                waiting.append(atoms)
                edges += size
            if pending:
                yield self._bounded(self._predict(pending), waiting)
        finally:
            self.model.train(training)

    def _bounded(self, outcomes: list[Outcome], structures: Sequence[Atoms]) -> list[Outcome]:
        """The outcomes, without labels of forces that the examination does not vouch for."""
        if self.max_force is None:
            return outcomes
        return [
            outcome if isinstance(outcome, str) else _within(outcome, atoms, self.max_force)
            for outcome, atoms in zip(outcomes, structures, strict=True)
        ]

    def _batch(self, atoms: Atoms) -> AtomicBatch | str:
        bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        bare.info["structure_id"] = stable_id(atoms)
        try:
            return build_batch(bare, self.model.cutoff, dtype=self.model.dtype)
        except StructureError as error:
            return str(error)

    def _predict(self, items: list[AtomicBatch | str]) -> list[Outcome]:
        batches = [item for item in items if not isinstance(item, str)]
        labels = iter(self._labels(batches) if batches else [])
        return [item if isinstance(item, str) else next(labels) for item in items]

    def _labels(self, batches: list[AtomicBatch]) -> list[Outcome]:
        batch = collate(batches)
        out: Prediction | None = None
        try:
            batch = batch.to(self.model.device)
            with torch.no_grad():
                out = predict(self.model, batch)
        except torch.cuda.OutOfMemoryError:
            if len(batches) == 1:
                raise
            self.max_edges = max(1, batch.edge_index.shape[1] // 2)  # of the batches to come, too
        except StructureError as error:
            if len(batches) == 1:
                return [str(error)]
            return [outcome for single in batches for outcome in self._labels([single])]
        if out is None:
            torch.cuda.empty_cache()
            half = len(batches) // 2
            return self._labels(batches[:half]) + self._labels(batches[half:])
        energy, forces, stress = (x.detach().double().cpu().numpy() for x in (out.energy, out.forces, out.stress))
        has_stress = self.stress & (batch.volumes > 1e-9).cpu().numpy()
        ends = np.cumsum(batch.n_atoms.cpu().numpy())
        return [
            _checked(Labels(float(energy[k]), part.copy(), stress[k].copy() if has_stress[k] else None))
            for k, part in enumerate(np.split(forces, ends[:-1]))
        ]


class _LabellerEngine(_ModelEngine):
    """A model with a labeller of its own; what that leaves is left to the formula, with its errors."""

    def outcomes(self, jobs: Iterable[Atoms]) -> Iterator[list[Outcome]]:
        labeller = self.model.labeller()
        assert labeller is not None
        for portion in labeller.stream(jobs, torch.get_num_threads()):
            yield [self._outcome(atoms, labels) for atoms, labels in portion]

    def _outcome(self, atoms: Atoms, labels: Labels | None) -> Outcome:
        if labels is None:
            outcome = self._predict([self._batch(atoms)])[0]
        else:
            outcome = _checked(labels if self.stress else Labels(labels.energy, labels.forces, None))
        return self._bounded([outcome], [atoms])[0]


class _CalculatorEngine:
    """Any ASE calculator, one structure at a time; made anew after a failure where that is possible."""

    cutoff: float | None = None
    max_edges = 0

    def __init__(self, calculator: BaseCalculator, factory: Callable[[], BaseCalculator] | None, stress: bool) -> None:
        self.calculator = self.potential = calculator
        self.factory, self.stress = factory, stress
        self.name = str(getattr(calculator, "name", None) or type(calculator).__name__.lower())

    def source(self, atoms: Atoms) -> str:
        return self.name

    def check(self, jobs: Sequence[Atoms]) -> None:
        """An ASE calculator does not say which elements it knows."""

    def outcomes(self, jobs: Iterable[Atoms]) -> Iterator[list[Outcome]]:
        for atoms in jobs:
            yield [self._one(atoms)]

    def _one(self, atoms: Atoms) -> Outcome:
        free = atoms.copy()
        free.set_constraint()  # labels are the forces of the potential, not of the constraints
        calculator = self.calculator
        try:
            energy = energy_of(calculator.get_potential_energy(free))
            forces = forces_of(calculator.get_forces(free), len(free))
            stress = self._stress(free) if self.stress and abs(np.linalg.det(free.cell.array)) > 1e-9 else None
        except Exception as error:  # a foreign code may raise anything; one structure must not cost the others
            if self.factory is not None:
                self.calculator = self.factory()
            elif hasattr(calculator, "reset"):
                calculator.reset()
            lines = str(error).splitlines() or [""]
            kind = "" if isinstance(error, StructureError) else f"{type(error).__name__}: "
            return f"{kind}{lines[0][:300]}"
        return _checked(Labels(energy, forces, stress))

    def _stress(self, atoms: Atoms) -> np.ndarray | None:
        try:
            return stress_of(self.calculator.get_stress(atoms))
        except NotImplementedError:
            return None


def _within(labels: Labels, atoms: Atoms, max_force: float) -> Outcome:
    """The labels, if no force is larger than ``max_force`` (eV/Å) beyond what bare nuclei would repel with."""
    assert labels.forces is not None
    largest = float(np.linalg.norm(labels.forces, axis=1).max(initial=0.0))
    if largest <= max_force:
        return labels
    nuclei = ZBL(inner=1.0, outer=1.2).double()  # at full strength up to contact
    bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    repulsion = predict(nuclei, build_batch(bare, nuclei.cutoff, torch.float64)).forces.detach()
    allowed = max_force + 2 * float(torch.linalg.vector_norm(repulsion, dim=1).max())
    if largest <= allowed:
        return labels
    return f"force of {largest:.3g} eV/Å, beyond what the teacher knows (at most {allowed:.3g} there)"


def _checked(labels: Labels) -> Outcome:
    for name in LABEL_NAMES:
        value = getattr(labels, name)
        if value is not None and not np.isfinite(value).all():
            return f"NaN or infinite {name}"
    return labels
