"""What every potential owes to training, labelling, MD and checkpoints, for every one that is registered."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress
from ase.units import kB
from small_potentials import small

from mdl_physpretrain.dynamics import simulate
from mdl_physpretrain.executors.transfer import receive, send
from mdl_physpretrain.graphs.batch import build_batch, collate
from mdl_physpretrain.potentials import ASECalculator, EnergyModel, load_model, predict, registered_models
from mdl_physpretrain.potentials.base import Prediction
from mdl_physpretrain.potentials.identity import potential_fingerprint
from mdl_physpretrain.teacher import label
from mdl_physpretrain.training import train

FIELDS = ("energy", "forces", "stress")
STRUCTURES = ["molecule", "slab", "chain", "triclinic", "one_atom", "tiny"]
HOST = {"smooth_cutoff": False, "own_images": False, "pool_order": "early", "pool": "mean"}
OTHER = {"distance_influence": "keys", "rbf_type": "gauss", "activation": "ssp", "attn_activation": "tanh"}
VARIANTS: dict[str, tuple[str, dict]] = {
    "eam without core": ("eam", {"core": False}),
    "cgcnn as MatDeepLearn has it": ("cgcnn", {"smooth_cutoff": False, "batch_norm": False}),
    "cgcnn early pooling": ("cgcnn", {"pool_order": "early"}),
    "torchmd_et as MatDeepLearn has it": ("torchmd_et", HOST),
    "torchmd_et of other layers": ("torchmd_et", OTHER),
}
"""Options that change the formula; all of them have the derivatives and symmetries, those below not everything."""
NOT_EXTENSIVE = {"cgcnn early pooling", "torchmd_et as MatDeepLearn has it"}
SMOOTH = [*registered_models(), "eam without core", "cgcnn early pooling", "torchmd_et of other layers"]
EVERY = [*registered_models(), *VARIANTS]


def model_of(case: str, dtype: torch.dtype = torch.float64) -> EnergyModel:
    name, options = VARIANTS.get(case, (case, {}))
    return small(name, dtype, **options)


def cells(zoo: dict[str, Atoms], model: EnergyModel) -> dict[str, Atoms]:
    """Structures without symmetry in which the model's atoms feel each other."""
    zoo["slab"].positions[0] += [0.1, -0.07, 0.05]
    if model.role == "core":
        for atoms in zoo.values():
            atoms.set_cell(atoms.cell * 0.6)
            atoms.positions *= 0.6
    return zoo


def values(model: EnergyModel, atoms: Atoms) -> tuple[float, np.ndarray]:
    out = predict(model, build_batch(atoms, model.cutoff, model.dtype))
    return out.energy.item(), out.forces.numpy()


def assert_close(one: Prediction, other: Prediction, rtol: float = 1e-9, atol: float = 1e-9) -> None:
    for field in FIELDS:
        torch.testing.assert_close(
            getattr(one, field).double(), getattr(other, field).double(), rtol=rtol, atol=atol, msg=lambda m: m
        )


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("case", EVERY)
def test_forces_and_stress_are_finite_differences(zoo: dict[str, Atoms], case: str, name: str) -> None:
    model = model_of(case)
    atoms = cells(zoo, model)[name]
    atoms.calc = ASECalculator(model)
    forces = atoms.get_forces()
    rows = list(range(min(2, len(atoms))))
    numerical = calculate_numerical_forces(atoms, eps=3e-5, iatoms=rows)
    assert np.abs(forces[rows] - numerical).max() < 2e-6 * max(1e-2, np.abs(forces).max())
    if name in {"chain", "triclinic"}:
        assert np.abs(forces).max() > 1e-4
    if atoms.cell.rank == 3:
        stress = atoms.get_stress()
        numerical = calculate_numerical_stress(atoms, eps=1e-5)
        assert np.abs(stress - numerical).max() < 2e-6 * max(1e-2, np.abs(stress).max())


@pytest.mark.parametrize("case", EVERY)
def test_symmetries(zoo: dict[str, Atoms], case: str) -> None:
    model = model_of(case)
    atoms = cells(zoo, model)["triclinic"]
    energy, forces = values(model, atoms)
    scale = max(1.0, np.abs(forces).max())
    np.testing.assert_allclose(forces.sum(0), 0, atol=1e-9 * scale)
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))  # a reflection, too
    turned_energy, turned_forces = values(
        model, Atoms(atoms.numbers, atoms.positions @ turn.T, cell=atoms.cell.array @ turn.T, pbc=True)
    )
    assert turned_energy == pytest.approx(energy, rel=1e-9, abs=1e-8)
    np.testing.assert_allclose(turned_forces, forces @ turn.T, atol=1e-8 * scale)

    moved = atoms.copy()
    moved.positions += [3.3, -7.1, 0.4]
    moved.wrap()
    assert values(model, moved)[0] == pytest.approx(energy, rel=1e-9, abs=1e-8)

    order = [2, 0, 3, 1]
    permuted_energy, permuted_forces = values(model, atoms[order])
    assert permuted_energy == pytest.approx(energy, rel=1e-9, abs=1e-8)
    np.testing.assert_allclose(permuted_forces, forces[order], atol=1e-8 * scale)


