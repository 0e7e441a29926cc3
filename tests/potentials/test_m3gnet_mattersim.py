"""M3GNet gives MatterSim's numbers, and reads and writes its checkpoints."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from m3gnet_networks import crystals, responsive, values

from mdl_physpretrain.errors import CheckpointError
from mdl_physpretrain.graphs.batch import AtomicBatch, build_batch
from mdl_physpretrain.potentials import M3GNet, predict
from mdl_physpretrain.potentials.m3gnet.angles import harmonics, radial_functions, smooth_cutoff, three_body_sums


@pytest.fixture(autouse=True)
def _mattersim():
    pytest.importorskip("mattersim", reason="mattersim is not installed")


@pytest.mark.parametrize("options", [{}, {"max_l": 2, "max_n": 4}, {"max_l": 1, "max_n": 1, "num_blocks": 1}])
def test_energy_forces_and_stress_are_those_of_mattersim(options: dict) -> None:
    from mattersim.forcefield.potential import MatterSimCalculator, Potential

    model = responsive(torch.float32, gain=1.0, **options)
    with torch.no_grad():
        model.reference_energies.zero_()
    theirs = MatterSimCalculator(Potential(model.network, device="cpu"), device="cpu")
    forces_seen = 0.0
    for name, atoms in crystals().items():
        ours = predict(model, build_batch(atoms, model.cutoff))
        host = atoms.copy()
        host.calc = theirs
        # float32 against float32, at 1.75 Å with larger terms that cancel: three times the tolerance
        scale = max(1.0, np.abs(host.get_forces()).max()) * (3 if name == "compressed" else 1)
        assert ours.energy.item() == pytest.approx(host.get_potential_energy(), rel=1e-6, abs=1e-5), name
        np.testing.assert_allclose(ours.forces.numpy(), host.get_forces(), atol=1e-5 * scale, err_msg=name)
        np.testing.assert_allclose(
            ours.stress[0].numpy(), host.get_stress(voigt=False), atol=1e-5 * scale, err_msg=name
        )
        forces_seen = max(forces_seen, np.abs(host.get_forces()).max())
    assert forces_seen > 0.1


def test_energy_and_gradient_are_those_of_mattersims_layers_in_double_precision() -> None:
    model = responsive()
    for name in ("rocksalt", "diamond", "skewed", "compressed"):
        batch = build_batch(crystals()[name], model.cutoff, torch.float64)
        vectors = batch.edge_vectors().requires_grad_(True)
        expected = layer_by_layer(model, batch, vectors)
        (expected_gradient,) = torch.autograd.grad(expected, vectors)
        energy, gradient = model.energy_and_gradient(batch, vectors)
        assert energy.item() == pytest.approx(expected.item(), rel=1e-10, abs=1e-9), name
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-8, atol=1e-9)
        assert gradient.abs().max() > 1e-3


def layer_by_layer(model: M3GNet, batch: AtomicBatch, vectors: torch.Tensor) -> torch.Tensor:
    """MatterSim's forward in float64, where its own insists on float32, with its list of triplets."""
    net = model.network
    r = vectors.norm(dim=1)
    indices, n_triple_ij = triplets(batch, model.threebody_cutoff)
    ij, ik = indices.T
    cosine = torch.cosine_similarity(vectors[ij], vectors[ik]).clamp(-1 + 1e-14, 1 - 1e-14)  # acos has no slope at 1
    basis = net.rbf(r)
    x = net.atom_embedding(torch.nn.functional.one_hot(batch.numbers, net.max_z + 1).double())
    e = net.edge_encoder(basis)
    three_basis = net.sbf(r[ik], torch.acos(cosine))
    counts = (torch.tensor([len(r)]), n_triple_ij, batch.n_atoms)
    for block in net.graph_conv:
        x, e = block(x, e, basis, batch.edge_index, three_basis, indices, r.unsqueeze(1), *counts)
    atomic = net.normalizer(net.final(x).view(-1), batch.numbers) + model.reference_energies[batch.numbers]
    return atomic.sum()


def triplets(batch: AtomicBatch, threebody_cutoff: float) -> tuple[torch.Tensor, torch.Tensor]:
    from mattersim.datasets.utils.convertor import compute_threebody_indices

    indices, n_triple_ij, _, _ = compute_threebody_indices(
        batch.edge_index.T.numpy(),
        batch.edge_vectors().norm(dim=1).numpy(),
        len(batch.numbers),
        batch.numbers.numpy(),
        threebody_cutoff,
    )
    return torch.as_tensor(indices).long(), torch.as_tensor(n_triple_ij).long()


