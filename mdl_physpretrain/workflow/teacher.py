"""Teacher, augmentation and labels: what all seeds share."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pandas as pd

from mdl_physpretrain.augmentation import pair_min_distances
from mdl_physpretrain.potentials import load_model
from mdl_physpretrain.potentials.devices import resolve_device
from mdl_physpretrain.potentials.errors import evaluate, trivial_errors
from mdl_physpretrain.structures import reference_energies, write_structures
from mdl_physpretrain.teacher import teacher_curves
from mdl_physpretrain.teacher.decomposition import eam_decomposition
from mdl_physpretrain.teacher.engines import refuse_failed
from mdl_physpretrain.teacher.labelled_set import augmented_labels
from mdl_physpretrain.teacher.source import calculator_factory, examined_eam
from mdl_physpretrain.workflow.config import RunConfig
from mdl_physpretrain.workflow.data import read_part, without_nan
from mdl_physpretrain.workflow.records import write_atomic

__all__ = ["JOURNAL", "TEACHER", "label_augmented", "teach"]

TEACHER = "teacher/teacher.pt"
JOURNAL = "augment/labels.journal"
WRITTEN = ("errors.json", "examination.json", "curves.csv", "decomposition.csv")


def teach(config: RunConfig, folder: Path, show: bool) -> list[str]:
    """Fit (or take over) the EAM, examine it, and write what there is to know about it."""
    options, train, val = config.teacher, read_part(folder, "train"), read_part(folder, "val")
    out = folder / "teacher"
    out.mkdir(parents=True, exist_ok=True)
    eam = examined_eam(train, val, options, progress=show)
    eam.save(folder / TEACHER)
    metadata: dict[str, Any] = eam.metadata
    fit = metadata.get("fit", {})

    errors = {
        "train": fit.get("errors") or evaluate(eam, train),
        "val": fit.get("val_errors") or (evaluate(eam, val) if val else None),
        "trivial": fit.get("trivial") or trivial_errors(train, reference_energies(train)),
    }
    test = read_part(folder, "test")
    errors["test"] = evaluate(eam, test) if test else None
    write_atomic(out / "errors.json", json.dumps(without_nan(errors), indent=1))
    write_atomic(out / "examination.json", json.dumps(without_nan(metadata["examination"]), indent=1))
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
        refuse_failed(teacher, config.teacher.force, "teacher")
    augmented, labelled, result = augmented_labels(
        train, teacher, options, force=config.teacher.force, resume=folder / JOURNAL, progress=show
    )

    out = folder / "augment"
    facts = result.to_dict()
    failed = [{"structure_id": f.structure_id, "reason": f.reason} for f in labelled.failures]
    facts |= {"n_before": len(augmented), "n_failed_to_label": len(failed), "failed_to_label": failed}
    facts["skipped_parents"] = augmented.skipped
    if len(result.kept) < len(augmented) / 2:
        most = max(result.counts, key=lambda reason: result.counts[reason])
        warnings.warn(
            f"the label filter kept only {len(result.kept)} of {len(augmented)} augmented structures "
            f"(most fell to {most}); "
            "smaller augment.pull and perturb, augment.min_distance_factor or a wider limit keep more",
            stacklevel=2,
        )
    write_structures(out / "labelled.extxyz", result.kept)
    write_atomic(out / "filter.json", json.dumps(without_nan(facts), indent=1))
    distances = [pair_min_distances(s).assign(set=name) for s, name in ((train, "original"), (augmented, "augmented"))]
    write_atomic(out / "min_distances.csv", pd.concat(distances)[["set", "pair", "distance"]].to_csv(index=False))
    (folder / JOURNAL).unlink(missing_ok=True)
    return ["augment/labelled.extxyz", "augment/filter.json", "augment/min_distances.csv"]
