"""Forces and stress of every model are the derivatives of its energy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress

from mdl_physpretrain.potentials import CGCNN, EAM, ZBL, ASECalculator, EnergyModel, Sum

SYMBOLS = ["O", "Mg", "Si", "Al", "H"]


def eam(core: bool = True) -> EAM:
    torch.manual_seed(3)
    model = EAM(SYMBOLS, cutoff=5.0, n_basis=4, core=core).double()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1 + 0.3 * torch.rand_like(p))
    return model


def cgcnn(**options: object) -> CGCNN:
    torch.manual_seed(4)
    settings = {"cutoff": 4.5, "dim1": 12, "dim2": 10, "gc_count": 2, "edge_dim": 12, "width": 0.1, **options}
    return CGCNN(**settings).double().eval()


MODELS = {
    "eam": eam,
    "eam without core": lambda: eam(core=False),
    "cgcnn smooth": cgcnn,
    "cgcnn sharp": lambda: cgcnn(smooth_cutoff=False, batch_norm=False),
    "cgcnn early pooling": lambda: cgcnn(pool_order="early"),
    "zbl": lambda: ZBL().double(),
    "sum": lambda: Sum([cgcnn(), eam()]),
}
STRUCTURES = ["molecule", "slab", "chain", "triclinic", "one_atom", "tiny"]


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("model_name", MODELS)
def test_forces_and_stress_are_finite_differences(zoo: dict[str, Atoms], model_name: str, name: str) -> None:
    atoms = zoo[name]
    if model_name == "zbl":
        atoms.set_cell(atoms.cell * 0.6, scale_atoms=True)  # short enough to feel it
        atoms.positions *= 1 if atoms.cell.rank else 0.6
    elif name == "slab":
        atoms.positions[0] += [0.1, -0.07, 0.05]
    atoms.calc = ASECalculator(MODELS[model_name]())
    forces = atoms.get_forces()
    rows = list(range(min(3, len(atoms))))
    numerical = calculate_numerical_forces(atoms, eps=1e-4, iatoms=rows)
    scale = max(1e-2, np.abs(forces).max())
    assert np.abs(forces[rows] - numerical).max() < 1e-6 * scale
    if atoms.cell.rank == 3:
        stress = atoms.get_stress()
        numerical = calculate_numerical_stress(atoms, eps=1e-5)
        assert np.abs(stress - numerical).max() < 1e-6 * max(1e-2, np.abs(stress).max())


@pytest.mark.parametrize("n_elements", [1, 2, 3, 4])
def test_eam_for_one_to_four_elements(n_elements: int) -> None:
    rng = np.random.default_rng(n_elements)
    symbols = (SYMBOLS[:n_elements] * 6)[:6]
    grid = np.array([[0, 0, 0], [2.1, 0, 0], [0, 2.1, 0], [0, 0, 2.1], [2.1, 2.1, 0], [2.1, 0, 2.1]])
    atoms = Atoms(
        symbols, grid + rng.normal(scale=0.1, size=(6, 3)), cell=[[4.4, 0, 0], [0.3, 4.3, 0], [0, 0.5, 4.2]], pbc=True
    )
    torch.manual_seed(0)
    model = EAM(SYMBOLS[:n_elements], cutoff=5.0, n_basis=10).double()
    atoms.calc = ASECalculator(model)
    forces = atoms.get_forces()
    numerical = calculate_numerical_forces(atoms, eps=1e-4)
    assert np.abs(forces - numerical).max() < 1e-6 * np.abs(forces).max()


@pytest.mark.parametrize("model_name", MODELS)
def test_energy_is_invariant(zoo: dict[str, Atoms], model_name: str) -> None:
    model = MODELS[model_name]()
    atoms = zoo["triclinic"]

    def values(a: Atoms) -> tuple[float, np.ndarray]:
        a.calc = ASECalculator(model)
        return a.get_potential_energy(), a.get_forces()

    energy, forces = values(atoms.copy())
    angle = 0.7
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1.0]])
    turned = Atoms(atoms.numbers, atoms.positions @ turn.T, cell=atoms.cell.array @ turn.T, pbc=True)
    energy_turned, forces_turned = values(turned)
    assert energy_turned == pytest.approx(energy, rel=1e-10, abs=1e-9)
    np.testing.assert_allclose(forces_turned, forces @ turn.T, atol=1e-8 * max(1, np.abs(forces).max()))

    moved = atoms.copy()
    moved.positions += [3.3, -7.1, 0.4]
    moved.wrap()
    assert values(moved)[0] == pytest.approx(energy, rel=1e-10, abs=1e-9)

    order = [2, 0, 3, 1]
    permuted_energy, permuted_forces = values(atoms[order])
    assert permuted_energy == pytest.approx(energy, rel=1e-10, abs=1e-9)
    np.testing.assert_allclose(permuted_forces, forces[order], atol=1e-8 * max(1, np.abs(forces).max()))

    if model_name != "cgcnn early pooling":  # pooling before the last layers is not size-extensive
        double_energy, double_forces = values(atoms.repeat((2, 1, 1)))
        assert double_energy == pytest.approx(2 * energy, rel=1e-9, abs=1e-8)
        np.testing.assert_allclose(double_forces[:4], forces, atol=1e-8 * max(1, np.abs(forces).max()))


@pytest.mark.parametrize(("make", "cutoff"), [(eam, 5.0), (cgcnn, 4.5)])
def test_energy_and_force_are_continuous_at_the_cutoff(make: type[EnergyModel], cutoff: float) -> None:
    model = make()

    def pair(r: float) -> tuple[float, float]:
        atoms = Atoms("MgO", [[0, 0, 0], [r, 0, 0]])
        atoms.calc = ASECalculator(model)
        return atoms.get_potential_energy(), atoms.get_forces()[1, 0]

    inside, outside = pair(cutoff - 1e-5), pair(cutoff + 1e-5)
    assert inside[0] == pytest.approx(outside[0], abs=1e-9)
    assert abs(inside[1]) < 1e-6
    assert outside[1] == 0
    assert abs(pair(0.6 * cutoff)[1]) > 1e-6


def test_a_longer_list_gives_the_same_numbers(zoo: dict[str, Atoms]) -> None:
    from mdl_physpretrain.graphs.batch import build_batch
    from mdl_physpretrain.potentials import predict

    for model in (eam(), cgcnn(), Sum([cgcnn(), ZBL().double()])):
        exact, longer = (
            predict(model, build_batch(zoo["triclinic"], model.cutoff + more, torch.float64)) for more in (0.0, 1.3)
        )
        torch.testing.assert_close(exact.energy, longer.energy)
        torch.testing.assert_close(exact.forces, longer.forces)
        torch.testing.assert_close(exact.stress, longer.stress)


def test_float32_follows_float64(zoo: dict[str, Atoms]) -> None:
    from mdl_physpretrain.graphs.batch import build_batch
    from mdl_physpretrain.potentials import predict

    model = eam()
    wide = predict(model, build_batch(zoo["slab"], 5.0, torch.float64))
    narrow = predict(model.float(), build_batch(zoo["slab"], 5.0, torch.float32))
    assert narrow.forces.dtype == torch.float32
    torch.testing.assert_close(narrow.energy.double(), wide.energy, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(narrow.forces.double(), wide.forces, rtol=1e-3, atol=1e-2)


def test_batching_changes_nothing(zoo: dict[str, Atoms]) -> None:
    from mdl_physpretrain.graphs.batch import build_batch, collate
    from mdl_physpretrain.potentials import predict

    for model in (eam(), cgcnn()):
        single = [build_batch(zoo[n], model.cutoff, torch.float64) for n in STRUCTURES]
        together = predict(model, collate(single))
        alone = [predict(model, b) for b in single]
        torch.testing.assert_close(together.energy, torch.cat([p.energy for p in alone]))
        torch.testing.assert_close(together.forces, torch.cat([p.forces for p in alone]))
        torch.testing.assert_close(together.stress, torch.cat([p.stress for p in alone]))


def test_unknown_element_is_named() -> None:
    from mdl_physpretrain.errors import StructureError

    atoms = Atoms("AuO", [[0, 0, 0], [2, 0, 0]])
    atoms.calc = ASECalculator(eam())
    with pytest.raises(StructureError, match="Au"):
        atoms.get_potential_energy()
