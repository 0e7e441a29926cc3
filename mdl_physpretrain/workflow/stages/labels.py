"""Stage augment: augment the training structures, label them, keep those fit for training."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from ase import Atoms

from mdl_physpretrain.augmentation import pair_min_distances
from mdl_physpretrain.augmentation.coverage import coverage_with, uncovered
from mdl_physpretrain.files import write_atomic
from mdl_physpretrain.potentials import load_model
from mdl_physpretrain.potentials.devices import resolve_device
from mdl_physpretrain.structures import write_structures
from mdl_physpretrain.teacher.by_composition import ByComposition
from mdl_physpretrain.teacher.calculators import examined_calculator
from mdl_physpretrain.teacher.engines import refuse_failed
from mdl_physpretrain.teacher.labelled_set import augmented_labels
from mdl_physpretrain.teacher.source import described_calculator, with_fitted
from mdl_physpretrain.workflow.data import read_part, without_nan
from mdl_physpretrain.workflow.layout import FITTED, JOURNAL, MOTION, TEACHER
from mdl_physpretrain.workflow.records import remove_written

if TYPE_CHECKING:
    from mdl_physpretrain.workflow.config import RunConfig

__all__ = ["label_augmented", "labelling_teacher"]

EXAMINATION = "teacher/examination.json"
WANTED = 5  # structures in which a distance of two elements counts as covered
MOST_HOLES = 6  # named in the warning


def labelling_teacher(config: RunConfig, folder: Path) -> Any:
    """The teacher of the run, refused if it failed its examination; a calculator was examined before."""
    options, train = config.teacher, read_part(folder, "train")
    if options.calculator is not None:
        return with_fitted(described_calculator(options, train), options, train, folder / FITTED)
    teacher = load_model(folder / TEACHER).to(resolve_device(config.device))
    refuse_failed(teacher, options.force, "teacher")
    return teacher


def label_augmented(config: RunConfig, folder: Path, show: bool) -> list[str]:
    """Augment the training structures, label them, and keep those fit for training."""
    options, train, written = config.augmentation, read_part(folder, "train"), list[str]()
    if config.teacher.calculator is None:
        teacher = labelling_teacher(config, folder)
    else:
        calculator = described_calculator(config.teacher, train)
        written = _examined(config, calculator, train, folder)
        teacher = with_fitted(calculator, config.teacher, train, folder / FITTED, progress=show)
    augmented, labelled, result, errors = augmented_labels(
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
    coverage = coverage_with(train, result.kept, wanted=options.coverage or WANTED)
    write_atomic(out / "coverage.csv", coverage.to_csv(index=False))
    holes = uncovered(coverage)
    if holes:
        remainder = f" and {len(holes) - MOST_HOLES} more" if len(holes) > MOST_HOLES else ""
        warnings.warn(
            f"distances that neither data nor augmented structures cover: {', '.join(holes[:MOST_HOLES])}{remainder} "
            "(augment/coverage.csv); augment.coverage makes structures there",
            stacklevel=2,
        )
    (folder / JOURNAL).unlink(missing_ok=True)
    shutil.rmtree(folder / MOTION, ignore_errors=True)
    names = ["labelled.extxyz", "filter.json", "min_distances.csv", "coverage.csv"]
    errors = teacher.errors if isinstance(teacher, ByComposition) else errors
    if errors is not None and errors.skills:
        table = errors.table()
        if isinstance(teacher, ByComposition):
            table["labelled_by"] = [teacher.labels(composition) for composition in table["composition"]]
        write_atomic(out / "change_errors.csv", table.to_csv(index=False))
        names.append("change_errors.csv")
    else:
        remove_written(folder, "augment/change_errors.csv")
    if config.teacher.with_fitted:
        names.append("fitted.pt")
    else:
        remove_written(folder, FITTED)
    return [*written, *(f"augment/{name}" for name in names)]


def _examined(config: RunConfig, teacher: Any, train: Sequence[Atoms], folder: Path) -> list[str]:
    """Examine a calculator before it labels (native teachers were when they were fitted); the file that says so."""
    examination = examined_calculator(teacher, train, force=config.teacher.force)
    if examination is None:
        remove_written(folder, EXAMINATION)
        return []
    write_atomic(folder / EXAMINATION, json.dumps(without_nan(examination.to_dict()), indent=1))
    return [EXAMINATION]
