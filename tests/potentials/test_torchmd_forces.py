"""Energies and forces of the equivariant transformer without autograd, and the tables they remember."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms
from test_torchmd_fast import network

from mdl_physpretrain.graphs.batch import AtomicBatch, build_batch, collate
from mdl_physpretrain.potentials import TorchMDET, predict
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.torchmd_et import autograd as torchmd_fast
from mdl_physpretrain.potentials.torchmd_et import forces as torchmd_forces
from mdl_physpretrain.potentials.torchmd_et.geometry_kernel import halve, radial_weights


def by_autograd(model: TorchMDET, batch: AtomicBatch) -> tuple[torch.Tensor, torch.Tensor]:
    return EnergyModel.energy_and_gradient(model, batch, batch.edge_vectors())


def check(model: TorchMDET, batch: AtomicBatch) -> torch.Tensor:
    """Energies, after a comparison with what autograd makes of the weights as they are now."""
    energy, gradient = model.energy_and_gradient(batch, batch.edge_vectors())
    exact, slope = by_autograd(model, batch)
    assert not energy.requires_grad
    torch.testing.assert_close(energy, exact, rtol=1e-5, atol=1e-5)
    assert (gradient - slope).abs().max() <= 1e-5 * slope.abs().max()
    return energy


@pytest.mark.parametrize(
    "options",
    [
        {}, {"smooth_cutoff": False, "own_images": False}, {"num_layers": 1}, {"num_layers": 2, "pool": "mean"},
        {"neighbor_embedding": False, "trainable_rbf": False, "pool_order": "early"},
    ],
)  # fmt: skip
def test_the_gradient_of_every_edge_is_autograds(
    rocksalt: list[Atoms], zoo: dict[str, Atoms], options: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network(**options)
    batch = collate([build_batch(a, 5.0) for a in (rocksalt[0], zoo["tiny"], Atoms("O"), zoo["molecule"])])
    check(model, batch)
    order = torch.randperm(batch.edge_index.shape[1], generator=torch.Generator().manual_seed(0))
    check(model, batch.with_edges(order))
    monkeypatch.setattr(TorchMDET, "energies", None)  # so it was not autograd that was compared with itself
    model.energy_and_gradient(batch, batch.edge_vectors())


def optimise(**options: bool) -> Callable[[TorchMDET], object]:
    def change(model: TorchMDET) -> None:
        weights = [p for p in model.parameters() if p.requires_grad]
        for p in weights:
            p.grad = torch.ones_like(p)
        torch.optim.AdamW(weights, lr=0.01, **options).step()

    return change


def in_inference_mode(model: TorchMDET) -> None:
    with torch.inference_mode():
        model.attention_layers[0].dk_proj.weight.mul_(1.5)


CHANGES: dict[str, Callable[[TorchMDET], object]] = {
    "optimiser": optimise(),
    "foreach": optimise(foreach=True),
    "fused": optimise(fused=True),
    ".data": lambda model: model.attention_layers[1].dv_proj.weight.data.mul_(1.5),
    "numpy": lambda model: np.copyto(model.attention_layers[2].dv_proj.bias.detach().numpy(), np.float32(0.3)),
    "inference mode": in_inference_mode,
    "widths": lambda model: model.distance_expansion.betas.data.mul_(3.0),  # another grid, too
    "centres": lambda model: model.distance_expansion.means.data.add_(0.01),
    "neighbours": lambda model: model.neighbor_embedding.distance_proj.weight.data.mul_(1.5),
    "another tensor": lambda model: setattr(
        model.attention_layers[0].dk_proj, "weight", torch.nn.Parameter(1.5 * model.attention_layers[0].dk_proj.weight)
    ),
    "load_state_dict": lambda model: model.load_state_dict({k: 1.1 * v for k, v in model.state_dict().items()}),
    "half": lambda model: model.half().float(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_tables_follow_the_weights_however_they_change(rocksalt: list[Atoms], change: str) -> None:
    model, batch = network(), build_batch(rocksalt[0], 5.0)
    before = check(model, batch)
    kept = model._tables.get(torchmd_forces.sources(model), pytest.fail)  # nothing is computed twice
    assert kept is not None
    state = {k: v.clone() for k, v in model.state_dict().items()}
    CHANGES[change](model)
    assert not torch.equal(check(model, batch), before)
    model.load_state_dict(state)
    assert torch.equal(check(model, batch), before)


def test_copies_and_files_carry_no_tables(rocksalt: list[Atoms]) -> None:
    model, batch = network(), build_batch(rocksalt[0], 5.0)
    names, empty = set(model.state_dict()), len(pickle.dumps(network()))
    energy = check(model, batch)
    assert set(model.state_dict()) == names
    assert len(pickle.dumps(model)) < 1.01 * empty
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin._tables._kept is None
        assert torch.equal(check(twin, batch), energy)
        twin.attention_layers[0].dk_proj.weight.data.mul_(1.5)
        assert not torch.equal(check(twin, batch), energy)
    assert torch.equal(check(model, batch), energy)


def test_training_after_evaluation_and_the_other_way_round(rocksalt: list[Atoms]) -> None:
    model, batch = network(), build_batch(rocksalt[0], 5.0)
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    energies = [check(model, batch)]
    for _ in range(2):
        out = predict(model, batch, create_graph=True)
        (out.energy.sum() + out.forces.square().sum()).backward()
        optimiser.step()
        optimiser.zero_grad()
        energies.append(check(model, batch))
    assert len({float(e) for e in energies}) == 3


def test_widths_that_no_grid_resolves_take_the_formula(rocksalt: list[Atoms]) -> None:
    model, batch = network(), build_batch(rocksalt[0], 5.0)
    check(model, batch)
    model.distance_expansion.betas.data[0] = 1e9
    check(model, batch)


def test_repeated_evaluations_are_equal_bit_for_bit(zoo: dict[str, Atoms], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchmd_fast, "PAIRS_PER_THREAD", 20)
    model, batch = network(), build_batch(zoo["tiny"], 5.0)  # images of one pair fall to two threads
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        first, *others = (model.energy_and_gradient(batch, batch.edge_vectors()) for _ in range(4))
    finally:
        torch.set_num_threads(before)
    for other in others:
        assert torch.equal(first[0], other[0])
        assert torch.equal(first[1], other[1])


def test_half_a_list_has_every_pair_once_and_in_order() -> None:
    atoms = Atoms("LiO", positions=[[0, 0, 0], [1.4, 0.2, 0.1]], cell=[3, 3, 3], pbc=True)
    batch = build_batch(atoms, 5.0)
    i, j = batch.edge_index.numpy()
    vectors = batch.edge_vectors().numpy()
    shuffled = np.random.default_rng(0).permutation(len(i))
    kept = shuffled[halve(i[shuffled], j[shuffled], vectors[shuffled], 2)]
    assert len(kept) == len(i) / 2
    pairs = list(zip(i[kept], j[kept], strict=True))
    assert pairs == sorted(pairs)
    assert set(pairs) == {(0, 0), (0, 1), (1, 1)}
    both = np.concatenate([vectors[kept], -vectors[kept]])
    rows = np.concatenate([i[kept] * 2 + j[kept], j[kept] * 2 + i[kept]])
    found = sorted(zip(rows, both.round(4).tolist(), strict=True))
    assert found == sorted(zip(i * 2 + j, vectors.round(4).tolist(), strict=True))


def test_weights_of_distances_are_the_derivatives_of_each_other() -> None:
    r, step = np.array([0.7, 2.2, 4.9]), 1e-5
    row, near = np.empty(3, np.int64), np.empty(3, np.int64)
    spline, envelope = np.empty((3, 3, 6)), np.empty((3, 3, 2))
    low, high = (np.empty((3, 3, 6)), np.empty((3, 3, 2))), (np.empty((3, 3, 6)), np.empty((3, 3, 2)))
    radial_weights(r, 5.0, 1.0, 30, True, row, spline, envelope)
    for shift, target in ((-step, low), (step, high)):
        radial_weights(r + shift, 5.0, 1.0, 30, True, near, *target)
        assert (near == row).all()
    for of, below, above in zip((spline, envelope), low, high, strict=True):
        difference = (above[:2] - below[:2]) / (2 * step)
        np.testing.assert_allclose(of[1:], difference, atol=1e-6 * np.abs(difference).max())
    np.testing.assert_allclose(spline[0].sum(1), envelope[0, :, 0])  # B-splines add up to one
