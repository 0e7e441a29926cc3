"""Cache of teacher-labelled structures for MatterTune."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ase import Atoms

from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.files import file_hash, write_atomic
from mdl_physpretrain.potentials import load_model
from mdl_physpretrain.recipe import Augment, Teacher, refuse_unanchored
from mdl_physpretrain.source_graph import code_hash
from mdl_physpretrain.structures import get_labels, read_structures, set_labels, split_by_parent, write_structures
from mdl_physpretrain.structures.fingerprint import structure_hash
from mdl_physpretrain.structures.identifiers import stable_id, unique_ids
from mdl_physpretrain.structures.labels import Labels, structure_id
from mdl_physpretrain.structures.validation import refuse_damaged
from mdl_physpretrain.teacher.driver import drives_by_fit
from mdl_physpretrain.teacher.labelled_set import augmented_labels
from mdl_physpretrain.teacher.registry import kind_modules
from mdl_physpretrain.teacher.source import BESIDE, obtain_teacher
from mdl_physpretrain.workflow.data import without_nan

__all__ = ["clean", "labelled_structures", "part_of", "with_stress"]

log = logging.getLogger(__name__)


def clean(structures: Sequence[Atoms]) -> list[Atoms]:
    """Copies without momenta and constraints, with a unique id and the same labels.

    MatterTune reads the total energy, kinetic part included, and constrained
    forces: neither may be there.
    """
    copies = []
    for atoms in structures:
        copy = atoms.copy()
        copy.set_constraint()
        copy.arrays.pop("momenta", None)
        copy.info["structure_id"] = stable_id(atoms)  # of the content where there is none: no order changes it
        copies.append(set_labels(copy, get_labels(atoms)) if atoms.calc is not None else copy)
    return unique_ids(copies, duplicates="rename")


def labelled_structures(
    structures: Sequence[Atoms], teacher: Teacher, augment: Augment, *, device: str, cache: str | Path
) -> list[Atoms]:
    """Augmented structures with the teacher's labels, from the cache where they are there.

    ``cache`` is a folder with one sub-folder per fingerprint of structures, options and code, which also holds the
    teacher and the filter's account. Raises TeacherRefused if the teacher failed its examination and is not forced.
    """
    refuse_unanchored(teacher, augment)
    parents = sorted(clean(structures), key=structure_id)  # some of the host's datasets shuffle
    folder = Path(cache) / _fingerprint(parents, teacher, augment)
    finished = folder / "labelled.extxyz"
    if finished.is_file():
        log.info("teacher labels taken from %s", finished)
        return read_structures(finished)
    source = obtain_teacher(parents, None, teacher, read_checkpoint=load_model, device=device, directory=folder)
    augmented, labelled, result, _ = augmented_labels(parents, source, augment, force=teacher.force)
    account = result.to_dict() | {"n_before": len(augmented), "n_failed_to_label": len(labelled.failures)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"labelled.{os.getpid()}.extxyz"  # several processes may label at a time
        write_structures(part, result.kept)
        os.replace(part, finished)
        write_atomic(folder / "filter.json", json.dumps(without_nan(account), indent=1))
    except OSError as error:
        raise ConfigError(f"cache: cannot write to {folder}: {error.strerror}") from error
    log.info("%d of %d augmented structures labelled and kept in %s", len(result.kept), len(augmented), finished)
    return read_structures(finished)


def part_of(structures: Sequence[Atoms], part: str, share: float, seed: int) -> list[Atoms]:
    """One side (``"all"``, ``"train"`` or ``"validation"``) of a split by parent: siblings stay together."""
    if part == "all":
        return list(structures)
    train, validation = split_by_parent(structures, share, seed)
    if not validation:
        raise ConfigError(f"part: {part!r} of one parent structure is impossible; use part: all")
    return train if part == "train" else validation


def with_stress(structures: Sequence[Atoms], missing: str) -> list[Atoms]:
    """Structures that a loss with stress can be computed of.

    ``missing``: ``"error"``, ``"drop"`` or ``"allow"`` others.
    """
    bare = [structure_id(a) for a in structures if get_labels(a).stress is None]
    if not bare or missing == "allow":
        return list(structures)
    refuse_damaged(structures)
    if missing == "error" or len(bare) == len(structures):
        raise StructureError(
            f"{len(bare)} of {len(structures)} structures have no stress label. Leave them out with "
            "'missing_stress: drop', or take the teacher's own stress with 'augment: {anchor: false}', or train on "
            "energy and forces alone: remove 'stresses' from model.properties and set 'missing_stress: allow'",
            structure=bare[0],
            field="stress",
        )
    log.warning("%d of %d structures have no stress label and are left out", len(bare), len(structures))
    return [a for a in structures if get_labels(a).stress is not None]


def require_labels(atoms: Atoms, *, forces: bool, stress: bool) -> Labels:
    """The labels of a structure; raises StructureError if one that is needed is missing."""
    labels = get_labels(atoms)
    for name, needed in (("energy", True), ("forces", forces), ("stress", stress)):
        if needed and getattr(labels, name) is None:
            refuse_damaged([atoms])
            raise StructureError(
                f"no label, but model.properties asks for {name}; remove it there, or leave the structure out",
                structure=structure_id(atoms),
                field=name,
            )
    return labels


def _fingerprint(parents: Sequence[Atoms], teacher: Teacher, augment: Augment) -> str:
    options: dict[str, Any] = {"teacher": teacher.model_dump(), "augment": augment.model_dump()}
    del options["augment"]["batch_size"]  # how many at a time, not what
    if teacher.checkpoint is not None:
        path = Path(teacher.checkpoint)
        if not path.is_file():
            raise ConfigError(f"teacher.checkpoint: {path} does not exist")
        options["teacher"]["checkpoint"] = file_hash(path)
    modules = [__name__]  # and what the teacher is looked up by
    if teacher.calculator is not None:
        modules.append(teacher.calculator.partition(":")[0])
        modules += kind_modules(teacher.kind) if teacher.with_fitted else ()
        modules += kind_modules(BESIDE.kind) if drives_by_fit(augment, calculator=True) else ()
    elif teacher.checkpoint is not None:
        modules += {type(part).__module__ for part in load_model(teacher.checkpoint).leaves()}
    else:
        modules += kind_modules(teacher.kind)
    digest = blake2b(json.dumps([options, code_hash(modules)], sort_keys=True).encode(), digest_size=10)
    for atoms in parents:
        digest.update(f"{structure_id(atoms)}\0{structure_hash(atoms, labels=True)}\0".encode())
    return digest.hexdigest()
