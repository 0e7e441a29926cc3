"""Reference energies that are fitted anew after a training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ase import Atoms
from labelled_cells import rocksalt_cells

from mdl_physpretrain.potentials import CGCNN, load_model
from mdl_physpretrain.potentials.error_metrics import evaluate
from mdl_physpretrain.structures.labels import Labels, get_labels, set_labels
from mdl_physpretrain.training import finetune
from mdl_physpretrain.training.references import refit_reference_energies

SHORT = {
    "epochs": 1,
    "weights": (0.01, 50.0, 50.0),
    "learning_rate": 1e-9,
    "shift_energies": False,
    "replay_fraction": 0.0,
    "ema": None,
}


def offset_cells(by: float) -> list[Atoms]:
    """Cells whose energies per atom differ by ``by`` (eV) from those of others."""
    cells = []
    for atoms in rocksalt_cells():
        labels = get_labels(atoms)
        cells.append(set_labels(atoms.copy(), Labels(labels.energy + by * len(atoms), labels.forces, labels.stress)))
    return cells


def network(structures: list[Atoms]) -> CGCNN:
    torch.manual_seed(0)
    model = CGCNN(cutoff=4.0, dim1=8, dim2=8, gc_count=1).eval()
    refit_reference_energies(model, structures, structures)
    return model


def test_a_constant_offset_is_gone_and_forces_stay(tmp_path: Path) -> None:
    start, cells = network(rocksalt_cells()), offset_cells(0.5)
    left = finetune(start, cells, val=cells[:4], refit_energies=False, directory=tmp_path / "left", **SHORT)
    fitted = finetune(start, cells, val=cells[:4], refit_energies=True, directory=tmp_path / "fitted", **SHORT)
    errors = [evaluate(model, cells) for model in (left, fitted)]
    assert errors[0]["energy_per_atom_mae"] > 0.4
    assert errors[1]["energy_per_atom_mae"] < 0.1
    assert errors[1]["forces_mae"] == errors[0]["forces_mae"]
    stored = load_model(tmp_path / "fitted" / "best.pt")
    assert torch.equal(stored.reference_energies, fitted.reference_energies)
    assert fitted.metadata["best_val_loss"] == pytest.approx(evaluate(fitted, cells[:4])["total"], rel=1e-6)
    again = finetune(start, cells, val=cells[:4], refit_energies=True, directory=tmp_path / "fitted", **SHORT)
    assert torch.equal(again.reference_energies, fitted.reference_energies)


def test_energies_that_are_better_as_they_are_stay() -> None:
    cells = rocksalt_cells()
    model = network(cells)
    kept = model.reference_energies.clone()
    assert not refit_reference_energies(model, offset_cells(0.5), cells)
    assert torch.equal(model.reference_energies, kept)
    assert refit_reference_energies(model, offset_cells(0.5), offset_cells(0.5))
