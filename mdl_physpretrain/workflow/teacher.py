"""Teacher, augmentation and labels: what all seeds share."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from ase import Atoms

from mdl_physpretrain.augmentation import augment, filter_labels, pair_min_distances
from mdl_physpretrain.errors import ConfigError, TeacherRefused
from mdl_physpretrain.files import write_atomic
from mdl_physpretrain.potentials import load_model
from mdl_physpretrain.potentials.devices import resolve_device
from mdl_physpretrain.potentials.errors import evaluate, trivial_errors
from mdl_physpretrain.potentials.factories import calculator_factory as made
from mdl_physpretrain.recipe import Augment, Teacher
from mdl_physpretrain.structures import get_labels, reference_energies, write_structures
from mdl_physpretrain.teacher import examine, fit_eam, teacher_curves
from mdl_physpretrain.teacher.decomposition import eam_decomposition
from mdl_physpretrain.teacher.label import label
from mdl_physpretrain.workflow.config import RunConfig
from mdl_physpretrain.workflow.data import plain, read_part

if TYPE_CHECKING:
    from mdl_physpretrain.augmentation import FilterResult
    from mdl_physpretrain.potentials import EAM

__all__ = [
    "JOURNAL",
    "TEACHER",
    "anchors",
    "augmented_labels",
    "calculator_factory",
    "filtered",
    "label_augmented",
    "teach",
]

TEACHER = "teacher/teacher.pt"
JOURNAL = "augment/labels.journal"
WRITTEN = ("errors.json", "examination.json", "curves.csv", "decomposition.csv")


def calculator_factory(teacher: Teacher) -> Callable[[], Any]:
    """The function that makes the ASE calculator named by ``teacher.calculator``.

    Raises
    ------
    ConfigError
        If it cannot be imported.
    """
    assert teacher.calculator is not None
    try:
        return made(teacher.calculator, teacher.calculator_args)
    except ConfigError as error:
        raise ConfigError(f"teacher.calculator: {error}") from error


def teach(config: RunConfig, folder: Path, show: bool) -> list[str]:
    """Fit (or take over) the EAM, examine it, and write what there is to know about it."""
    options, train, val = config.teacher, read_part(folder, "train"), read_part(folder, "val")
    out = folder / "teacher"
    out.mkdir(parents=True, exist_ok=True)
    if options.checkpoint is not None:
        eam: EAM = load_model(options.checkpoint, expect="eam")  # type: ignore[assignment]
        eam.metadata = {**eam.metadata, "examination": examine(eam, train).to_dict()}  # type: ignore[dict-item, assignment]
    else:
        eam = fit_eam(
            train,
            val=val or None,
            cutoff=options.cutoff,
            n_basis=options.n_basis,
            preset=options.preset,
            epochs=options.epochs,
            weights=options.weights,
            seed=options.seed,
            progress=show,
        )
    eam.save(folder / TEACHER)  # type: ignore[arg-type]
    metadata: dict[str, Any] = eam.metadata  # type: ignore[assignment]
    fit = metadata.get("fit", {})

    errors = {
        "train": fit.get("errors") or evaluate(eam, train),
        "val": fit.get("val_errors") or (evaluate(eam, val) if val else None),
        "trivial": fit.get("trivial") or trivial_errors(train, reference_energies(train)),
    }
    test = read_part(folder, "test")
    errors["test"] = evaluate(eam, test) if test else None
    write_atomic(out / "errors.json", json.dumps(plain(errors), indent=1))
    write_atomic(out / "examination.json", json.dumps(plain(metadata["examination"]), indent=1))
    write_atomic(out / "curves.csv", teacher_curves(eam, train).to_csv(index=False))
    write_atomic(out / "decomposition.csv", eam_decomposition(eam, test or val or train).to_csv(index=False))
    outputs = [TEACHER, *(f"teacher/{name}" for name in WRITTEN)]
    if fit.get("history"):
        write_atomic(out / "history.csv", pd.DataFrame(fit["history"]).to_csv(index=False))
        outputs.append("teacher/history.csv")
    return outputs


def label_augmented(config: RunConfig, folder: Path, show: bool) -> list[str]:
    """Augment the training structures, label them, and keep those fit for training."""
    options, train = config.augment, read_part(folder, "train")
    if config.teacher.calculator is not None:
        teacher: Any = calculator_factory(config.teacher)
    else:
        teacher = load_model(folder / TEACHER).to(resolve_device(config.device))
        _refuse(teacher.metadata.get("examination", {}), config.teacher.force)
    made, labelled, result = augmented_labels(
        train, teacher, options, force=config.teacher.force, resume=folder / JOURNAL, progress=show
    )

    out = folder / "augment"
    facts = result.to_dict()
    failed = [{"structure_id": f.structure_id, "reason": f.reason} for f in labelled.failures]
    facts |= {"n_before": len(made), "n_failed_to_label": len(failed), "failed_to_label": failed}
    facts["skipped_parents"] = made.skipped
    if len(result.kept) < len(made) / 2:
        most = max(result.counts, key=lambda reason: result.counts[reason])
        warnings.warn(
            f"the label filter kept only {len(result.kept)} of {len(made)} augmented structures (most fell to {most}); "
            "smaller augment.pull and perturb, augment.min_distance_factor or a wider limit keep more",
            stacklevel=2,
        )
    write_structures(out / "labelled.extxyz", result.kept)
    write_atomic(out / "filter.json", json.dumps(plain(facts), indent=1))
    distances = [pair_min_distances(s).assign(set=name) for s, name in ((train, "original"), (made, "augmented"))]
    write_atomic(out / "min_distances.csv", pd.concat(distances)[["set", "pair", "distance"]].to_csv(index=False))
    (folder / JOURNAL).unlink(missing_ok=True)
    return ["augment/labelled.extxyz", "augment/filter.json", "augment/min_distances.csv"]


def augmented_labels(
    structures: Sequence[Atoms],
    teacher: Any,
    options: Augment,
    *,
    force: bool = False,
    resume: Path | None = None,
    progress: bool = False,
) -> tuple[Any, Any, FilterResult]:
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

    Returns
    -------
    made, labelled, result
        All augmented structures, those that could be labelled, and what the
        filter kept of them.
    """
    parents = anchors(structures) if options.anchor else list(structures)
    made = augment(
        parents,
        n_aug=options.n_aug,
        n_pairs=options.n_pairs,
        pull=options.pull,
        n_sites=options.n_sites,
        perturb=options.perturb,
        seed=options.seed,
        convention=options.convention,
        ladder=options.ladder,
        min_distance_factor=options.min_distance_factor,
        pairs=options.pairs,
        progress=progress,
    )
    common: dict[str, Any] = {"batch_size": options.batch_size, "force": force, "progress": progress}
    given = parents if options.anchor else None
    labelled = label(made, teacher, anchor=options.anchor, parents=given, resume=resume, **common)
    return made, labelled, filtered(labelled, options, structures, teacher, common)


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
    labelled: Sequence[Atoms], options: Augment, parents: Sequence[Atoms], teacher: Any, common: dict[str, Any]
) -> FilterResult:
    """Labelled structures fit for training.

    Raises
    ------
    ConfigError
        If the filter leaves nothing.
    """
    reference: list[Atoms] | None = None
    if options.max_energy_per_atom is not None:  # on the teacher's own scale, which the anchor replaces
        reference = list(parents) if options.anchor else label(parents, teacher, **common)
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
        why = ", ".join(f"{count} by {reason}" for reason, count in result.counts.items() if count)
        raise ConfigError(f"the label filter removed all {len(labelled)} augmented structures ({why}): relax augment.*")
    return result


def _refuse(examination: dict[str, Any], force: bool) -> None:
    if examination.get("passed") is False and not force:
        reasons = "; ".join(map(str, examination.get("failures", [])))
        raise TeacherRefused(
            f"the teacher failed its examination and may not label: {reasons}. "
            "Change the teacher section, or set 'teacher.force: true' if you know that it will do"
        )
