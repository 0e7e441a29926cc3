"""The equivariant transformer: derivatives, symmetries, the cutoff, training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.calculators.singlepoint import SinglePointCalculator

from mdl_physpretrain.dynamics import simulate
from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.graphs.batch import build_batch, collate
from mdl_physpretrain.potentials import ASECalculator, TorchMDET, load_model, predict
from mdl_physpretrain.potentials.torchmd_et.layers import ACTIVATIONS
from mdl_physpretrain.training import train

SIZES = {"cutoff": 4.5, "hidden_channels": 12, "num_layers": 3, "num_rbf": 8, "num_heads": 3, "post_hidden_channels": 8}
STRUCTURES = ["molecule", "slab", "chain", "triclinic", "one_atom", "tiny"]
VARIANTS = {
    "default": {},
    "host": {"smooth_cutoff": False, "own_images": False, "pool_order": "early", "pool": "mean"},
    "other": {"distance_influence": "keys", "rbf_type": "gauss", "activation": "ssp", "attn_activation": "tanh"},
}


def model(**options: object) -> TorchMDET:
    """In float64, with every weight (biases too) away from its special initial value."""
    torch.manual_seed(4)
    made = TorchMDET(**{**SIZES, **options}).double().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter) * (0.5 + parameter.abs().mean()))
    return made


def values(made: TorchMDET, atoms: Atoms) -> tuple[float, np.ndarray]:
    out = predict(made, build_batch(atoms, made.cutoff, torch.float64))
    return out.energy.item(), out.forces.numpy()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", STRUCTURES)
def test_forces_and_stress_are_finite_differences(zoo: dict[str, Atoms], name: str, variant: str) -> None:
    atoms = zoo[name]
    if name == "slab":
        atoms.positions[0] += [0.1, -0.07, 0.05]
    atoms.calc = ASECalculator(model(**VARIANTS[variant]))
    forces = atoms.get_forces()
    rows = list(range(min(2, len(atoms))))
    numerical = calculate_numerical_forces(atoms, eps=1e-4, iatoms=rows)
    assert np.abs(forces[rows] - numerical).max() < 1e-6 * max(1e-2, np.abs(forces).max())
    if name in {"molecule", "chain", "triclinic"}:
        assert np.abs(forces).max() > 1e-4
    if atoms.cell.rank == 3:
        stress = atoms.get_stress()
        numerical = calculate_numerical_stress(atoms, eps=1e-5)
        assert np.abs(stress - numerical).max() < 1e-6 * max(1e-2, np.abs(stress).max())


def test_symmetries(zoo: dict[str, Atoms]) -> None:
    made, atoms = model(), zoo["triclinic"]
    energy, forces = values(made, atoms)
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    mirrored = Atoms(atoms.numbers, atoms.positions @ turn.T, cell=atoms.cell.array @ turn.T, pbc=True)
    turned_energy, turned_forces = values(made, mirrored)
    assert turned_energy == pytest.approx(energy, rel=1e-10)
    np.testing.assert_allclose(turned_forces, forces @ turn.T, atol=1e-9)

    moved = atoms.copy()
    moved.positions += [3.3, -7.1, 0.4]
    moved.wrap()
    assert values(made, moved)[0] == pytest.approx(energy, rel=1e-10)

    order = [2, 0, 3, 1]
    permuted_energy, permuted_forces = values(made, atoms[order])
    assert permuted_energy == pytest.approx(energy, rel=1e-10)
    np.testing.assert_allclose(permuted_forces, forces[order], atol=1e-9)
    np.testing.assert_allclose(forces.sum(0), 0, atol=1e-10)


@pytest.mark.parametrize("name", ["triclinic", "one_atom", "tiny"])
def test_a_supercell_has_a_multiple_of_the_energy(zoo: dict[str, Atoms], name: str) -> None:
    atoms = zoo[name]
    for made, same in ((model(cutoff=5.5), True), (model(cutoff=5.5, own_images=False), False)):
        energy, forces = values(made, atoms)
        double_energy, double_forces = values(made, atoms.repeat((2, 1, 2)))
        assert (abs(double_energy - 4 * energy) < 1e-9 * abs(energy)) is same
        if same:
            np.testing.assert_allclose(double_forces[: len(atoms)], forces, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"rbf_type": "gauss"}, {"distance_influence": "none"}])
def test_energy_and_force_are_continuous_at_the_cutoff(options: dict) -> None:
    made = model(**options)

    def third_atom(r: float) -> tuple[float, np.ndarray]:
        # the bonded pair has vector features: a lone pair would not feel a jump in the vector messages
        return values(made, Atoms("MgOSi", [[0, 0, 0], [0.2, 1.9, 0], [-r, 0, 0]]))

    inside, outside = third_atom(4.5 - 1e-5), third_atom(4.5 + 1e-5)
    assert inside[0] == pytest.approx(outside[0], abs=1e-9)
    np.testing.assert_allclose(inside[1], outside[1], atol=1e-4 * np.abs(outside[1]).max())
    assert np.abs(third_atom(3.0)[1][2]).max() > 1e-6
    made = model(smooth_cutoff=False, **options)
    assert abs(third_atom(4.5 - 1e-5)[0] - third_atom(4.5 + 1e-5)[0]) > 1e-7


def test_lone_atoms_and_empty_lists() -> None:
    made = model()
    lone = values(made, Atoms("O"))
    assert np.isfinite(lone[0])
    assert not lone[1].any()
    made.reference_energies[8] = -3.0
    assert values(made, Atoms("O"))[0] == pytest.approx(lone[0] - 3.0)
    together = predict(made, collate([build_batch(Atoms("O"), 4.5, torch.float64) for _ in range(2)]))
    assert together.energy.tolist() == pytest.approx([lone[0] - 3.0] * 2)


def test_unknown_elements_are_refused() -> None:
    with pytest.raises(StructureError, match="elements 1 to 29"):
        values(model(max_z=30), Atoms("OZn", [[0, 0, 0], [0, 0, 1.9]]))
    with pytest.raises(StructureError):
        values(model(), Atoms("X"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"cutoff": 0.0}, {"num_heads": 5}, {"num_layers": 0}, {"rbf_type": "bessel"}, {"activation": "relu"},
        {"attn_activation": "softmax"}, {"pool": "max"}, {"pool_order": "middle"}, {"distance_influence": "all"},
        {"num_post_layers": -1}, {"num_rbf": 1},
    ],
)  # fmt: skip
def test_options_out_of_range(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TorchMDET(**wrong)


def test_checkpoint_gives_identical_numbers(tmp_path: Path, rocksalt: list[Atoms]) -> None:
    for made in (model(), model(**VARIANTS["host"]).float()):
        made.save(tmp_path / "m.pt")
        back = load_model(tmp_path / "m.pt")
        assert back.hparams == made.hparams
        batch = build_batch(rocksalt[0], made.cutoff, made.dtype)
        before, after = predict(made, batch), predict(back, batch)
        assert torch.equal(before.energy, after.energy)
        assert torch.equal(before.forces, after.forces)


def test_batched_equals_one_by_one_and_ase(zoo: dict[str, Atoms]) -> None:
    made = model()
    single = [build_batch(zoo[n], made.cutoff, torch.float64) for n in STRUCTURES]
    together = predict(made, collate(single))
    parts = [predict(made, b) for b in single]
    torch.testing.assert_close(together.energy, torch.cat([p.energy for p in parts]))
    torch.testing.assert_close(together.forces, torch.cat([p.forces for p in parts]))
    torch.testing.assert_close(together.stress, torch.cat([p.stress for p in parts]))
    for name, part in zip(STRUCTURES, parts, strict=True):
        atoms = zoo[name]
        atoms.calc = ASECalculator(made)
        assert atoms.get_potential_energy() == pytest.approx(part.energy.item(), rel=1e-12)
        np.testing.assert_allclose(atoms.get_forces(), part.forces.numpy(), atol=1e-12)


def test_the_order_of_the_edges_and_a_longer_list_do_not_matter(zoo: dict[str, Atoms]) -> None:
    made = model()
    batch = build_batch(zoo["triclinic"], made.cutoff, torch.float64)
    longer = build_batch(zoo["triclinic"], made.cutoff + 1.3, torch.float64)
    shuffled = batch.with_edges(torch.randperm(batch.edge_index.shape[1], generator=torch.Generator().manual_seed(0)))
    plain = predict(made, batch)
    for other in (longer, shuffled):
        torch.testing.assert_close(predict(made, other).forces, plain.forces)
        torch.testing.assert_close(predict(made, other).stress, plain.stress)


def test_silu_has_the_right_first_and_second_derivatives() -> None:
    x = torch.linspace(-6, 6, 31, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ACTIVATIONS["silu"], (x,))
    assert torch.autograd.gradgradcheck(ACTIVATIONS["silu"], (x,))


def test_every_trainable_parameter_gets_a_gradient(rocksalt: list[Atoms]) -> None:
    made = model()
    out = predict(made, collate([build_batch(a, made.cutoff, torch.float64) for a in rocksalt[:2]]), create_graph=True)
    (out.energy.sum() + out.forces.square().sum()).backward()
    without = {name for name, p in made.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())}
    assert not without
    assert {n for n, p in made.named_parameters() if not p.requires_grad} == {"attention_layers.0.vec_proj.weight"}


def test_molecular_dynamics_in_both_engines() -> None:
    structures = []
    for k in range(3):
        atoms = bulk("MgO", "rocksalt", a=4.2, cubic=True)
        atoms.rattle(0.05, seed=k)
        atoms.info["structure_id"] = f"mgo-{k}"
        structures.append(atoms)
    made = model(num_layers=2)
    options = {"temperature": 600, "steps": 5, "seed": 1, "interval": 1}
    batched = simulate(made, structures, engine="batched", **options)
    by_ase = simulate(made, structures, engine="ase", **options)
    for a, b, atoms in zip(batched, by_ase, structures, strict=True):
        np.testing.assert_allclose(a.positions, b.positions, atol=1e-8)
        assert np.abs(a.positions[-1] - atoms.positions).max() > 1e-4


def test_training_learns_the_forces_of_springs() -> None:
    rng = np.random.default_rng(2)
    structures = []
    for k in range(8):
        atoms = bulk("MgO", "rocksalt", a=4.2, cubic=True)
        shift = rng.normal(scale=0.1, size=(8, 3))
        atoms.positions += shift
        energy = 2.5 * float((shift**2).sum()) - 40.0
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=-5.0 * shift, stress=np.zeros(6))
        atoms.info["structure_id"] = f"spring-{k}"
        structures.append(atoms)
    start = np.mean([np.abs(a.get_forces()).mean() for a in structures])
    trained = train(
        "torchmd_et",
        structures,
        epochs=20,
        batch_size=4,
        learning_rate=5e-3,
        weights=(0.01, 50.0, 0.0),
        model_args={**SIZES, "num_layers": 2},
        accelerator="cpu",
    )
    history = trained.metadata["history"]
    assert history[-1]["train_loss"] < 0.7 * history[0]["train_loss"]
    assert min(row["val_forces_mae"] for row in history) < 0.7 * start
