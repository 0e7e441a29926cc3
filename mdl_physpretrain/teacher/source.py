"""Where a teacher comes from: an ASE calculator, a checkpoint, or a fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ase import Atoms

from mdl_physpretrain import recipe
from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.potentials import factories
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.checkpoint import load_model
from mdl_physpretrain.potentials.devices import resolve_device
from mdl_physpretrain.teacher.engines import refuse_failed
from mdl_physpretrain.teacher.examine import examine
from mdl_physpretrain.teacher.fit import fit_eam
from mdl_physpretrain.teacher.fit_ionic import fit_ionic

__all__ = ["calculator_factory", "examined_eam", "obtain_teacher"]


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
    """The teacher that the options describe, examined and allowed to label.

    Parameters
    ----------
    structures, val
        Labelled; an EAM is fitted to the first, its best state chosen on the
        second (on the first without).
    options
        Section ``teacher``.
    read_checkpoint
        Reader of ``options.checkpoint``; by default of an EAM of this package.
        A potential that is no EAM is not examined.
    device
        Where a potential goes: ``auto``, ``cpu``, ``cuda``, ...
    section
        Dotted name of the section, for messages.
    directory
        ``teacher.pt`` is written there, also when it is then refused.
    progress
        Show a progress bar.

    Returns
    -------
    EnergyModel or function
        For an ASE calculator a function that makes it.

    Raises
    ------
    TeacherRefused
        If it fails its examination and ``options.force`` is not set.
    ConfigError
        If the calculator cannot be imported.
    """
    if options.calculator is not None:
        return calculator_factory(options, section)
    teacher = examined_eam(structures, val, options, read_checkpoint=read_checkpoint, progress=progress)
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        teacher.save(directory / "teacher.pt")
    refuse_failed(teacher, options.force, section)
    return teacher.to(resolve_device(device))


def examined_eam(
    structures: Sequence[Atoms],
    val: Sequence[Atoms] | None,
    options: recipe.Teacher,
    *,
    read_checkpoint: Callable[[str], EnergyModel] | None = None,
    progress: bool = False,
) -> Any:
    """The EAM (or pairs with charges) that is fitted, or read, with its examination by the structures in the metadata.

    Parameters are those of :func:`obtain_teacher`. One that fails is returned as well.
    """
    if options.checkpoint is None and options.kind == "ionic":
        return fit_ionic(structures, cutoff=options.cutoff, seed=options.seed)
    if options.checkpoint is None:
        return fit_eam(
            structures,
            val=val or None,
            **options.model_dump(include=set(recipe.EAMFit.model_fields)),
            progress=progress,
        )
    read = read_checkpoint or (lambda path: load_model(path, expect="eam"))
    teacher: Any = read(options.checkpoint)
    if teacher.registry_name == "eam":  # what passed on other elements need not pass here
        teacher.metadata = {**teacher.metadata, "examination": examine(teacher, list(structures)).to_dict()}
    return teacher


def calculator_factory(options: recipe.Teacher, section: str = "teacher") -> Callable[[], Any]:
    """The function that makes the ASE calculator named by ``options.calculator``.

    Raises
    ------
    ConfigError
        If it cannot be imported.
    """
    assert options.calculator is not None
    try:
        return factories.calculator_factory(options.calculator, options.calculator_args)
    except ConfigError as error:
        raise ConfigError(f"{section}.calculator: {error}") from error
