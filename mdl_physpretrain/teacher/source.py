"""Sources of a teacher: an ASE calculator, a checkpoint, or a fit."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from mdl_physpretrain import recipe
from mdl_physpretrain.errors import CheckpointError, ConfigError, StructureError
from mdl_physpretrain.option_types import Section
from mdl_physpretrain.potentials import factories
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.checkpoint import load_model
from mdl_physpretrain.potentials.devices import resolve_device
from mdl_physpretrain.potentials.identity import potential_fingerprint
from mdl_physpretrain.source_graph import code_hash
from mdl_physpretrain.structures.elements import elements_of, strange_elements
from mdl_physpretrain.structures.fingerprint import structure_hash
from mdl_physpretrain.teacher.base import NativeTeacher
from mdl_physpretrain.teacher.by_composition import (
    ByComposition,
    better_by_composition,
    refuse_without_frames,
    with_forces,
)
from mdl_physpretrain.teacher.calculators import calculator_teacher, examined_calculator
from mdl_physpretrain.teacher.change_errors import ChangeErrors
from mdl_physpretrain.teacher.engines import refuse_failed
from mdl_physpretrain.teacher.held_out import force_verdict, verdict_sentence, worse_than_none
from mdl_physpretrain.teacher.registry import kind_modules, kind_of, kind_options, teacher_kind, teacher_kinds

__all__ = [
    "BESIDE",
    "calculator_factory",
    "described_calculator",
    "fitted_beside",
    "fitted_teacher",
    "native_teacher",
    "obtain_teacher",
    "read_teacher",
    "with_fitted",
]

#: What moves the atoms, where a calculator teaches.
BESIDE = recipe.Teacher(kind="auto")


def obtain_teacher(
    structures: Sequence[Atoms],
    val: Sequence[Atoms] | None,
    options: recipe.Teacher,
    *,
    read_checkpoint: Callable[[str], EnergyModel] | None = None,
    device: str = "auto",
    section: str = "teacher",
    directory: Path | None = None,
    progress: bool = False,
) -> Any:
    """The teacher that section ``teacher`` describes, examined and allowed to label (for a calculator: its factory).

    A native teacher is fitted to ``structures``, its best state chosen on ``val``. ``read_checkpoint`` reads
    ``options.checkpoint``; by default native teachers of the kind that the options name. ``section`` is a name for
    messages. ``directory`` gets ``teacher.pt``, also when it is then refused. Raises TeacherRefused if it fails its
    examination and ``options.force`` is not set, ConfigError if a calculator, kind or option does not exist.
    """
    if options.calculator is not None:
        calculator = described_calculator(options, structures, section)
        examined_calculator(calculator, structures, force=options.force, section=section)
        file = None if directory is None else directory / "fitted.pt"
        return with_fitted(calculator, options, structures, file, section=section, progress=progress)
    teacher = native_teacher(
        structures, val, options, read_checkpoint=read_checkpoint, section=section, progress=progress
    )
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        teacher.save(directory / "teacher.pt")
    refuse_failed(teacher, options.force, section)
    return teacher.to(resolve_device(device))


def described_calculator(
    options: recipe.Teacher, structures: Sequence[Atoms], section: str = "teacher"
) -> Callable[[], BaseCalculator]:
    """The calculator of section ``teacher``, with its core.

    Raises ConfigError if it does not exist, or if it is to be compared with a fitted potential and there is nothing to
    compare them by.
    """
    if options.with_fitted:
        refuse_without_frames(with_forces(structures), f"{section}.with_fitted")
    return calculator_teacher(options, calculator_factory(options, section), structures)


def with_fitted(
    calculator: Callable[[], BaseCalculator],
    options: recipe.Teacher,
    structures: Sequence[Atoms],
    file: Path | None = None,
    *,
    section: str = "teacher",
    progress: bool = False,
) -> Callable[[], BaseCalculator]:
    """The calculator, and where ``options`` ask for it a potential beside it, which ``file`` keeps."""
    if not options.with_fitted:
        return calculator
    usable = with_forces(structures)
    fitted = fitted_beside(usable, options, file, section=section, progress=progress)
    mark, known = potential_fingerprint(calculator), fitted.metadata.get("beside") or {}
    if known.get("calculator") == mark:
        return ByComposition(calculator, fitted, known["compositions"], ChangeErrors.from_dict(known["errors"]))
    teacher = better_by_composition(calculator, fitted, usable, f"{section}.with_fitted")
    if file is not None:  # who labels what is decided once
        decided = {"compositions": sorted(teacher.compositions), "errors": teacher.errors.to_dict()}
        fitted.metadata = {**fitted.metadata, "beside": {"calculator": mark, **decided}}
        fitted.save(file)
    return teacher


def fitted_beside(
    structures: Sequence[Atoms],
    options: recipe.Teacher = BESIDE,
    file: Path | None = None,
    *,
    section: str = "teacher",
    progress: bool = False,
) -> EnergyModel:
    """The potential that is fitted beside a calculator, by the kind and the options of the section.

    ``file`` keeps it: a later call with the same structures, labels, options and code takes it from there.
    """
    fit_options = kind_options(options, section)
    told = json.dumps([options.kind, fit_options.model_dump(), code_hash(kind_modules(options.kind))], default=str)
    digest = blake2b(told.encode(), digest_size=16)
    for atoms in structures:
        digest.update(structure_hash(atoms, labels=True).encode())
    mark = digest.hexdigest()
    if file is not None and file.is_file():
        try:
            fitted = load_model(file)
        except CheckpointError as error:
            warnings.warn(f"fitted again, as {error}", stacklevel=2)
        else:
            if fitted.metadata.get("fitted_to") == mark:
                return fitted
    fitted = fitted_teacher(teacher_kind(options.kind), structures, None, fit_options, progress)
    fitted.metadata = {**fitted.metadata, "fitted_to": mark}
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        fitted.save(file)
    return fitted


def native_teacher(
    structures: Sequence[Atoms],
    val: Sequence[Atoms] | None,
    options: recipe.Teacher,
    *,
    read_checkpoint: Callable[[str], EnergyModel] | None = None,
    section: str = "teacher",
    progress: bool = False,
) -> Any:
    """The potential that is fitted, or read, with its examination by the structures in the metadata.

    Parameters are those of :func:`obtain_teacher`. One that fails is returned as well.
    """
    fit_options = kind_options(options, section)
    strange = strange_elements(val or (), elements_of(structures), "val")
    if strange is not None and options.checkpoint is None:
        raise StructureError(
            f"{strange}: a fitted teacher cannot know them; leave them out (data.elements) or split the data "
            "otherwise (data.seed, data.split_by)",
            field="numbers",
        )
    if options.checkpoint is None:
        return fitted_teacher(teacher_kind(options.kind), structures, val, fit_options, progress)
    if read_checkpoint is None:
        teacher = read_teacher(options.checkpoint, options.kind, section)
    else:
        teacher = read_checkpoint(options.checkpoint)
    kind = kind_of(teacher)
    examination = None if kind is None else kind.examine(teacher, list(structures))
    if examination is not None:  # what passed on other elements need not pass here
        teacher.metadata = {**teacher.metadata, "examination": examination.to_dict()}
    return teacher


def fitted_teacher(
    kind: NativeTeacher,
    structures: Sequence[Atoms],
    val: Sequence[Atoms] | None,
    options: Section,
    progress: bool = False,
) -> EnergyModel:
    """A native teacher fitted and examined, with its kind and the examination in the metadata."""
    teacher = kind.fit(structures, val=val or None, options=options, progress=progress)
    metadata: dict[str, Any] = {"teacher": kind.name, **teacher.metadata}
    if "examination" not in metadata:
        examination = kind.examine(teacher, list(structures))
        if examination is not None and val:
            examination = examination.with_forces(force_verdict(teacher, val, unseen=True))
        metadata |= {} if examination is None else {"examination": examination.to_dict()}
    teacher.metadata = metadata
    forces = (metadata.get("examination") or {}).get("forces")
    if forces is not None and (forces["teaches"] == "core" or worse_than_none(forces)):
        warnings.warn(f"the teacher {kind.name!r}: {verdict_sentence(forces)}", stacklevel=2)
    return teacher


def read_teacher(path: str, kind: str, section: str = "teacher") -> EnergyModel:
    """A checkpoint of a native teacher of one kind; raises ConfigError if it is of another."""
    teacher = load_model(path)
    its_kind = kind_of(teacher)
    if its_kind is None:
        raise ConfigError(
            f"{section}.checkpoint: {path} holds {teacher.registry_name!r}, which is no native teacher "
            f"({', '.join(teacher_kinds())}). Any other potential can teach as a calculator: {section}.calculator"
        )
    if kind not in (its_kind.name, "auto"):
        raise ConfigError(
            f"{section}.checkpoint: {path} is of the kind {its_kind.name!r}, not {kind!r}: "
            f"set '{section}.kind: {its_kind.name}'"
        )
    return teacher


def calculator_factory(options: recipe.Teacher, section: str = "teacher") -> Callable[[], Any]:
    """The function that makes the ASE calculator named by ``options.calculator``; raises ConfigError."""
    assert options.calculator is not None
    try:
        return factories.calculator_factory(options.calculator, options.calculator_args)
    except ConfigError as error:
        raise ConfigError(f"{section}.calculator: {error}") from error
