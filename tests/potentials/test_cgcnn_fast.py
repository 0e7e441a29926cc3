"""The machine code of CGCNN against the formula: values, gradients, gradients of gradients."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ase import Atoms
from scipy.interpolate import BSpline

from mdl_physpretrain.compiled.splines import spline_coefficients
from mdl_physpretrain.graphs.batch import AtomicBatch, build_batch, collate
from mdl_physpretrain.potentials import CGCNN, EnergyModel, predict
from mdl_physpretrain.potentials.cgcnn import forces as cgcnn_forces
from mdl_physpretrain.potentials.cgcnn.autograd import Neighbours, convolution
from mdl_physpretrain.potentials.cgcnn.layers import GaussianBasis

VARIANTS = {
    "default": {},
    "matdeeplearn": {"smooth_cutoff": False, "width": 0.2, "fixed_norm": False},
    "narrow, few neighbours": {"dim1": 17, "dim2": 9, "gc_count": 2, "max_neighbours": 20, "batch_norm": False},
}


def everything(model: CGCNN, batch: AtomicBatch) -> list[torch.Tensor]:
    out = predict(model, batch, create_graph=True)
    model.zero_grad()
    (0.1 * out.energy.sum() + 50 * out.forces.square().sum() + 50 * out.stress.square().sum()).backward()
    plain = predict(model, batch)
    torch.testing.assert_close(plain.forces, out.forces.detach(), atol=1e-6, rtol=1e-5)
    return [out.energy.detach(), out.forces.detach(), out.stress.detach()] + [p.grad for p in model.parameters()]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_fast_path_is_as_exact_as_the_formula(rocksalt: list[Atoms], variant: str) -> None:
    torch.manual_seed(0)
    model = CGCNN(**{"cutoff": 6.0, "dim1": 40, "dim2": 30, **VARIANTS[variant]})
    batches = {t: collate([build_batch(a, 6.0, t) for a in rocksalt[:3]]) for t in (torch.float32, torch.float64)}
    model.initialise(batches[torch.float32], torch.Generator().manual_seed(0))
    model.eval()
    found = everything(model, batches[torch.float32])
    model.fast = False
    plain = everything(model, batches[torch.float32])
    exact = everything(model.double(), batches[torch.float64])
    assert exact[1].abs().max() > 1e-4
    for fast, slow, value in zip(found, plain, exact, strict=True):
        scale = value.abs().max()
        rounding = (slow - value).abs().max()
        assert (fast - value).abs().max() < 5 * rounding + 5e-6 * scale


def reference(x, w1, b1, w2, b2, u, w, rows, i, j):
    """The layer that :mod:`cgcnn_fast` states, with torch and scipy's splines."""
    d = x.shape[1]
    k = u.detach().floor().long()
    t = u - k
    features = 0
    for m in range(6):  # a piece of the B-spline as a polynomial
        piece = BSpline.basis_element(np.arange(7.0))
        nodes = np.linspace(0.1, 0.9, 6)
        powers = np.polynomial.polynomial.polyfit(nodes, piece(nodes + 5 - m), 5)
        value = sum(float(p) * t**n for n, p in enumerate(powers))
        features = features + value[:, None] * rows[k + m]
    z = torch.cat([x[i], x[j], features], dim=1)
    message = torch.sigmoid(F.linear(z, w1, b1)) * F.softplus(F.linear(z, w2, b2)) * w[:, None]
    assert z.shape[1] == 2 * d + rows.shape[1]
    return x + torch.zeros_like(x).index_add(0, i, message)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("d", [16, 19])
def test_all_derivatives_of_the_convolution(d: int) -> None:
    n, edges, f, grid = 5, 2100, 7, 12
    random = torch.Generator().manual_seed(2)
    i = torch.sort(torch.randint(0, n - 1, (edges,), generator=random)).values  # the last atom is alone
    j = torch.randint(0, n, (edges,), generator=random)
    rows = torch.randn(grid, f, generator=random)
    shapes = [(n, d), (d, 2 * d + f), (d,), (d, 2 * d + f), (d,)]
    arguments = [0.5 * torch.randn(s, generator=random) for s in shapes]
    arguments += [torch.rand(edges, generator=random) * (grid - 5), torch.rand(edges, generator=random)]
    weights = torch.randn(n, d, generator=random)
    directions = [torch.randn(x.shape, generator=random) for x in arguments]

    def derivatives(dtype: torch.dtype) -> list[torch.Tensor]:
        leaves = [x.to(dtype).requires_grad_(True) for x in arguments]
        g = weights.to(dtype).requires_grad_(True)
        if dtype == torch.float32:
            x, w1, b1, w2, b2, u, w = leaves
            graph = Neighbours.from_edges(torch.stack([i, j]), n)
            assert len(graph.bounds) - 1 == torch.get_num_threads()
            out = convolution(x, (w1, b1), (w2, b2), rows, u, w, graph)
        else:
            out = reference(*leaves, rows.to(dtype), i, j)
        first = torch.autograd.grad((out * g).sum(), leaves, create_graph=True)
        parts = [first[k] * directions[k].to(dtype) for k in (0, 5, 6)]  # not of the weights
        second = torch.autograd.grad(sum(p.sum() for p in parts), [*leaves, g])
        return [out.detach(), *(x.detach() for x in first), *second]

    for fast, exact in zip(derivatives(torch.float32), derivatives(torch.float64), strict=True):
        assert (fast - exact).abs().max() < 2e-5 * exact.abs().max()


