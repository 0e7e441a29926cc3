"""The labelled structures of a pretraining inside MatDeepLearn."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from ase import Atoms

from mdl_physpretrain.hosts.matdeeplearn.eam_start import read_eam
from mdl_physpretrain.hosts.matdeeplearn.settings import Settings
from mdl_physpretrain.recipe import refuse_unanchored
from mdl_physpretrain.structures import read_structures
from mdl_physpretrain.teacher.labelled_set import augmented_labels
from mdl_physpretrain.teacher.source import obtain_teacher

__all__ = ["labelled_structures"]

log = logging.getLogger(__name__)


def labelled_structures(
    structures: Sequence[Atoms], val: Sequence[Atoms] | None, settings: Settings, folder: Path
) -> list[Atoms]:
    """Augmented structures with the teacher's labels, filtered.

    ``folder`` gets ``teacher.pt``. Raises TeacherRefused.
    """
    if settings.labelled is not None:
        return read_structures(settings.labelled, require=("energy",))
    options = settings.teacher
    refuse_unanchored(options, settings.augmentation)
    teacher = obtain_teacher(
        structures,
        val,
        options,
        read_checkpoint=(lambda path: read_eam(path, options.atom_types, options.cutoff))
        if options.kind == "eam"
        else None,
        section="physpretrain.teacher",
        directory=folder,
    )
    augmented, _, result, _ = augmented_labels(structures, teacher, settings.augmentation, force=options.force)
    log.info(
        f"Pretraining set: {len(result.kept)} of {len(augmented)} structures made of {len(structures)} parents kept"
    )
    return result.kept