@pytest.mark.parametrize(("max_l", "max_n"), [(4, 4), (3, 2), (1, 4)])
def test_sums_over_moments_are_sums_over_mattersims_triplets(max_l: int, max_n: int) -> None:
    model = responsive(max_l=max_l, max_n=max_n)
    sbf = model.network.sbf
    for name in ("rocksalt", "skewed", "compressed"):
        batch = build_batch(crystals()[name], model.cutoff, torch.float64)
        vectors = batch.edge_vectors()
        r = vectors.norm(dim=1)
        ij, ik = triplets(batch, model.threebody_cutoff)[0].T
        cosine = torch.cosine_similarity(vectors[ij], vectors[ik])
        weight = smooth_cutoff(r, model.threebody_cutoff)
        each = sbf(r[ik], torch.acos(cosine)) * (weight[ij] * weight[ik]).unsqueeze(1)
        expected = each.new_zeros(len(r), max_l * max_n).index_add(0, ij, each)
        inner = r < model.threebody_cutoff
        radial = radial_functions(r[inner], sbf.coef, sbf.factor, model.cutoff, max_n, max_l)
        unit = (vectors / r.unsqueeze(1))[inner]
        centre = batch.edge_index[0, inner]
        found = three_body_sums(centre, unit, radial, weight[inner], len(batch.numbers), max_n, max_l)
        torch.testing.assert_close(found, expected[inner], rtol=1e-9, atol=1e-11)
        assert expected.abs().max() > 1e-3


def test_harmonics_sum_to_legendre_polynomials() -> None:
    torch.manual_seed(0)
    u, v = torch.nn.functional.normalize(torch.randn(2, 50, 3, dtype=torch.float64), dim=2)
    cosine = (u * v).sum(1)
    for degree, (a, b) in enumerate(zip(harmonics(u, 4), harmonics(v, 4), strict=True)):
        expected = torch.special.legendre_polynomial_p(cosine, degree)
        torch.testing.assert_close((a * b).sum(1), expected, rtol=1e-12, atol=1e-12)


def test_the_default_network_is_that_of_mattersim_1m() -> None:
    assert sum(p.numel() for p in M3GNet().parameters()) == 890_034


def test_mattersims_checkpoint_gives_the_same_numbers(tmp_path: Path) -> None:
    from mattersim.forcefield.potential import MatterSimCalculator, Potential

    model = responsive(torch.float32)
    with torch.no_grad():
        model.reference_energies.zero_()
    Potential(model.network, device="cpu").save(str(tmp_path / "theirs.pth"))
    ours = M3GNet.from_mattersim(tmp_path / "theirs.pth")
    assert ours.hparams == model.hparams
    atoms = crystals()["skewed"]
    host = atoms.copy()
    host.calc = MatterSimCalculator.from_checkpoint(str(tmp_path / "theirs.pth"), device="cpu")
    assert values(ours, atoms)[0] == pytest.approx(host.get_potential_energy(), rel=1e-6)
    np.testing.assert_allclose(values(ours, atoms)[1], host.get_forces(), atol=1e-5)


def test_mattersim_loads_what_we_write(tmp_path: Path) -> None:
    from mattersim.forcefield.potential import MatterSimCalculator, Potential

    model = responsive(torch.float32)
    path = model.to_mattersim(tmp_path / "new" / "ours.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        potential = Potential.from_checkpoint(str(path), device="cpu")
    atoms = crystals()["skewed"]
    host = atoms.copy()
    host.calc = MatterSimCalculator(potential, device="cpu")
    energy, forces = values(model, atoms)
    assert host.get_potential_energy() == pytest.approx(energy, rel=1e-6)
    np.testing.assert_allclose(host.get_forces(), forces, atol=1e-5)
    back = M3GNet.from_mattersim(path)
    assert values(back, atoms)[0] == pytest.approx(energy, rel=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("model_args"), "not a checkpoint of MatterSim"),
        (lambda c: c.update(model_name="graphormer"), "graphormer"),
        (lambda c: c["model"].pop("final.g.0.linear.bias"), r"lacks final\.g\.0\.linear\.bias"),
        (lambda c: c["model"].update(extra=torch.zeros(1)), "unknown extra"),
        (lambda c: c["model_args"].update(units=16), "other shapes of"),
        (lambda c: c["model_args"].update(max_l=9), "max_l"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path: Path, change, message: str) -> None:
    path = responsive(torch.float32).to_mattersim(tmp_path / "m.pth")
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=message):
        M3GNet.from_mattersim(path)


def test_a_checkpoint_that_wants_to_run_code_is_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    torch.save({"model_name": "m3gnet", "model": Trap(), "model_args": {}}, tmp_path / "trap.pth")
    with pytest.raises(CheckpointError, match=r"posix\.mkdir"):
        M3GNet.from_mattersim(tmp_path / "trap.pth")
    assert not (tmp_path / "executed").exists()
