"""Stage teacher: fit or take over the EAM, examine it, write what there is to know about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mdl_physpretrain.files import write_atomic
from mdl_physpretrain.potentials.eam.model import EAM
from mdl_physpretrain.potentials.errors import evaluate, trivial_errors
from mdl_physpretrain.structures import reference_energies
from mdl_physpretrain.teacher import teacher_curves
from mdl_physpretrain.teacher.decomposition import COLUMNS, eam_decomposition
from mdl_physpretrain.teacher.source import examined_eam
from mdl_physpretrain.workflow.data import read_part, without_nan
from mdl_physpretrain.workflow.layout import TEACHER

if TYPE_CHECKING:
    from mdl_physpretrain.workflow.config import RunConfig

__all__ = ["teach"]

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
    parts = eam_decomposition(eam, test or val or train) if isinstance(eam, EAM) else pd.DataFrame(columns=COLUMNS)
    write_atomic(out / "decomposition.csv", parts.to_csv(index=False))
    outputs = [TEACHER, *(f"teacher/{name}" for name in WRITTEN)]
    if fit.get("history"):
        write_atomic(out / "history.csv", pd.DataFrame(fit["history"]).to_csv(index=False))
        outputs.append("teacher/history.csv")
    return outputs
