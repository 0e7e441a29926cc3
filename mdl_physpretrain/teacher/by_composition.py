"""A calculator and a fitted potential as one teacher: each labels the compositions that it knows better.

Not of the paper. A potential that is fitted to a few hundred cells may know changes of force of strained crystals
better than any foundation model does, and those of their defects worse.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.calculators.calculator import BaseCalculator, Calculator, all_changes

from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.calculator import ASECalculator
from mdl_physpretrain.potentials.checkpoint import load_model
from mdl_physpretrain.potentials.identity import potential_fingerprint
from mdl_physpretrain.structures.labels import get_labels
from mdl_physpretrain.teacher.change_errors import (
    ChangeErrors,
    best_of_two,
    compared_change_errors,
    measured_change_errors,
)
from mdl_physpretrain.teacher.changes import forces_change, frame_pairs
from mdl_physpretrain.teacher.engines import Engine, make_engine
from mdl_physpretrain.teacher.journal import Outcome

__all__ = [
    "ByComposition",
    "better_by_composition",
    "both_potentials",
    "refuse_without_frames",
    "warn_of_better_fit",
    "with_forces",
]

CLEARLY = 0.5  # of the calculator's error: below, a potential that is fitted anyway is worth a word


class ByComposition:
    """Makes a calculator that asks a fitted potential about some compositions; has a name like a function.

    Parameters
    ----------
    factory
        Makes the calculator that is asked about all others.
    fitted
        The potential.
    compositions
        Formulas of all atoms of a structure (``In31P33``).
    errors
        Of the changes of force of both together.
    """

    def __init__(
        self,
        factory: Callable[[], BaseCalculator],
        fitted: EnergyModel,
        compositions: Collection[str],
        errors: ChangeErrors,
    ) -> None:
        self.factory, self.compositions, self.errors = factory, frozenset(compositions), errors
        self.checkpoint = _bytes(fitted)  # which other processes get
        self.fitted_name = str(fitted.metadata.get("teacher") or fitted.registry_name)
        self.fingerprint = potential_fingerprint(fitted)
        named, words = getattr(factory, "__qualname__", "calculator"), ", ".join(sorted(self.compositions))
        name = f"{named}, {self.fitted_name} {self.fingerprint[:12]} for {words or 'nothing'}"
        self.__qualname__ = self.__name__ = name
        self.options = getattr(factory, "options", {})

    @property
    def fitted(self) -> EnergyModel:
        """The potential."""
        return _model(self.checkpoint)

    def __call__(self) -> BaseCalculator:
        return _Either(self.factory(), self) if self.compositions else self.factory()

    def asks_fit(self, atoms: Atoms) -> bool:
        """Whether the fitted potential labels a structure."""
        return atoms.get_chemical_formula() in self.compositions

    def labels(self, composition: str) -> str:
        """Who labels a composition: the kind of the fitted potential, or ``calculator``."""
        return self.fitted_name if composition in self.compositions else "calculator"

    def labelling_engine(self, batch_size: int, stress: bool, force: bool, bounded: bool) -> Engine:
        """What labels in this process, see :func:`mdl_physpretrain.teacher.engines.make_engine`."""
        by_calculator = make_engine(self.factory, batch_size, stress, force, bounded=bounded)
        if not self.compositions:
            return by_calculator
        return _EitherEngine(self, by_calculator, make_engine(self.fitted, batch_size, stress, force, bounded=bounded))


class _Either(Calculator):  # type: ignore[misc]
    """One of two calculators, by the composition of the structure."""

    def __init__(self, calculator: BaseCalculator, teacher: ByComposition) -> None:
        super().__init__()
        self.calculator, self.fitted, self.teacher = calculator, ASECalculator(teacher.fitted), teacher
        self.implemented_properties = ["energy", "forces", "stress"]
        self.parameters |= {  # by which a later call knows it again
            "calculator": potential_fingerprint(calculator),
            "fitted": teacher.fingerprint,
            "compositions": sorted(teacher.compositions),
        }

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        super().calculate(atoms, list(properties), list(system_changes))
        inner: Any = self.fitted if self.teacher.asks_fit(self.atoms) else self.calculator
        ask = {"energy": inner.get_potential_energy, "forces": inner.get_forces, "stress": inner.get_stress}
        self.results = {name: ask[name](self.atoms) for name in properties}


class _EitherEngine:
    """Two engines, of which the composition of a structure chooses."""

    cutoff: float | None = None
    max_edges = 0

    def __init__(self, teacher: ByComposition, by_calculator: Engine, by_fit: Engine) -> None:
        self.teacher, self.by_calculator, self.by_fit = teacher, by_calculator, by_fit
        self.name = f"{by_calculator.name}|{teacher.fitted_name}"
        calculator: Any = by_calculator.potential
        self.potential: object = _Either(calculator, teacher)

    def check(self, jobs: Sequence[Atoms]) -> None:
        for fit, engine in ((False, self.by_calculator), (True, self.by_fit)):
            engine.check([atoms for atoms in jobs if self.teacher.asks_fit(atoms) == fit])

    def outcomes(self, jobs: Iterable[Atoms]) -> Iterator[list[Outcome]]:
        for atoms in jobs:
            yield from (self.by_fit if self.teacher.asks_fit(atoms) else self.by_calculator).outcomes([atoms])

    def source(self, atoms: Atoms) -> str:
        return self.teacher.fitted_name if self.teacher.asks_fit(atoms) else self.by_calculator.name


def better_by_composition(
    factory: Callable[[], BaseCalculator],
    fitted: EnergyModel,
    structures: Sequence[Atoms],
    option: str = "teacher.with_fitted",
) -> ByComposition:
    """The teacher in which each of a calculator and a fitted potential labels what it knows better.

    Parameters
    ----------
    factory
        Makes the calculator.
    fitted
        The potential, with its examination in the metadata. One that failed it labels nothing, and a warning says so.
    structures
        With energies and forces. Of each composition the errors of changes of force between frames of the same atoms
        are compared, of one without such frames those over all data.
    option
        For messages.

    Raises
    ------
    ConfigError
        If no force changes between any two frames of the same atoms, so that there is nothing to compare by.
    """
    if reason := _useless(fitted, structures):
        warnings.warn(f"{option}: the calculator labels all, as the fitted potential {reason}", stacklevel=2)
        return ByComposition(factory, fitted, (), _measured(factory, structures, option))
    by_fit, by_calculator, better = compared_change_errors(fitted, factory, structures)
    if by_fit is None or by_calculator is None:
        raise ConfigError(f"{option}: no force changes between the frames of the training structures")
    return ByComposition(factory, fitted, better, best_of_two(by_calculator, by_fit, better))


def _useless(fitted: EnergyModel, structures: Sequence[Atoms]) -> str:
    """Why a fitted potential may label nothing; empty where it may."""
    examination = fitted.metadata.get("examination") or {}
    if examination.get("passed") is False:
        return f"failed its examination: {'; '.join(map(str, examination.get('failures', [])))}"
    try:
        measured_change_errors(fitted, structures)
    except StructureError as error:  # of other elements, for example
        return f"answers no two frames: {error}"
    return ""


def _measured(factory: Callable[[], BaseCalculator], structures: Sequence[Atoms], option: str) -> ChangeErrors:
    errors = measured_change_errors(factory, structures)
    if errors is None:
        raise ConfigError(f"{option}: no force changes between the frames of the training structures")
    return errors


def both_potentials(teacher: Any, fitted: Any, structures: Sequence[Atoms], *, anchored: bool) -> ByComposition:
    """The teacher of ``label --with-fitted``: a calculator's factory and a fitted potential, checked, as one.

    ``structures`` are the parents of the structures to label. Raises ConfigError if ``teacher`` makes no calculator,
    ``fitted`` is no fitted potential, or labels are not anchored.
    """
    if isinstance(teacher, EnergyModel) or not callable(teacher):
        raise ConfigError("--with-fitted: --teacher has to be module:factory of a calculator")
    if not isinstance(fitted, EnergyModel):
        raise ConfigError("--with-fitted has to be a fitted teacher (.pt)")
    if not anchored:
        raise ConfigError("--with-fitted mixes the labels of two potentials: they have to be anchored (--parents FILE)")
    usable = with_forces(structures)
    refuse_without_frames(usable, "--with-fitted")
    return better_by_composition(teacher, fitted, usable, "--with-fitted")


def with_forces(structures: Sequence[Atoms]) -> list[Atoms]:
    """Structures that have an energy and forces."""
    return [a for a in structures if get_labels(a).energy is not None and get_labels(a).forces is not None]


def refuse_without_frames(structures: Sequence[Atoms], option: str) -> None:
    """Raise ConfigError where two potentials cannot be compared, before any long work."""
    if not forces_change(structures, frame_pairs(structures)):
        raise ConfigError(
            f"{option} compares potentials by changes of force between frames of the same atoms, and the "
            "training structures have no two such frames between which forces change: leave it out"
        )


def warn_of_better_fit(fitted: EnergyModel, errors: ChangeErrors, structures: Sequence[Atoms]) -> None:
    """Warn where a calculator labels alone and a fitted potential knows some compositions clearly better.

    ``errors`` are the calculator's, on the same structures.
    """
    by_fit = None if _useless(fitted, structures) else measured_change_errors(fitted, structures)
    if by_fit is None:
        return
    both = {name: (skill, errors.skills[name]) for name, skill in by_fit.skills.items() if name in errors.skills}
    better = [
        name
        for name, (fit, other) in both.items()
        if fit.pairs == other.pairs and fit.pairs and fit.error < CLEARLY * other.error  # on the same frames
    ]
    if not better:
        return
    name = max(better, key=lambda name: (both[name][0].pairs, name))
    shares = [f"{100 * skill.error / skill.trivial:.0f}%" for skill in both[name]]
    more = f" and {len(better) - 1} more" if len(better) > 1 else ""
    warnings.warn(
        f"a potential fitted to the data knows changes of force of {name}{more} better than the calculator that "
        f"teaches (wrong by {shares[0]} of them, the calculator by {shares[1]}): with teacher.with_fitted each "
        "labels what it knows better",
        stacklevel=2,
    )


def _bytes(model: EnergyModel) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fitted.pt"
        model.save(path)
        return path.read_bytes()


@lru_cache(maxsize=4)
def _model(content: bytes) -> EnergyModel:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fitted.pt"
        path.write_bytes(content)
        return load_model(path)
