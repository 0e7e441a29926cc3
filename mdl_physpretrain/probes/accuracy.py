"""Probe of accuracy: errors of energy, forces and stress on labelled structures (Table 2 of the paper)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from ase import Atoms

from mdl_physpretrain.graphs.batch import build_batch
from mdl_physpretrain.potentials.base import EnergyModel, Prediction
from mdl_physpretrain.potentials.error_metrics import ErrorSums, error_sums
from mdl_physpretrain.probes.base import Answer, Probe, Subject, Tables
from mdl_physpretrain.probes.predictions import COLUMNS, Predictions
from mdl_physpretrain.probes.single_points import Potential
from mdl_physpretrain.structures.labels import get_labels
from mdl_physpretrain.teacher.label import label

__all__ = ["Errors", "labelled", "potential_error_sums", "potential_errors"]

UNITS = {"energy_per_atom_mae": ("E", "eV/atom"), "forces_mae": ("F", "eV/Å"), "stress_mae_gpa": ("S", "GPa")}


def labelled(structures: Sequence[Atoms]) -> list[Atoms]:
    """Structures with an energy, forces or a stress."""
    return [a for a in structures if any(v is not None for v in vars(get_labels(a)).values())]


def potential_errors(
    potential: Potential, structures: Sequence[Atoms], predictions: Predictions | None = None
) -> dict[str, Any]:
    """Errors of any potential, as :func:`mdl_physpretrain.potentials.error_metrics.evaluate` gives them for a model.

    A calculator without stress has none to be wrong about. ``predictions`` collects what it predicts.
    """
    sums = potential_error_sums(potential, structures, predictions)
    compared = isinstance(potential, EnergyModel) or bool(sums.sums[1].any())
    return {**sums.means(), "n_structures": len(structures) if compared else 0}


def potential_error_sums(
    potential: Potential, structures: Sequence[Atoms], predictions: Predictions | None = None
) -> ErrorSums:
    """What :func:`potential_errors` takes the means of."""
    watch = None if predictions is None else predictions.add
    if isinstance(potential, EnergyModel):
        return error_sums(potential, structures, watch=watch)
    references = {str(a.info["structure_id"]): a for a in structures}
    sums = ErrorSums()
    for atoms in label(structures, potential):
        labels = get_labels(atoms)
        reference = references[str(atoms.info["structure_id"])]
        batch = build_batch(reference, 1.0, torch.float64)
        stress = batch.stress if labels.stress is None else torch.as_tensor(labels.stress)[None]
        batch.has_stress &= labels.stress is not None
        out = Prediction(torch.tensor([labels.energy]).double(), torch.as_tensor(labels.forces), stress)
        sums.add(out, batch)
        if watch is not None:
            watch(out, batch, [reference])
    return sums


class Errors(Probe):
    """Mean absolute errors, one row per split, and predictions beside the labels of the first split that has any."""

    name = "errors"
    question = "errors"
    applies_to = "potential"
    needs = frozenset({"labels"})
    files = {  # noqa: RUF012 - a class variable of the base
        "efs": ("total",),
        "predictions": ("quantity", "reference", "predicted"),
    }
    numbers = ("reference", "predicted", "of")
    texts = ("quantity", "axis")
    expected = frozenset({"efs"})
    answer_place = 50

    def tables(self, subject: Subject) -> dict[str, pd.DataFrame]:
        rows: list[dict[str, Any]] = []
        predictions = pd.DataFrame(columns=["split", *COLUMNS])
        for split in ("test", "val", "train"):
            if structures := labelled(subject.splits.get(split, [])):
                collected = None if rows else Predictions()
                rows.append({"split": split, **potential_errors(subject.potential, structures, collected)})
                if collected is not None:
                    predictions = collected.table()
                    predictions.insert(0, "split", split)
        return {"efs": pd.DataFrame(rows), "predictions": predictions}

    def answer(self, tables: Tables) -> Answer | None:
        table = tables.get("efs")
        if table is None or not len(table):
            return None
        row = table.iloc[0]
        if not row["n_structures"]:
            return None
        if not math.isfinite(row["total"]):
            return "no", "an energy, a force or a stress is NaN or infinite"
        words = [f"{letter} {row[k]:.4g} {unit}" for k, (letter, unit) in UNITS.items() if row[k] == row[k]]
        return "value", f"{', '.join(words)} ({int(row['n_structures'])} structures)"
