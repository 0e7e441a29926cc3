"""The split convolution equals the naive formulation; initialisation; state dict."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from ase import Atoms

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.graphs.batch import build_batch, collate
from mdl_physpretrain.potentials import CGCNN, predict


def naive_energies(model: CGCNN, batch, vectors):
    """CGConv as PyG states it: one linear layer on the concatenation, mean aggregation."""
    r = vectors.norm(dim=1)
    i, j = batch.edge_index
    e = torch.exp(model.distance_expansion.coefficient * (r[:, None] - model.distance_expansion.offset) ** 2)
    x = F.one_hot(batch.numbers - 1, 100).to(r.dtype)
    for layer in model.pre_lin_list:
        x = F.silu(layer(x))
    for k, conv in enumerate(model.conv_list):
        z = torch.cat([x[i], x[j], e], dim=1)
        message = torch.sigmoid(conv.lin_f(z)) * F.softplus(conv.lin_s(z))
        total = torch.zeros_like(x).index_add(0, i, message)
        count = torch.zeros(len(x), dtype=r.dtype).index_add(0, i, torch.ones_like(r))
        x = x + total / count.clamp_min(1)[:, None]
        if model.batch_norm:
            x = model.bn_list[k](x)
    for layer in model.post_lin_list:
        x = F.silu(layer(x))
    atomic = model.lin_out(x).squeeze(1)
    return torch.zeros(len(batch), dtype=r.dtype).index_add(0, batch.structure, atomic)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_split_equals_naive(rocksalt: list[Atoms], batch_norm: bool, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    model = CGCNN(smooth_cutoff=False, batch_norm=batch_norm).to(dtype).eval()  # Appendix C: r_c 8, 4 x 100, 3 x 150
    batch = collate([build_batch(a, 8.0, dtype) for a in rocksalt[:2]])
    vectors = batch.edge_vectors().requires_grad_(True)
    energy = naive_energies(model, batch, vectors)
    (gradient,) = torch.autograd.grad(energy.sum(), vectors)
    i, j = batch.edge_index
    forces = torch.zeros_like(batch.positions).index_add(0, i, gradient).index_add(0, j, -gradient)
    ours = predict(model, batch)
    torch.testing.assert_close(ours.energy, energy.detach().double(), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(ours.forces, forces, rtol=0, atol=tolerance)
    assert forces.abs().max() > 1e-4


def test_initialise_makes_elements_and_distances_matter(rocksalt: list[Atoms]) -> None:
    torch.manual_seed(1)
    plain = CGCNN(cutoff=5.0, dim1=32, dim2=32, gc_count=2, batch_norm=True)
    scaled = CGCNN(cutoff=5.0, dim1=32, dim2=32, gc_count=2, batch_norm=True)
    batch = collate([build_batch(a, 5.0) for a in rocksalt])
    scaled.initialise(batch, torch.Generator().manual_seed(0))
    weak = predict(plain.eval(), batch).forces.abs().mean()
    strong = predict(scaled, batch).forces.abs().mean()
    assert strong > 5 * weak
    # the measured normalisation is what the last convolution's output has: zero mean, unit variance
    scaled.train()
    assert not scaled.bn_list[0].training
    before = scaled.bn_list[0].running_mean.clone()
    predict(scaled, batch, create_graph=True)
    assert torch.equal(before, scaled.bn_list[0].running_mean)


def test_reference_energies_are_optional_in_a_state_dict() -> None:
    model = CGCNN(cutoff=5.0, dim1=8, dim2=8, gc_count=1)
    model.reference_energies[8] = -3.0
    foreign = {k: v for k, v in model.state_dict().items() if k != "reference_energies"}
    fresh = CGCNN(cutoff=5.0, dim1=8, dim2=8, gc_count=1)
    fresh.load_state_dict(foreign)
    assert fresh.reference_energies.abs().sum() == 0


def test_options_out_of_range() -> None:
    for wrong in ({"cutoff": -1.0}, {"pool_order": "middle"}, {"gc_count": 0}, {"act": "nope"}, {"switch_width": 9.0}):
        with pytest.raises(ConfigError):
            CGCNN(**wrong)


def test_a_fixed_normalisation_is_fixed_from_the_start(rocksalt: list[Atoms]) -> None:
    model = CGCNN(cutoff=5.0, dim1=20, dim2=10, gc_count=2)
    before = model.bn_list[0].running_mean.clone()
    predict(model, build_batch(rocksalt[0], 5.0))
    assert torch.equal(model.bn_list[0].running_mean, before)
    assert CGCNN(fixed_norm=False).bn_list[0].training
