"""M3GNet: derivatives, invariances, dynamics, and that it learns."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import fcc111
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from m3gnet_networks import SMALL, crystals, responsive, values

from mdl_physpretrain.dynamics import simulate
from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.graphs.batch import build_batch, collate
from mdl_physpretrain.potentials import ASECalculator, M3GNet, load_model, predict
from mdl_physpretrain.training import new_network, train

STRUCTURES = ["molecule", "slab", "chain", "triclinic", "one_atom", "tiny"]


@pytest.fixture(autouse=True)
def _mattersim():
    pytest.importorskip("mattersim", reason="mattersim is not installed")


@pytest.mark.parametrize("name", STRUCTURES)
def test_forces_and_stress_are_finite_differences(zoo: dict[str, Atoms], name: str) -> None:
    atoms = zoo[name]
    if name == "slab":
        atoms.positions[0] += [0.1, -0.07, 0.05]
    atoms.calc = ASECalculator(responsive())
    forces = atoms.get_forces()
    rows = list(range(min(3, len(atoms))))
    numerical = calculate_numerical_forces(atoms, eps=1e-5, iatoms=rows)
    assert np.abs(forces[rows] - numerical).max() < 1e-6 * max(1e-2, np.abs(forces).max())
    if atoms.cell.rank == 3:
        stress = atoms.get_stress()
        numerical = calculate_numerical_stress(atoms, eps=1e-5)
        assert np.abs(stress - numerical).max() < 1e-6 * max(1e-2, np.abs(stress).max())
        assert np.abs(stress).max() > 1e-5


def test_energy_is_invariant(zoo: dict[str, Atoms]) -> None:
    model, atoms = responsive(), zoo["triclinic"]
    energy, forces = values(model, atoms)
    assert np.abs(forces).max() > 0.05
    turn = np.array([[np.cos(0.7), -np.sin(0.7), 0], [np.sin(0.7), np.cos(0.7), 0], [0, 0, 1.0]])
    turned = Atoms(atoms.numbers, atoms.positions @ turn.T, cell=atoms.cell.array @ turn.T, pbc=True)
    energy_turned, forces_turned = values(model, turned)
    assert energy_turned == pytest.approx(energy, rel=1e-10)
    np.testing.assert_allclose(forces_turned, forces @ turn.T, atol=1e-9)

    moved = atoms.copy()
    moved.positions += [3.3, -7.1, 0.4]
    moved.wrap()
    assert values(model, moved)[0] == pytest.approx(energy, rel=1e-10)

    order = [2, 0, 3, 1]
    permuted_energy, permuted_forces = values(model, atoms[order])
    assert permuted_energy == pytest.approx(energy, rel=1e-10)
    np.testing.assert_allclose(permuted_forces, forces[order], atol=1e-9)

    double_energy, double_forces = values(model, atoms.repeat((2, 1, 1)))
    assert double_energy == pytest.approx(2 * energy, rel=1e-10)
    np.testing.assert_allclose(double_forces[:4], forces, atol=1e-9)


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


def test_batching_changes_nothing(zoo: dict[str, Atoms]) -> None:
    model = responsive()
    single = [build_batch(zoo[n], model.cutoff + 0.7, torch.float64) for n in STRUCTURES]
    together, alone = predict(model, collate(single)), [predict(model, b) for b in single]
    for field in ("energy", "forces", "stress"):
        torch.testing.assert_close(getattr(together, field), torch.cat([getattr(p, field) for p in alone]))


def test_batched_dynamics_follows_the_ase_engine(rocksalt: list[Atoms]) -> None:
    model = responsive()
    runs = {
        engine: simulate(
            model, rocksalt[:2], ensemble="nve", temperature=300.0, steps=8, engine=engine, trace_interval=1, stop_on=()
        )
        for engine in ("batched", "ase")
    }
    for one, other in zip(runs["batched"].records, runs["ase"].records, strict=True):
        assert one.steps_done == other.steps_done == 8
        np.testing.assert_allclose(one.trace_energy, other.trace_energy, rtol=1e-8)
        np.testing.assert_allclose(one.positions, other.positions, atol=1e-8)
        assert np.ptp(one.trace_energy) > 1e-4


def test_saved_and_loaded_is_the_same(tmp_path: Path, zoo: dict[str, Atoms]) -> None:
    model = responsive(torch.float32)
    model.save(tmp_path / "m.pt")
    again = load_model(tmp_path / "m.pt", expect="m3gnet")
    assert again.hparams == model.hparams
    batch = build_batch(zoo["triclinic"], model.cutoff)
    assert torch.equal(model(batch), again(batch))


def test_initialise_gives_forces_of_the_size_of_the_labels(rocksalt: list[Atoms]) -> None:
    model = new_network("m3gnet", rocksalt, model_args=SMALL)
    labels = collate([build_batch(a, model.cutoff) for a in rocksalt])
    size = predict(model, labels).forces.square().mean().sqrt() / labels.forces.square().mean().sqrt()
    assert 0.1 < size < 1
    assert model.reference_energies[[8, 12]].abs().min() > 1
    other = new_network("m3gnet", rocksalt, model_args=SMALL)
    assert torch.equal(model(labels), other(labels))


def test_training_learns_forces(rocksalt: list[Atoms]) -> None:
    teacher = responsive(torch.float32)
    structures = []
    for atoms in rocksalt:
        labelled = atoms.copy()
        labelled.calc = ASECalculator(teacher)
        labelled.get_potential_energy()
        structures.append(labelled)
    zero = np.abs(np.concatenate([a.get_forces() for a in structures])).mean()
    options = {**SMALL, "max_l": 3, "cutoff": 4.0, "threebody_cutoff": 3.0}
    model = train("m3gnet", structures, epochs=12, batch_size=2, learning_rate=3e-3, model_args=options)
    batch = collate([build_batch(a, model.cutoff) for a in structures])
    assert (predict(model, batch).forces - batch.forces).abs().mean() < 0.75 * zero


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
