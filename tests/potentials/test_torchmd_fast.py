"""The machine code of the equivariant transformer against the formula: values, gradients, gradients of gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ase import Atoms
from scipy.interpolate import BSpline

from mdl_physpretrain.graphs.batch import AtomicBatch, build_batch, collate
from mdl_physpretrain.potentials import TorchMDET, predict
from mdl_physpretrain.potentials.torchmd_et import autograd as torchmd_fast
from mdl_physpretrain.potentials.torchmd_et import forces as torchmd_forces
from mdl_physpretrain.potentials.torchmd_et.autograd import FastPairs, Grid, gaussian_rows, intervals_for, messages
from mdl_physpretrain.potentials.torchmd_et.geometry_kernel import b_splines

SIZES = {
    "cutoff": 5.0,
    "hidden_channels": 32,
    "num_layers": 3,
    "num_rbf": 12,
    "num_heads": 2,
    "post_hidden_channels": 8,
}
VARIANTS = {
    "default": {},
    "matdeeplearn": {"smooth_cutoff": False, "own_images": False},
    "one layer, early": {"num_layers": 1, "pool_order": "early", "trainable_rbf": False, "neighbor_embedding": False},
}


def network(**options: object) -> TorchMDET:
    """With every weight, biases too, away from its special initial value."""
    torch.manual_seed(4)
    made = TorchMDET(**{**SIZES, **options}).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if not name.startswith("distance_expansion"):
                parameter.add_(0.1 * torch.randn_like(parameter) * (0.5 + parameter.abs().mean()))
    return made


def everything(model: TorchMDET, batch: AtomicBatch) -> dict[str, torch.Tensor]:
    out = predict(model, batch, create_graph=True)
    model.zero_grad()
    (0.1 * out.energy.sum() + 50 * out.forces.square().sum() + 50 * out.stress.square().sum()).backward()
    plain = predict(model, batch)
    torch.testing.assert_close(plain.forces, out.forces.detach(), atol=1e-6, rtol=1e-5)
    found = {"energy": out.energy.detach(), "forces": out.forces.detach(), "stress": out.stress.detach()}
    return found | {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_fast_path_is_as_exact_as_the_formula(
    rocksalt: list[Atoms], zoo: dict[str, Atoms], variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchmd_fast, "PAIRS_PER_THREAD", 100)
    model = network(**VARIANTS[variant])
    structures = [*rocksalt[:2], zoo["triclinic"], Atoms("O"), zoo["tiny"], zoo["molecule"]]
    batch = collate([build_batch(a, 5.0) for a in structures])
    exact = TorchMDET(**{**SIZES, **VARIANTS[variant]}).double().eval()
    exact.load_state_dict(model.state_dict())
    double = collate([build_batch(a, 5.0, torch.float64) for a in structures])
    reference = everything(exact, double)
    fast = everything(model, batch)
    assert fast.keys() == reference.keys()
    assert reference["forces"].abs().max() > 1e-3
    for name, value in reference.items():
        assert (fast[name] - value).abs().max() <= 2e-5 * value.abs().max() + 1e-9, name
    used: list[int] = []
    for module, name in ((torchmd_fast, "attention"), (torchmd_forces, "_forward")):
        monkeypatch.setattr(module, name, lambda *args, **options: used.append(1))
    for create_graph in (True, False):
        with pytest.raises(TypeError):
            predict(model, batch, create_graph=create_graph)
    assert len(used) == 2  # so it was machine code that was compared
    model.fast = False
    plain = predict(model, batch)
    assert (plain.forces - reference["forces"]).abs().max() <= 2e-5 * reference["forces"].abs().max()


def reference_messages(leaves: list[torch.Tensor], i: torch.Tensor, j: torch.Tensor, grid: int) -> torch.Tensor:
    """The kernel's formula in dense PyTorch, with the splines evaluated by differentiable polynomials."""
    x, table, bias, r, n = leaves
    parts, heads = len(bias), x.shape[2] // 16
    phi = 0.5 * (torch.cos(r * torch.pi / 5.0) + 1)
    u = torch.exp(-r) * grid
    k = u.detach().long().clamp(0, grid - 1)
    t = u - k
    lower = [torch.ones_like(t)]
    for degree in range(1, 6):
        padded = [torch.zeros_like(t), *lower, torch.zeros_like(t)]
        lower = [((t + degree - m) * padded[m] + (1 - t + m) * padded[m + 1]) / degree for m in range(degree + 1)]
    y = sum(w[:, None] * table.transpose(0, 1)[:, k + m] for m, w in enumerate(lower))
    f = F.silu(phi[:, None] * y + bias[:, None])
    out = torch.zeros(len(x), 1 if parts == 2 else 4, x.shape[2], dtype=x.dtype)
    for here, there, sign in ((i, j, 1), (j, i, -1)):
        score = (x[here, 0] * x[there, 1] * f[0]).view(len(r), heads, 16).sum(-1)
        weight = (F.silu(score) * phi[:, None]).repeat_interleave(16, dim=1)
        parts_of = [(weight * f[1] * x[there, 2]).unsqueeze(1)]
        if parts > 2:
            vector = sign * n[:, :, None] * (f[2] * x[there, 3]).unsqueeze(1)
            if parts > 3:
                vector = vector + f[3].unsqueeze(1) * x[there, 4:]
            parts_of.append(vector)
        out = out.index_add(0, here, torch.cat(parts_of, dim=1))
    return out


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("parts", [2, 3, 4])
def test_all_derivatives_of_the_messages(parts: int) -> None:
    n, edges, channels, grid = 5, 1100, 32, 7
    random = torch.Generator().manual_seed(2)
    i = torch.sort(torch.randint(0, n - 1, (edges,), generator=random)).values  # the last atom is alone
    j = torch.randint(0, n - 1, (edges,), generator=random)  # own images among them
    shapes = [(n, {2: 3, 3: 4, 4: 7}[parts], channels), (grid + 5, parts, channels), (parts, channels)]
    arguments = [torch.randn(s, generator=random) for s in shapes]
    arguments += [4.9 * torch.rand(edges, generator=random), torch.randn(edges, 3, generator=random)]
    weights = torch.randn(n, 1 if parts == 2 else 4, channels, generator=random)
    directions = [torch.randn(x.shape, generator=random) for x in arguments]

    def derivatives(dtype: torch.dtype) -> list[torch.Tensor]:
        leaves = [x.to(dtype).requires_grad_(True) for x in arguments]
        g = weights.to(dtype).requires_grad_(True)
        if dtype == torch.float32:
            pairs = FastPairs.make(i, j, *leaves[3:], Grid(5.0, 1.0, grid, False))
            out = messages(*leaves[:3], pairs)
        else:
            out = reference_messages(leaves, i, j, grid)
        first = torch.autograd.grad((out * g).sum(), leaves, create_graph=True, materialize_grads=True)
        along = [first[k] * directions[k].to(dtype) for k in ((0, 3) if parts == 2 else (0, 3, 4))]  # not of weights
        second = torch.autograd.grad(sum(p.sum() for p in along), [*leaves, g], materialize_grads=True)
        return [out.detach(), *(x.detach() for x in first), *second]

    for fast, exact in zip(derivatives(torch.float32), derivatives(torch.float64), strict=True):
        assert (fast - exact).abs().max() <= 2e-5 * exact.abs().max()


