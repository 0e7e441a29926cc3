"""M3GNet: derivatives, invariances, dynamics, and that it learns."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import fcc111
from m3gnet_networks import SMALL, crystals, responsive, values

from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.graphs.batch import build_batch, collate
from mdl_physpretrain.potentials import M3GNet, predict
from mdl_physpretrain.training import new_network


@pytest.fixture(autouse=True)
def _mattersim():
    pytest.importorskip("mattersim", reason="mattersim is not installed")


def test_a_left_handed_cell_has_the_same_stress() -> None:
    atoms = crystals()["skewed"]
    left = atoms.copy()
    left.set_cell(atoms.cell.array[[1, 0, 2]])
    assert np.linalg.det(left.cell.array) < 0 < np.linalg.det(atoms.cell.array)
    model = responsive()
    one, other = (predict(model, build_batch(a, model.cutoff, torch.float64)) for a in (atoms, left))
    torch.testing.assert_close(one.energy, other.energy)
    torch.testing.assert_close(one.stress, other.stress)
    assert one.stress.abs().max() > 1e-4


def test_a_slab_is_one_in_a_periodic_cell_with_much_vacuum() -> None:
    slab = fcc111("Al", (1, 1, 3), a=4.05, vacuum=1.0)
    slab.rattle(0.1, seed=1)
    roomy = slab.copy()
    roomy.center(vacuum=10.0, axis=2)
    roomy.pbc = True
    assert slab.pbc.tolist() == [True, True, False]
    model = responsive()
    energy, forces = values(model, slab)
    expected, expected_forces = values(model, roomy)
    assert energy == pytest.approx(expected, abs=1e-9)
    np.testing.assert_allclose(forces, expected_forces, atol=1e-9)


@pytest.mark.parametrize("edge", [4.5, 3.5])
def test_energy_and_force_are_continuous_at_both_cutoffs(edge: float) -> None:
    model = responsive()

    def third_atom_at(r: float) -> tuple[float, float]:
        energy, forces = values(model, Atoms("MgOO", [[0, 0, 0], [0, 1.9, 0], [r, 0, 0]]))
        return energy, forces[2, 0]

    inside, outside = third_atom_at(edge - 1e-5), third_atom_at(edge + 1e-5)
    slope = max(abs(inside[1]), abs(outside[1]))
    assert inside[0] == pytest.approx(outside[0], abs=1e-6 + 3e-5 * slope)  # MatterSim's tables are float32
    assert inside[1] == pytest.approx(outside[1], abs=1e-4)
    assert abs(third_atom_at(0.6 * edge)[1]) > 1e-3


def test_a_lone_atom_has_the_energy_of_its_element_and_no_forces() -> None:
    model = responsive()
    energy, forces = values(model, Atoms("Mg", [[0, 0, 0]]))
    assert np.all(forces == 0)
    pair, _ = values(model, Atoms("MgO", [[0, 0, 0], [50, 0, 0]]))
    assert pair == pytest.approx(energy + values(model, Atoms("O", [[0, 0, 0]]))[0])


def test_atoms_without_angles() -> None:
    energy, forces = values(responsive(), Atoms("MgO", [[0, 0, 0], [1.8, 0, 0]]))
    assert np.isfinite(energy)
    assert abs(forces[0, 0]) > 1e-3


def test_atoms_in_one_place_give_finite_numbers() -> None:
    energy, forces = values(responsive(), Atoms("MgO2", [[0, 0, 0], [1.8, 0, 0], [1.8, 0, 0]]))
    assert np.isfinite(energy)
    assert np.isfinite(forces).all()


def test_an_unknown_element_is_named() -> None:
    with pytest.raises(StructureError, match=r"1 to 94, not Cm \(96\)"):
        values(responsive(), Atoms("CmO", [[0, 0, 0], [2, 0, 0]]))


def test_initialise_gives_forces_of_the_size_of_the_labels(rocksalt: list[Atoms]) -> None:
    model = new_network("m3gnet", rocksalt, model_args=SMALL)
    labels = collate([build_batch(a, model.cutoff) for a in rocksalt])
    size = predict(model, labels).forces.square().mean().sqrt() / labels.forces.square().mean().sqrt()
    assert 0.1 < size < 1
    assert model.reference_energies[[8, 12]].abs().min() > 1
    other = new_network("m3gnet", rocksalt, model_args=SMALL)
    assert torch.equal(model(labels), other(labels))


@pytest.mark.parametrize(
    "options",
    [{"threebody_cutoff": 6.0}, {"max_l": 5}, {"max_n": 0}, {"units": 0}, {"num_blocks": 0}, {"max_z": 119}],
)
def test_arguments_out_of_range(options: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        M3GNet(**options)


def test_without_mattersim_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mattersim.forcefield.m3gnet.m3gnet", None)
    with pytest.raises(ConfigError, match=r"pip install \"mdl-physpretrain\[m3gnet\]\".*--no-deps mattersim"):
        M3GNet()


def test_importing_the_models_does_not_import_mattersim() -> None:
    code = "import sys, mdl_physpretrain.potentials; sys.exit('mattersim' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