@pytest.mark.parametrize("name", ["triclinic", "one_atom", "tiny"])
@pytest.mark.parametrize("case", [case for case in EVERY if case not in NOT_EXTENSIVE])
def test_a_supercell_has_a_multiple_of_the_energy(zoo: dict[str, Atoms], case: str, name: str) -> None:
    model = model_of(case)
    atoms = cells(zoo, model)[name]
    energy, forces = values(model, atoms)
    supercell_energy, supercell_forces = values(model, atoms.repeat((2, 1, 2)))
    assert supercell_energy == pytest.approx(4 * energy, rel=1e-9, abs=1e-8)
    np.testing.assert_allclose(supercell_forces[: len(atoms)], forces, atol=1e-8 * max(1, np.abs(forces).max()))


@pytest.mark.parametrize("case", SMOOTH)
def test_energy_and_forces_are_continuous_at_the_cutoff(case: str) -> None:
    model = model_of(case)

    def third_atom_at(r: float) -> tuple[float, np.ndarray]:
        # the bonded pair has features of its own: a lone pair would not feel a jump in what they do to the third
        return values(model, Atoms("MgOSi", [[0, 0, 0], [0.2, 1.9, 0], [-r, 0, 0]]))

    for reach in {model.cutoff, *(leaf.cutoff for leaf in model.leaves())}:
        inside, outside = third_atom_at(reach - 1e-5), third_atom_at(reach + 1e-5)
        scale = max(1e-2, np.abs(outside[1]).max())
        assert inside[0] == pytest.approx(outside[0], abs=1e-6 + 3e-5 * scale)
        np.testing.assert_allclose(inside[1], outside[1], atol=2e-4 * scale)
    if model.role != "core":
        assert np.abs(third_atom_at(2.8)[1][2]).max() > 1e-5


@pytest.mark.parametrize("case", EVERY)
def test_batches_lists_and_ase_give_the_same_numbers(zoo: dict[str, Atoms], case: str) -> None:
    model = model_of(case)
    structures = [cells(zoo, model)[name] for name in STRUCTURES]
    single = [build_batch(atoms, model.cutoff, torch.float64) for atoms in structures]
    together, alone = predict(model, collate(single)), [predict(model, batch) for batch in single]
    assert_close(together, Prediction(*(torch.cat([getattr(out, field) for out in alone]) for field in FIELDS)))
    for atoms, out in zip(structures, alone, strict=True):
        atoms.calc = ASECalculator(model)
        assert atoms.get_potential_energy() == pytest.approx(out.energy.item(), rel=1e-12)
        np.testing.assert_allclose(atoms.get_forces(), out.forces.numpy(), atol=1e-12)
        if atoms.cell.rank == 3:
            np.testing.assert_allclose(
                atoms.get_stress(), full_3x3_to_voigt_6_stress(out.stress[0].numpy()), atol=1e-12
            )
    batch, longer = single[3], build_batch(structures[3], model.cutoff + 1.3, torch.float64)
    order = torch.randperm(batch.edge_index.shape[1], generator=torch.Generator().manual_seed(0))
    assert_close(predict(model, longer), alone[3])
    assert_close(predict(model, batch.with_edges(order)), alone[3])


