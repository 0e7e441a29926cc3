"""MatDeepLearn's own CGCNN and ours: the same weights give the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms

from mdl_physpretrain.graphs.batch import build_batch
from mdl_physpretrain.potentials import CGCNN, predict

pytestmark = pytest.mark.hosts

OPTIONS = {"dim1": 100, "dim2": 150, "pre_fc_count": 1, "gc_count": 4, "post_fc_count": 3, "act": "silu"}


@pytest.fixture
def host_class():
    """MatDeepLearn's CGCNN; skipped where the host is not installed."""
    pytest.importorskip("matdeeplearn", reason="MatDeepLearn is not installed")
    from matdeeplearn.models import cgcnn

    return cgcnn.CGCNN


@pytest.mark.parametrize("batch_norm", [False, True])
def test_same_weights_same_energies_forces_stress(rocksalt: list[Atoms], host_class, batch_norm: bool) -> None:
    from torch_geometric.data import Batch, Data

    torch.manual_seed(0)
    host = host_class(
        node_dim=100, edge_dim=50, output_dim=1, **OPTIONS, pool="global_add_pool", pool_order="late",
        batch_norm=batch_norm, cutoff_radius=6.0, n_neighbors=400, graph_method="ocp", num_offsets=2,
        otf_edge_index=True, otf_edge_attr=True, otf_node_attr=True, gradient=True,
    ).eval()  # fmt: skip
    ours = CGCNN(
        cutoff=6.0, edge_dim=50, width=0.2, smooth_cutoff=False, batch_norm=batch_norm, fixed_norm=False, **OPTIONS
    )
    with torch.no_grad():  # fresh weights give forces near zero, which would prove nothing
        host.pre_lin_list[0].weight.mul_(10)
        for conv in host.conv_list:
            conv.lin_f.weight.mul_(3)
            conv.lin_s.weight.mul_(3)
        host.lin_out.weight.mul_(1000)
    missing = set(ours.state_dict()) ^ set(host.state_dict())
    assert missing == {"reference_energies"}
    ours.load_state_dict(host.state_dict())
    ours.eval()
    for atoms in rocksalt[:3]:
        data = Data(
            pos=torch.tensor(atoms.positions, dtype=torch.float32),
            cell=torch.tensor(atoms.cell.array[None], dtype=torch.float32),
            z=torch.tensor(atoms.numbers),
            n_atoms=torch.tensor([len(atoms)]),
        )
        theirs = host(Batch.from_data_list([data]))
        mine = predict(ours, build_batch(atoms, 6.0))
        assert mine.energy.item() == pytest.approx(theirs["output"].item(), rel=1e-5, abs=1e-5)
        forces = theirs["pos_grad"].detach().numpy()
        np.testing.assert_allclose(mine.forces.numpy(), forces, atol=1e-5)
        np.testing.assert_allclose(mine.stress.numpy(), theirs["cell_grad"].detach().numpy(), atol=1e-5)
        assert np.abs(forces).max() > 0.01


def test_split_convolution_is_pygs(rocksalt: list[Atoms]) -> None:
    pyg = pytest.importorskip("torch_geometric.nn", reason="PyTorch Geometric is not installed")
    from mdl_physpretrain.potentials.cgcnn.layers import CGConv

    torch.manual_seed(1)
    theirs, ours = pyg.CGConv(16, 12, aggr="mean"), CGConv(16, 12)
    ours.load_state_dict(theirs.state_dict())
    batch = build_batch(rocksalt[0], 5.0)
    edges = batch.edge_index
    x, e = torch.randn(8, 16), torch.randn(edges.shape[1], 12)
    degree = torch.bincount(edges[0], minlength=8)[edges[0]]
    # PyG sends messages from row 0 to row 1; our centre is row 0
    torch.testing.assert_close(
        ours(x, edges, e, 1 / degree[:, None]), theirs(x, edges.flip(0), e), atol=1e-5, rtol=1e-5
    )