def test_the_derivative_of_a_weights_gradient_is_refused_not_wrong() -> None:
    one = torch.tensor([0]), torch.tensor([1])
    pairs = FastPairs.make(*one, torch.ones(1), torch.ones(1, 3), Grid(5.0, 1.0, 9, True))
    table = torch.randn(14, 2, 16, requires_grad=True)
    out = messages(torch.randn(2, 3, 16), table, torch.randn(2, 16), pairs)
    (slope,) = torch.autograd.grad(out.sum(), table, create_graph=True)
    with pytest.raises(NotImplementedError, match="fast=False"):
        slope.square().sum().backward()


@pytest.mark.parametrize(
    "options",
    [
        {"activation": "ssp"}, {"attn_activation": "tanh"}, {"num_heads": 4}, {"distance_influence": "keys"},
        {"rbf_type": "gauss"},
    ],
)  # fmt: skip
def test_other_networks_take_the_formula(rocksalt: list[Atoms], options: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchmd_fast, "attention", None)
    batch = build_batch(rocksalt[0], 5.0)
    assert predict(network(**options), batch).forces.isfinite().all()
    model = network()
    for beta in (1e9, -1.0):  # no grid is fine enough; no Gaussian
        with torch.no_grad():
            model.distance_expansion.betas[0] = beta
        assert predict(model, batch).forces.isfinite().all()