@pytest.mark.parametrize("case", EVERY)
def test_labels_are_predictions(zoo: dict[str, Atoms], case: str) -> None:
    model = model_of(case)
    atoms = cells(zoo, model)["triclinic"]
    (labelled,) = label([atoms], model)
    energy, forces = values(model, atoms)
    assert labelled.get_potential_energy() == pytest.approx(energy, rel=1e-10)
    np.testing.assert_allclose(labelled.get_forces(), forces, atol=1e-9 * max(1, np.abs(forces).max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", EVERY)
def test_saved_sent_copied_and_pickled_it_is_the_same(
    zoo: dict[str, Atoms], case: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    model = model_of(case, dtype)
    batch = build_batch(cells(zoo, model)["triclinic"], model.cutoff, dtype)
    expected = predict(model, batch)
    model.save(tmp_path / "m.pt", note="kept")
    loaded = load_model(tmp_path / "m.pt", expect=model.registry_name)
    assert loaded.metadata["note"] == "kept"
    for twin in (loaded, receive(send(model)), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.hparams == model.hparams
        assert twin.dtype == dtype
        assert potential_fingerprint(twin) == potential_fingerprint(model)
        for field in FIELDS:
            assert torch.equal(getattr(predict(twin, batch), field), getattr(expected, field))


@pytest.mark.parametrize("case", EVERY)
def test_machine_code_and_single_precision_follow_the_formula_in_double(zoo: dict[str, Atoms], case: str) -> None:
    structures = [atoms for name, atoms in cells(zoo, model_of(case)).items() if name != "one_atom"]

    def result(dtype: torch.dtype, fast: bool) -> Prediction:
        model = model_of(case, dtype)
        for part in model.modules():
            if isinstance(part, EnergyModel):
                part.fast = fast
        return predict(model, collate([build_batch(atoms, model.cutoff, dtype) for atoms in structures]))

    exact = result(torch.float64, False)
    for dtype, fast in ((torch.float32, True), (torch.float32, False), (torch.float64, True)):
        out = result(dtype, fast)
        assert out.forces.dtype == dtype
        for field in FIELDS:
            difference = (getattr(out, field).double() - getattr(exact, field)).abs().max()
            assert difference <= (2e-4 if dtype == torch.float32 else 1e-9) * getattr(exact, field).abs().max()


@pytest.mark.parametrize("case", EVERY)
def test_forces_have_gradients_where_asked_for_and_exist_in_inference_mode(zoo: dict[str, Atoms], case: str) -> None:
    model = model_of(case, torch.float32)
    batch = build_batch(cells(zoo, model)["triclinic"], model.cutoff)
    expected = predict(model, batch)
    assert not expected.forces.requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(predict(model, batch).forces, expected.forces)
    trainable = [p for p in model.parameters() if p.requires_grad]
    if trainable:
        out = predict(model, batch, create_graph=True)
        (out.forces.square().sum() + out.stress.square().sum()).backward()
        assert any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in trainable)


def test_lone_atoms_have_an_energy_and_no_forces(model: EnergyModel) -> None:
    energies = [
        values(model, Atoms(symbols, [[0, 0, 40.0 * k] for k in range(n)])) for symbols, n in (("O", 1), ("O2", 2))
    ]
    assert np.isfinite(energies[0][0])
    assert energies[1][0] == pytest.approx(2 * energies[0][0], rel=1e-10, abs=1e-10)
    assert not any(forces.any() for _, forces in energies)


@pytest.fixture(params=registered_models())
def model(request: pytest.FixtureRequest) -> EnergyModel:
    return small(request.param)


def springs(structures: list[Atoms]) -> list[Atoms]:
    """Cells whose atoms hang on springs at the places of a perfect crystal."""
    rng = np.random.default_rng(2)
    result = []
    for atoms in structures:
        shift = rng.normal(scale=0.1, size=(len(atoms), 3))
        moved = Atoms(atoms.numbers, atoms.positions + shift, cell=atoms.cell, pbc=True, info=dict(atoms.info))
        energy = 2.5 * float((shift**2).sum()) - 40.0
        moved.calc = SinglePointCalculator(moved, energy=energy, forces=-5.0 * shift, stress=np.zeros(6))
        result.append(moved)
    return result


def test_training_reduces_the_loss(rocksalt: list[Atoms], model: EnergyModel) -> None:
    if not any(p.requires_grad for p in model.parameters()):
        pytest.skip("nothing to train")
    options = {"epochs": 12, "batch_size": 4, "learning_rate": 1e-2, "weights": (0.01, 50.0, 0.0), "accelerator": "cpu"}
    history = train(model.float(), springs(rocksalt), **options).metadata["history"]
    assert history[-1]["train_loss"] < 0.9 * history[0]["train_loss"]


def test_batched_dynamics_follows_ase_and_conserves_energy(rocksalt: list[Atoms], model: EnergyModel) -> None:
    structures = [atoms.copy() for atoms in rocksalt[:2]]
    if model.role == "core":
        for atoms in structures:
            atoms.set_cell(atoms.cell * 0.85, scale_atoms=True)
    options = {"ensemble": "nve", "temperature": 300.0, "seed": 1, "stop_on": (), "trace_interval": 1}

    def drift(timestep: float, engine: str = "batched", time: float = 4.0) -> tuple[float, list[np.ndarray]]:
        runs = simulate(model, structures, timestep=timestep, steps=round(time / timestep), engine=engine, **options)
        energies = [
            record.trace_energy + 0.5 * kB * (record.degrees_of_freedom or 3 * len(atoms)) * record.trace_temperature
            for record, atoms in zip(runs.records, structures, strict=True)
        ]
        return max(np.ptp(e) for e in energies), [record.positions for record in runs.records]

    coarse, positions = drift(0.25)
    fine, _ = drift(0.125)
    _, by_ase = drift(0.25, "ase")
    for one, other, start in zip(positions, by_ase, structures, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-8)
        assert np.abs(one - start.positions).max() > 1e-3
    assert fine < 0.4 * coarse + 1e-7  # the error of the integrator, second order in its step, and nothing else
