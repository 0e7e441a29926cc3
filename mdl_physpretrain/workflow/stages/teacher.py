"""Stage teacher: fit or take over the native teacher, examine it, write what there is to know about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from mdl_physpretrain.files import write_atomic
from mdl_physpretrain.potentials.error_metrics import evaluate, trivial_errors
from mdl_physpretrain.teacher.registry import teacher_kind
from mdl_physpretrain.teacher.source import native_teacher
from mdl_physpretrain.workflow.data import read_part, without_nan
from mdl_physpretrain.workflow.layout import TEACHER
from mdl_physpretrain.workflow.records import remove_written

if TYPE_CHECKING:
    from mdl_physpretrain.workflow.config import RunConfig

__all__ = ["teach"]

#: Files that some kinds of teachers have and others have not.
OPTIONAL = ("examination.json", "curves.csv", "decomposition.csv", "history.csv", "comparison.csv")


def teach(config: RunConfig, folder: Path, show: bool) -> list[str]:
    """Fit (or take over) the native teacher, examine it, and write what there is to know about it."""
    options, train, val = config.teacher, read_part(folder, "train"), read_part(folder, "val")
    out = folder / "teacher"
    out.mkdir(parents=True, exist_ok=True)
    kind = teacher_kind(options.kind)
    model = native_teacher(train, val, options, progress=show)
    model.save(folder / TEACHER)
    fit = model.metadata.get("fit", {})
    known = model.known_elements()
    test = [a for a in read_part(folder, "test") if known is None or set(a.symbols) <= known]

    errors = {
        "train": fit.get("errors") or evaluate(model, train),
        "val": fit.get("val_errors") or (evaluate(model, val) if val else None),
        "trivial": fit.get("trivial") or trivial_errors(train),
        "test": evaluate(model, test) if test else None,
    }
    examination = model.metadata.get("examination")
    tables = {
        "curves.csv": kind.curves(model, train),
        "decomposition.csv": kind.decomposition(model, test or val or train),
        "history.csv": pd.DataFrame(fit["history"]) if fit.get("history") else None,
        "comparison.csv": pd.DataFrame(model.metadata["comparison"]) if "comparison" in model.metadata else None,
    }
    contents = {"errors.json": json.dumps(without_nan(errors), indent=1)}
    if examination is not None:
        contents["examination.json"] = json.dumps(without_nan(examination), indent=1)
    contents |= {name: table.to_csv(index=False) for name, table in tables.items() if table is not None}
    for name, content in contents.items():
        write_atomic(out / name, content)
    for name in OPTIONAL:  # of another kind, in the same folder before
        if name not in contents:
            remove_written(folder, f"teacher/{name}")
    return [TEACHER, *(f"teacher/{name}" for name in contents)]
