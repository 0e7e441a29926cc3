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
from mdl_physpretrain.recipe import Augment, Perturbation
from mdl_physpretrain.structures import get_labels
from mdl_physpretrain.structures.identifiers import stable_id
from mdl_physpretrain.teacher.amplitudes import amplitudes_at
from mdl_physpretrain.teacher.label import Labelled, label

__all__ = ["LabelledSet", "anchors", "augmented_labels", "filtered"]


class LabelledSet(NamedTuple):
    """All augmented structures, those that could be labelled, and what the filter kept of them."""

    augmented: Augmented
    labelled: Labelled
    filtered: FilterResult


def augmented_labels(
    structures: Sequence[Atoms],
    teacher: Any,
    options: Augment,
    *,
    force: bool = False,
    resume: Path | None = None,
    progress: bool = False,
) -> LabelledSet:
    """Augment structures, label what came out, and filter the labels.

    Parameters
    ----------
    structures
        Labelled parents.
    teacher
        What :func:`mdl_physpretrain.teacher.label` takes.
    options
        Section ``augment``.
    force
        Let a teacher label that failed its examination.
    resume
        Journal of the labels.
    progress
        Show progress bars.

    Raises
    ------
    ConfigError
        If labels are to be anchored and no structure has energy and forces, or
        if the filter leaves nothing.
    """
    parents = anchors(structures) if options.anchor else list(structures)
    if options.method == "coverage":
        augmented = _covering(parents, teacher, options)
    else:
        augmented = augment(parents, **options.model_dump(include=set(Perturbation.model_fields)), progress=progress)
    labelled = label(
        augmented,
        teacher,
        anchor=options.anchor,
        parents=parents if options.anchor else None,
        batch_size=options.batch_size,
        resume=resume,
        force=force,
        progress=progress,
    )
    return LabelledSet(augmented, labelled, filtered(labelled, options, structures, teacher, force=force))


def _covering(parents: Sequence[Atoms], teacher: Any, options: Augment) -> Augmented:
    """Structures of method "coverage": every pair at every distance, then disorder of all atoms."""
    chosen = options.coverage
    covering = cover(parents, per_bin=chosen.per_bin, inner=chosen.core_end, width=chosen.bin_width, seed=options.seed)
    disordered: list[Atoms] = []
    if chosen.disorder:
        many = [a for a in parents if len(a) > 1]
        # the energy of a strain is anchored by the stress
        strained = not options.anchor or all(get_labels(a).stress is not None for a in many)
        disordered = disorder(
            many,
            n_aug=chosen.disorder,
            amplitude=amplitudes_at(
                teacher, many, chosen.disorder_temperature, factor=chosen.amplitude_factor, seed=options.seed
            ),
            compression=chosen.compression if strained else 0.0,
            shear=chosen.shear if strained else 0.0,
            seed=options.seed,
        )
    return Augmented([*covering, *disordered], skipped=[stable_id(a) for a in parents if len(a) < 2])


def anchors(structures: Sequence[Atoms]) -> list[Atoms]:
    """Structures that labels can be anchored to: those with energy and forces.

    Raises
    ------
    ConfigError
        If there is none.
    """
    able = [a for a in structures if get_labels(a).energy is not None and get_labels(a).forces is not None]
    if not able:
        raise ConfigError(
            "augment.anchor needs training structures with energy and forces, and none has both: "
            "set 'augment.anchor: false' to label with the teacher alone"
        )
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
    """Labelled structures fit for training.

    Parameters
    ----------
    labelled
        By the teacher.
    options
        Section ``augment``: the limits, and whether the labels are anchored.
    parents
        Labelled structures that an energy limit counts from.
    teacher, force, executor
        Label the parents, where an energy limit is one on the teacher's own scale.

    Raises
    ------
    ConfigError
        If the filter leaves nothing.
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
