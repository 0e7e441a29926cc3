"""Teacher, augmentation and labels for a pretraining inside MatDeepLearn."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from mdl_physpretrain.errors import ConfigError, TeacherRefused
from mdl_physpretrain.hosts.matdeeplearn.settings import Settings
from mdl_physpretrain.potentials.devices import resolve_device
from mdl_physpretrain.structures import read_structures
from mdl_physpretrain.teacher import examine, fit_eam
from mdl_physpretrain.teacher.labelled_set import augmented_labels
from mdl_physpretrain.teacher.source import calculator_factory

__all__ = ["find_teacher", "make_labelled", "split_by_parent"]

log = logging.getLogger(__name__)


def find_teacher(structures: Sequence[Atoms], val: Sequence[Atoms] | None, settings: Settings, folder: Path) -> Any:
    """The teacher: an ASE calculator, an EAM from a checkpoint, or one fitted to the structures.

    Parameters
    ----------
    structures, val
        Labelled.
    settings
        Section ``physpretrain``.
    folder
        ``teacher.pt`` is written there.

    Raises
    ------
    TeacherRefused
        If it fails its examination and ``teacher.force`` is not set.
    """
    from mdl_physpretrain.hosts.matdeeplearn.eam_model import read_eam

    options = settings.teacher
    if options.calculator is not None:
        return calculator_factory(options)
    if options.checkpoint is not None:
        eam = read_eam(options.checkpoint, options.atom_types, options.cutoff)
    else:
        eam = fit_eam(
            structures,
            val=val or None,
            cutoff=options.cutoff,
            n_basis=options.n_basis,
            preset=options.preset,
            epochs=options.epochs,
            weights=options.weights,
            seed=options.seed,
        )
    verdict = examine(eam, list(structures))
    eam.metadata = {**eam.metadata, "examination": verdict.to_dict()}  # type: ignore[dict-item, assignment]
    eam.save(folder / "teacher.pt")
    found = "passed" if verdict.passed else "failed"
    log.info(f"Teacher: EAM of {', '.join(eam.elements)}, {eam.cutoff:g} Å; it {found} its examination")
    if not verdict.passed and not options.force:
        reasons = "; ".join(verdict.to_dict().get("failures", []))
        raise TeacherRefused(
            f"the teacher failed its examination and may not label: {reasons}. "
            "Change physpretrain.teacher, or set 'force: true' there if you know that it will do"
        )
    return eam.to(resolve_device("auto"))


def make_labelled(
    structures: Sequence[Atoms], val: Sequence[Atoms] | None, settings: Settings, folder: Path
) -> list[Atoms]:
    """Augmented structures with the teacher's labels, filtered.

    Parameters
    ----------
    structures, val
        Labelled training and validation structures.
    settings
        Section ``physpretrain``.
    folder
        ``teacher.pt`` is written there.
    """
    if settings.labelled is not None:
        return read_structures(settings.labelled, require=("energy",))
    options = settings.augment
    folder.mkdir(parents=True, exist_ok=True)
    teacher = find_teacher(structures, val, settings, folder)
    made, _, result = augmented_labels(structures, teacher, options, force=settings.teacher.force)
    log.info(f"Pretraining set: {len(result.kept)} of {len(made)} structures made of {len(structures)} parents kept")
    return result.kept


def split_by_parent(labelled: Sequence[Atoms], fraction: float, seed: int) -> tuple[list[Atoms], list[Atoms]]:
    """Labelled structures for pretraining and for its validation; one parent's stay together.

    Raises
    ------
    ConfigError
        If a part would be empty.
    """
    parents = sorted({str(a.info.get("parent_id", a.info.get("structure_id"))) for a in labelled})
    if len(parents) < 2 or fraction == 0:
        return list(labelled), list(labelled)
    count = min(max(1, round(fraction * len(parents))), len(parents) - 1)
    chosen = {parents[k] for k in np.random.default_rng(seed).permutation(len(parents))[:count]}
    kept: tuple[list[Atoms], list[Atoms]] = ([], [])
    for atoms in labelled:
        kept[str(atoms.info.get("parent_id", atoms.info.get("structure_id"))) in chosen].append(atoms)
    if not kept[0]:
        raise ConfigError("physpretrain.val_fraction leaves no structure for pretraining")
    return kept