def test_training_after_inference_mode(rocksalt: list[Atoms]) -> None:
    torchmd_fast._solver.cache_clear()
    model, batch = network(), build_batch(rocksalt[0], 5.0)
    with torch.inference_mode():
        assert model(batch).isfinite().all()
    assert torch.stack([g.abs().max() for g in everything(model, batch).values()]).isfinite().all()


def test_unsorted_edges_lone_atoms_and_nan(rocksalt: list[Atoms]) -> None:
    model = network()
    batch = build_batch(rocksalt[0], 5.0)
    order = torch.randperm(batch.edge_index.shape[1], generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        predict(model, batch.with_edges(order)).forces, predict(model, batch).forces, atol=1e-5, rtol=1e-5
    )
    assert predict(model, build_batch(Atoms("O"), 5.0)).energy.isfinite().all()
    batch.positions[0, 0] = torch.nan
    assert predict(model, batch).energy.isnan().all()


@pytest.mark.parametrize("order", [0, 1, 2])
def test_splines_are_scipys(order: int) -> None:
    found = np.empty((order + 1, 6))
    for t in np.linspace(0, 1, 11)[:-1]:
        b_splines(t, order, found)
        for m in range(6):
            spline = BSpline.basis_element(np.arange(m - 5, m + 2))
            expected = [spline(t), *(spline.derivative(n)(t) for n in range(1, order + 1))]
            np.testing.assert_allclose(found[:, m], expected, atol=1e-13)


@pytest.mark.parametrize("sharpness", [1.0, 6.0])
def test_the_table_of_gaussians_keeps_its_promise_whatever_training_makes_of_them(sharpness: float) -> None:
    basis = TorchMDET(cutoff=8.0).distance_expansion
    means, betas = basis.means.detach().double() + 0.013, basis.betas.detach().double() * sharpness
    intervals = intervals_for(betas)
    assert intervals is not None
    rows = gaussian_rows(means, betas, intervals).numpy()
    assert len(rows) == intervals + 5
    s = np.linspace(0, 1, 4001)[:-1]
    exact = np.exp(-betas.numpy() * (s[:, None] - means.numpy()) ** 2)
    spline = BSpline(np.arange(-5, intervals + 6) / intervals, rows, 5)
    slope = -2 * betas.numpy() * (s[:, None] - means.numpy()) * exact
    assert np.abs(spline(s) - exact).max() < 5e-9
    assert np.abs(spline.derivative()(s) - slope).max() < 2e-7 * np.abs(slope).max()


@pytest.mark.parametrize("name", ["dk_proj.bias", "dv_proj.bias", "dk_proj.weight"])
def test_a_weight_trained_alone_gets_its_gradient(rocksalt: list[Atoms], name: str) -> None:
    torch.manual_seed(0)
    model = TorchMDET(cutoff=5.0, hidden_channels=32, num_layers=2, num_heads=2, num_rbf=8)
    batch = build_batch(rocksalt[0], 5.0)
    model.requires_grad_(False)
    parameter = model.attention_layers[0].get_parameter(name).requires_grad_(True)

    def gradient(fast: bool) -> torch.Tensor:
        model.fast, parameter.grad = fast, None
        out = predict(model, batch, create_graph=True)
        (out.energy.sum() + out.forces.square().sum()).backward()
        return parameter.grad

    expected = gradient(fast=False)
    assert expected.abs().max() > 1e-6
    torch.testing.assert_close(gradient(fast=True), expected, rtol=1e-3, atol=float(1e-4 * expected.abs().max()))