def test_the_derivative_of_a_weights_gradient_is_refused_not_wrong() -> None:
    edges = Neighbours.from_edges(torch.tensor([[0, 1], [1, 0]]), 2)
    weight, bias = torch.randn(4, 11, requires_grad=True), torch.zeros(4)
    gate = (weight, bias)
    out = convolution(torch.randn(2, 4), gate, gate, torch.randn(8, 3), torch.rand(2), torch.ones(2), edges)
    (slope,) = torch.autograd.grad(out.sum(), weight, create_graph=True)
    with pytest.raises(NotImplementedError, match="fast=False"):
        slope.square().sum().backward()


def test_unsorted_edges_lone_atoms_and_nan(rocksalt: list[Atoms]) -> None:
    torch.manual_seed(1)
    model = CGCNN(cutoff=5.0, dim1=20, dim2=10, gc_count=2).eval()
    batch = build_batch(rocksalt[0], 5.0)
    order = torch.randperm(batch.edge_index.shape[1], generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        predict(model, batch.with_edges(order)).forces, predict(model, batch).forces, atol=1e-6, rtol=0
    )
    lone = build_batch(Atoms("O"), 5.0)
    energy = predict(model, lone).energy
    model.fast = False
    torch.testing.assert_close(energy, predict(model, lone).energy)
    model.fast = True
    batch.positions[0, 0] = torch.nan
    assert predict(model, batch).energy.isnan().all()


@pytest.mark.parametrize("width", [0.04, 0.2])
def test_the_table_of_gaussians_keeps_its_promise(width: float) -> None:
    basis = GaussianBasis(8.0, 50, width)
    sigma = 8.0 * width
    offset = basis.offset.double().numpy()

    def gaussians(r: np.ndarray) -> np.ndarray:
        return np.exp(basis.coefficient * (r[:, None] - offset) ** 2)

    rows = spline_coefficients(gaussians, basis.step, basis.intervals)
    assert len(rows) == basis.intervals + 5
    np.testing.assert_allclose(basis.table().numpy(), rows, atol=1e-6)
    r = np.linspace(0, 8.0, 4001)[:-1]
    spline = BSpline(basis.step * np.arange(-5, basis.intervals + 6), rows, 5)
    slope = -(r[:, None] - offset) / sigma**2 * gaussians(r)
    assert np.abs(spline(r) - gaussians(r)).max() < 5e-9
    assert np.abs(spline.derivative()(r) - slope).max() < 2e-7 * np.abs(slope).max()


def test_the_table_follows_the_centres_of_a_checkpoint() -> None:
    basis = GaussianBasis(8.0, 20, 0.1)
    before = basis.table()
    assert basis.table() is before
    with torch.no_grad():
        basis.offset.add_(0.3)
    assert not torch.allclose(basis.table(), before)


FROZEN = {
    "default": {},
    "no normalisation, early": {"batch_norm": False, "pool_order": "early", "smooth_cutoff": False, "width": 0.2},
    "one-hot features": {"pre_fc_count": 0, "gc_count": 1, "post_fc_count": 0},
}


def autograd(model: CGCNN, batch: AtomicBatch) -> tuple[torch.Tensor, torch.Tensor]:
    return EnergyModel.energy_and_gradient(model, batch, batch.edge_vectors())


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("variant", FROZEN)
def test_forces_without_autograd_are_those_of_autograd(rocksalt: list[Atoms], variant: str) -> None:
    torch.manual_seed(0)
    model = CGCNN(**{"cutoff": 6.0, "dim1": 40, "dim2": 30, **FROZEN[variant]})
    batch = collate([build_batch(a, 6.0) for a in [*rocksalt[:3], Atoms("O")]])
    model.initialise(batch, torch.Generator().manual_seed(0))
    model.eval()
    with torch.no_grad():
        for norm in model.bn_list:
            norm.weight.uniform_(0.5, 2)
            norm.bias.uniform_(-1, 1)
    found, reference = model.energy_and_gradient(batch, batch.edge_vectors()), autograd(model, batch)
    assert not any(t.requires_grad for t in found)
    assert reference[1].abs().max() > 1e-4
    for a, b in zip(found, reference, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=float(5e-6 * b.abs().max()))


def test_frozen_layers_follow_the_weights_however_they_change(rocksalt: list[Atoms]) -> None:
    torch.manual_seed(0)
    model = CGCNN(cutoff=6.0, dim1=20, dim2=10, gc_count=2).eval()
    batch = build_batch(rocksalt[0], 6.0)

    def check() -> torch.Tensor:
        found, gradient = model.energy_and_gradient(batch, batch.edge_vectors())
        torch.testing.assert_close(gradient, autograd(model, batch)[1], rtol=1e-3, atol=1e-7)
        return found

    before = check()
    kept = model._cached_layers.get(cgcnn_forces.sources(model), pytest.fail)  # nothing is computed twice
    assert kept is model._cached_layers.get(cgcnn_forces.sources(model), pytest.fail)
    conv = model.conv_list[0]
    conv.lin_f.weight.data.mul_(1.5)  # unseen by version counters
    changed = check()
    assert (changed - before).abs() > 1e-6
    state = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.inference_mode():
        conv.lin_s.bias.data.add_(1.0)
    assert (check() - changed).abs() > 1e-6
    model.load_state_dict(state)
    assert torch.equal(check(), changed)
    model.bn_list[1].running_mean.add_(0.5)
    assert (check() - changed).abs() > 1e-6
    twin = copy.deepcopy(model)
    assert twin._cached_layers._kept is None
    assert pickle.loads(pickle.dumps(model))._cached_layers._kept is None
    assert not any("cached" in name for name in model.state_dict())
