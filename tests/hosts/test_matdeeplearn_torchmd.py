"""MatDeepLearn's own equivariant transformers and ours: the same weights give the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from mdl_physpretrain.graphs.batch import build_batch, collate
from mdl_physpretrain.potentials import TorchMDET, predict

pytestmark = [pytest.mark.hosts, pytest.mark.filterwarnings("ignore:.*jittable")]

PAPER_LIKE = {
    "hidden_channels": 32, "num_layers": 3, "num_rbf": 16, "num_heads": 4,
    "num_post_layers": 2, "post_hidden_channels": 24,
}  # fmt: skip
OTHER = {
    "hidden_channels": 24, "num_layers": 2, "num_rbf": 12, "num_heads": 3, "num_post_layers": 1,
    "post_hidden_channels": 16, "rbf_type": "gauss", "trainable_rbf": False, "activation": "tanh",
    "attn_activation": "sigmoid", "neighbor_embedding": False, "distance_influence": "keys", "max_z": 60,
}  # fmt: skip
VARIANTS = {
    "paper-like, late": ("torchmd_et", PAPER_LIKE, "add", "late"),
    "paper-like, early": ("torchmd_etEarly", PAPER_LIKE, "add", "early"),
    "other, late": ("torchmd_et", OTHER, "mean", "late"),
    "other, early": ("torchmd_etEarly", {**OTHER, "distance_influence": "values"}, "mean", "early"),
    "no distances": ("torchmd_et", {**PAPER_LIKE, "distance_influence": "none"}, "add", "late"),
}


def host_model(variant: str, cutoff: float) -> Any:
    """MatDeepLearn's model; skipped where the host is not installed."""
    pytest.importorskip("matdeeplearn", reason="MatDeepLearn is not installed")
    import matdeeplearn.models  # noqa: F401 - registers them
    from matdeeplearn.common.registry import registry

    name, options, pool, order = VARIANTS[variant]
    torch.manual_seed(0)
    return registry.get_model_class(name)(
        node_dim=100, edge_dim=50, output_dim=1, **options, pool=f"global_{pool}_pool", pool_order=order,
        cutoff_radius=cutoff, n_neighbors=400, graph_method="ocp", num_offsets=3,
        otf_edge_index=True, otf_edge_attr=True, otf_node_attr=True, gradient=True,
    )  # fmt: skip


def our_model(variant: str, cutoff: float) -> TorchMDET:
    _, options, pool, order = VARIANTS[variant]
    return TorchMDET(
        cutoff=cutoff, **options, pool=pool, pool_order=order, smooth_cutoff=False, own_images=False
    ).eval()  # fmt: skip


def host_batch(structures: list[Atoms]) -> Any:
    from torch_geometric.data import Batch, Data

    return Batch.from_data_list(
        [
            Data(
                pos=torch.tensor(atoms.positions, dtype=torch.float32),
                cell=torch.tensor(atoms.cell.array[None], dtype=torch.float32),
                z=torch.tensor(atoms.numbers),
                n_atoms=torch.tensor([len(atoms)]),
            )
            for atoms in structures
        ]
    )


def crystals() -> list[Atoms]:
    rng = np.random.default_rng(3)
    cells = [
        bulk("MgO", "rocksalt", a=4.2, cubic=True),
        bulk("Si", "diamond", a=5.43),
        Atoms("SiOMgAl", np.zeros((4, 3)), cell=[[5.0, 0, 0], [1.3, 4.8, 0], [-0.9, 0.7, 5.3]], pbc=True),
    ]
    cells[2].set_scaled_positions([[0.02, 0.1, 0.05], [0.4, 0.35, 0.3], [0.1, 0.6, 0.62], [0.7, 0.8, 0.15]])
    for atoms in cells:
        atoms.positions += rng.normal(scale=0.08, size=(len(atoms), 3))
    return cells


def trained_a_little(host: Any, structures: list[Atoms], steps: int) -> None:
    """A few steps of plain torch with the host's class on invented forces."""
    optimizer = torch.optim.Adam(host.parameters(), lr=5e-3)
    target = torch.randn(sum(map(len, structures)), 3, generator=torch.Generator().manual_seed(1))
    host.train()
    for _ in range(steps):
        optimizer.zero_grad()
        out = host(host_batch(structures))
        ((out["pos_grad"] - target).square().mean() + 1e-3 * out["output"].square().mean()).backward()
        optimizer.step()
    host.eval()


def assert_same(host: Any, ours: TorchMDET, structures: list[Atoms]) -> None:
    theirs = host(host_batch(structures))
    mine = predict(ours, collate([build_batch(atoms, ours.cutoff) for atoms in structures]))
    forces, stress = theirs["pos_grad"].detach().numpy(), theirs["cell_grad"].detach().numpy()
    scale = max(1.0, np.abs(forces).max())
    np.testing.assert_allclose(mine.energy.numpy(), theirs["output"].detach().numpy()[:, 0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(mine.forces.numpy(), forces, atol=1e-5 * scale)
    np.testing.assert_allclose(mine.stress.numpy(), stress, atol=1e-5 * scale)
    assert np.abs(forces).max() > 0.01


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_trained_there_give_the_same_numbers_here(variant: str) -> None:
    structures = crystals()
    host, ours = host_model(variant, 4.5), our_model(variant, 4.5)
    fresh = {k: v.clone() for k, v in host.state_dict().items()}
    trained_a_little(host, structures, 6)
    changed = [k for k, v in host.state_dict().items() if not torch.equal(v, fresh[k])]
    assert len(changed) > 0.8 * len(list(host.parameters())) - 2
    assert set(ours.state_dict()) ^ set(fresh) == {"reference_energies"}
    ours.load_state_dict(host.state_dict())
    assert_same(host, ours, structures)
    for atoms in structures:
        assert_same(host, ours, [atoms])


@pytest.mark.parametrize("variant", ["paper-like, late", "other, late"])
def test_weights_made_here_give_the_same_numbers_there(variant: str) -> None:
    host = host_model(variant, 4.9)
    torch.manual_seed(5)
    ours = our_model(variant, 4.9)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter) * (1 + parameter.abs().mean()))
    host.load_state_dict({k: v for k, v in ours.state_dict().items() if k != "reference_energies"})
    assert_same(host.eval(), ours, crystals())


def test_the_host_starts_from_the_same_distributions() -> None:
    host, ours = host_model("paper-like, late", 5.0), our_model("paper-like, late", 5.0)
    mine = ours.state_dict()
    for name, theirs in host.state_dict().items():
        if theirs.numel() > 300:
            assert mine[name].std().item() == pytest.approx(theirs.std().item(), rel=0.15), name
        elif not name.startswith("post_lin_list"):  # these are constants, not random numbers
            torch.testing.assert_close(mine[name], theirs)
