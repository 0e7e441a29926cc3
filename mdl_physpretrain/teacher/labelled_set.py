"""The set to pretrain on: structures augmented, labelled by the teacher, filtered."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, NamedTuple

from ase import Atoms

from mdl_physpretrain.augmentation.algorithm import Augmented, augment
from mdl_physpretrain.augmentation.coverage import cover
from mdl_physpretrain.augmentation.filter import FilterResult, filter_labels
from mdl_physpretrain.augmentation.thermal import disorder
from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.recipe import MD, Augment, Augmentation, Perturbation
from mdl_physpretrain.structures import get_labels
from mdl_physpretrain.structures.validation import refuse_no_anchors
from mdl_physpretrain.teacher.amplitudes import amplitudes_at
from mdl_physpretrain.teacher.by_composition import ByComposition, warn_of_better_fit, with_forces
from mdl_physpretrain.teacher.change_errors import ChangeErrors, measured_change_errors
from mdl_physpretrain.teacher.driver import thermal_driver
from mdl_physpretrain.teacher.label import Labelled, label
from mdl_physpretrain.teacher.motion import thermal_motion

__all__ = ["LabelledSet", "anchors", "augmented_labels", "change_errors", "filtered", "further_structures"]


class LabelledSet(NamedTuple):
    """All augmented structures, those that could be labelled, what the filter kept, and errors expected of labels."""

    augmented: Augmented
    labelled: Labelled
    filtered: FilterResult
    change_errors: ChangeErrors | None


def augmented_labels(
    structures: Sequence[Atoms],
    teacher: Any,
    options: Augment,
    *,
    force: bool = False,
    resume: Path | None = None,
    progress: bool = False,
) -> LabelledSet:
    """Augment labelled structures, label what came out (``resume``: journal), and filter the labels.

    Raises ConfigError if labels are to be anchored and no structure has energy and forces, or the filter leaves
    nothing.
    """
    if isinstance(teacher, ByComposition) and not options.anchor:
        raise ConfigError(
            "two potentials have two energy scales, and only anchored labels can be mixed: augment.anchor has to be "
            "true (teacher.with_fitted)"
        )
    parents = anchors(structures) if options.anchor else list(structures)
    augmented = Augmented()
    if options.n_aug:
        augmented = augment(parents, **options.model_dump(include=set(Perturbation.model_fields)), progress=progress)
    moving = None if resume is None else resume.with_name(f"{resume.name}.motion")
    driver = None
    if options.thermal is not None and options.thermal_method == "md":
        driver = thermal_driver(parents, teacher, options, directory=moving, progress=progress)
    augmented += further_structures(parents, options, teacher, driver=driver, directory=moving, progress=progress)
    errors = change_errors(teacher, structures, options)
    if errors is not None and isinstance(driver, EnergyModel) and not isinstance(teacher, EnergyModel | ByComposition):
        warn_of_better_fit(driver, errors, parents)
    labelled = label(
        augmented,
        teacher,
        anchor=options.anchor,
        anchor_reach=options.anchor_reach,
        change_error=errors,
        parents=parents if options.anchor else None,
        batch_size=options.batch_size,
        resume=resume,
        force=force,
        progress=progress,
    )
    return LabelledSet(augmented, labelled, filtered(labelled, options, structures, teacher, force=force), errors)


def change_errors(teacher: Any, structures: Sequence[Atoms], options: Augment) -> ChangeErrors | None:
    """``augment.change_error`` as numbers: the teacher's errors of force changes, in units of their size, at most 1.

    One for all compositions, but where two potentials teach: what one knows the other one need not.
    ``None`` where they are not asked for, labels are not anchored, or no two structures are frames of the same atoms;
    then 1 for a teacher that teaches its core only: its changes are not to be believed, but what is wrong by more than
    all of a change is.
    """
    if options.change_error is None or not options.anchor:
        return None
    if options.change_error != "auto":
        return ChangeErrors(float(options.change_error))
    if isinstance(teacher, ByComposition):
        return teacher.errors
    measured = measured_change_errors(teacher, anchors(structures))
    if measured is not None:
        return measured.for_all()
    forces = (getattr(teacher, "metadata", {}).get("examination") or {}).get("forces") or {}
    return ChangeErrors(1.0) if forces.get("teaches") == "core" else None


def further_structures(
    parents: Sequence[Atoms],
    options: Augmentation,
    teacher: Any = None,
    *,
    driver: Any = None,
    directory: Path | None = None,
    progress: bool = False,
) -> list[Atoms]:
    """Structures beside those of Algorithm 1: covered distances, thermal disorder (which needs a teacher).

    None by default. ``driver``: whose MD makes thermal structures, where that is known already. ``directory``: of its
    trajectories, with which an interrupted call goes on.
    """
    structures: list[Atoms] = []
    if options.coverage is not None:
        covering = cover(parents, per_bin=options.coverage, seed=options.seed)
        if covering.missing:
            pairs = ", ".join(f"{count} of {pair}" for pair, count in covering.missing.items())
            warnings.warn(f"augment.coverage: structures that could not be made: {pairs}", stacklevel=2)
        structures += covering
    amplitude: float | dict[str, float] | None = options.thermal_amplitude
    if options.thermal is not None:
        if teacher is None:
            raise ConfigError(
                "thermal moves atoms as the springs or the MD of a teacher do: give the teacher (--teacher), or "
                "thermal_amplitude instead, or switch it off (thermal: null, --thermal none)"
            )
        # where no MD is described, it is the default one
        temperature = MD.temperature if options.thermal == "md" else options.thermal
        if options.thermal_method == "md":
            if driver is None:
                driver = thermal_driver(parents, teacher, options, directory=directory, progress=progress)
            return structures + thermal_motion(
                parents,
                driver,
                temperature,
                frames=options.thermal_rounds,
                duration=options.thermal_time,
                hotter=options.thermal_factor,
                most=options.thermal_structures,
                seed=options.seed,
                directory=directory,
                progress=progress,
            )
        amplitude = amplitudes_at(teacher, parents, temperature, factor=options.thermal_factor, seed=options.seed)
    if amplitude is not None:
        # anchored labels know the energy of a strain by the parent's stress
        anchored = options.anchor if isinstance(options, Augment) else True
        strained = not anchored or all(get_labels(a).stress is not None for a in parents)
        structures += disorder(
            parents,
            n_aug=options.thermal_rounds,
            amplitude=amplitude,
            compression=options.compression if strained else 0.0,
            shear=options.shear if strained else 0.0,
            seed=options.seed,
        )
    return structures


def anchors(structures: Sequence[Atoms]) -> list[Atoms]:
    """Structures that labels can be anchored to: those with energy and forces; raises ConfigError if there is none."""
    refuse_no_anchors(structures)
    able = with_forces(structures)
    if len(able) < len(structures):
        warnings.warn(
            f"{len(structures) - len(able)} of {len(structures)} training structures lack energy or forces and are "
            "not augmented, because labels cannot be anchored to them (augment.anchor)",
            stacklevel=2,
        )
    return able


def filtered(
    labelled: Sequence[Atoms],
    options: Augment,
    parents: Sequence[Atoms],
    teacher: Any,
    *,
    force: bool = False,
    executor: Executor | None = None,
) -> FilterResult:
    """Labelled structures fit for training; raises ConfigError if none is.

    An energy limit counts from the labelled ``parents``; on the teacher's own scale the teacher labels them.
    """
    reference: list[Atoms] | None = None
    if options.max_energy_per_atom is not None:  # on the teacher's own scale, which the anchor replaces
        reference = list(parents)
        if not options.anchor:
            reference = label(parents, teacher, batch_size=options.batch_size, force=force, executor=executor)
    result = filter_labels(
        labelled,
        max_force=options.max_force,
        max_energy_per_atom=options.max_energy_per_atom,
        max_stress=options.max_stress,
        min_distance=options.min_distance,
        min_distance_factor=options.filter_distance_factor,
        reference=reference,
    )
    if not result.kept:
        counts = ", ".join(f"{count} by {reason}" for reason, count in result.counts.items() if count)
        raise ConfigError(
            f"the label filter removed all {len(labelled)} augmented structures ({counts}): relax augment.*"
        )
    return result
