"""The machine code of CGCNN against the formula: values, gradients, gradients of gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ase import Atoms
from scipy.interpolate import BSpline

from mdl_physpretrain.batch import AtomicBatch, build_batch, collate
from mdl_physpretrain.models import CGCNN, predict
from mdl_physpretrain.models.cgcnn import GaussianBasis
from mdl_physpretrain.models.cgcnn_fast import Neighbours, convolve
from mdl_physpretrain.models.radial_spline import spline_coefficients

VARIANTS = {
    "default": {},
    "matdeeplearn": {"smooth_cutoff": False, "width": 0.2, "fixed_norm": False},
    "narrow, few neighbours": {"dim1": 17, "dim2": 9, "gc_count": 2, "max_neighbours": 20, "batch_norm": False},
}


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


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


def reference(a, b, table, u, w, i, j):
    """The sum that :mod:`cgcnn_kernel` states, with torch and scipy's splines."""
    k = u.detach().floor().long()
    t = u - k
    z = a[i] + b[j]
    for m in range(6):  # a piece of the B-spline as a polynomial
        piece = BSpline.basis_element(np.arange(7.0))
        nodes = np.linspace(0.1, 0.9, 6)
        powers = np.polynomial.polynomial.polyfit(nodes, piece(nodes + 5 - m), 5)
        value = sum(float(p) * t**n for n, p in enumerate(powers))
        z = z + value[:, None, None] * table[k + m]
    message = torch.sigmoid(z[:, 0]) * F.softplus(z[:, 1]) * w[:, None]
    return torch.zeros(len(a), a.shape[2], dtype=a.dtype).index_add(0, i, message)


@pytest.mark.usefixtures("threads")
def test_all_derivatives_of_the_convolution() -> None:
    n, edges, channels, rows = 5, 2100, 16, 12
    random = torch.Generator().manual_seed(2)
    i = torch.sort(torch.randint(0, n - 1, (edges,), generator=random)).values  # the last atom is alone
    j = torch.randint(0, n, (edges,), generator=random)
    shapes = [(n, 2, channels), (n, 2, channels), (rows, 2, channels)]
    arguments = [2 * torch.randn(s, generator=random) for s in shapes]
    arguments += [torch.rand(edges, generator=random) * (rows - 5), torch.rand(edges, generator=random)]
    weights = torch.randn(n, channels, generator=random)
    directions = [torch.randn(x.shape, generator=random) for x in arguments]

    def derivatives(dtype: torch.dtype) -> list[torch.Tensor]:
        leaves = [x.to(dtype).requires_grad_(True) for x in arguments]
        g = weights.to(dtype).requires_grad_(True)
        if dtype == torch.float32:
            out = convolve(*leaves, Neighbours.from_edges(torch.stack([i, j]), n))
        else:
            out = reference(*leaves, i, j)
        first = torch.autograd.grad((out * g).sum(), leaves, create_graph=True)
        parts = [first[k] * directions[k].to(dtype) for k in (0, 1, 3, 4)]  # not of the table
        second = torch.autograd.grad(sum(p.sum() for p in parts), [*leaves, g])
        return [out.detach(), *(x.detach() for x in first), *second]

    for fast, exact in zip(derivatives(torch.float32), derivatives(torch.float64), strict=True):
        assert (fast - exact).abs().max() < 2e-5 * exact.abs().max()


def test_the_derivative_of_a_weights_gradient_is_refused_not_wrong() -> None:
    edges = Neighbours.from_edges(torch.tensor([[0, 1], [1, 0]]), 2)
    a, table = torch.randn(2, 2, 16), torch.randn(8, 2, 16, requires_grad=True)
    out = convolve(a, a, table, torch.rand(2), torch.ones(2), edges)
    (slope,) = torch.autograd.grad(out.sum(), table, create_graph=True)
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
