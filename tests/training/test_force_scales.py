"""The scale of forces from which replayed structures are scaled down."""

import sys

import numpy as np
import pytest
from ase import Atoms

from mdl_physpretrain.recipe import Pretrain
from mdl_physpretrain.structures.labels import Labels, set_labels
from mdl_physpretrain.training.force_scales import force_scale_of
from mdl_physpretrain.training.train import train


def _atoms(sizes) -> Atoms:
    forces = np.zeros((len(sizes), 3))
    forces[:, 1] = sizes
    return set_labels(Atoms(f"H{len(sizes)}", np.zeros((len(sizes), 3))), Labels(0.0, forces, None))


def test_scale_is_a_percentile_of_all_atoms_and_not_too_small():
    sizes = np.linspace(0, 10, 101)
    assert force_scale_of([_atoms(sizes[:50]), _atoms(sizes[50:])]) == pytest.approx(9.5)
    assert force_scale_of([_atoms(np.zeros(4))]) == 0.5
    energies_only = set_labels(Atoms("H"), Labels(1.0, None, None))
    assert force_scale_of([energies_only, _atoms([2.0])]) == pytest.approx(2.0)
    assert force_scale_of([energies_only]) == Pretrain().force_scale


def test_training_takes_it_from_its_structures(rocksalt, monkeypatch):
    seen = []
    module = sys.modules[train.__module__]
    monkeypatch.setattr(module, "EFSLoss", lambda *a, **options: seen.append(options) or 1 / 0)
    for scale in ("auto", 2.0, None):
        with pytest.raises(ZeroDivisionError):
            train("cgcnn", rocksalt, force_scale=scale)
    assert [options["force_scale"] for options in seen] == [force_scale_of(rocksalt), 2.0, None]
