import numpy as np
import pytest
import torch
from ase.build import bulk

from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.potentials import CGCNN, EAM
from mdl_physpretrain.potentials.error_metrics import trivial_errors
from mdl_physpretrain.structures import reference_energies
from mdl_physpretrain.teacher import label
from mdl_physpretrain.teacher.decomposition import eam_decomposition


@pytest.fixture
def eam():
    model = EAM(["Mg", "O"], cutoff=5.0, n_basis=1).double()
    with torch.no_grad():
        model.D[:], model.alpha[:], model.rm[:] = torch.tensor([0.7, 0.1, 0.1]), 1.6, torch.tensor([2.1, 3.1, 3.1])
        model.A[:], model.beta[:], model.B[:] = 0.05, 1.2, 0.5
        model.base_atomic_energy[:] = torch.tensor([-3.0, -5.0])
    return model


def cells():
    structures = []
    for k in range(10):
        atoms = bulk("MgO", "rocksalt", a=4.2 * (1 + 0.01 * k), cubic=True)
        atoms.rattle(0.06, seed=k)
        if k % 2:
            del atoms[k % 8]
        atoms.info["structure_id"] = f"cell-{k}"
        structures.append(atoms)
    return structures


def part(table, name):
    return table.set_index("part").loc[name]


def test_full_is_exact_on_its_own_labels_whatever_the_atomic_energies(eam):
    labelled = label(cells(), eam)
    before = {k: v.clone() for k, v in eam.state_dict().items()}
    table = eam_decomposition(eam, labelled)
    assert table["part"].tolist() == ["morse", "embedding", "full", "trivial"]
    assert list(table.columns) == ["part", "energy_mae", "forces_mae", "stress_mae", "total"]
    assert part(table, "full")["total"] < 1e-6
    for name in ("morse", "embedding"):
        assert part(table, name)["total"] > 1e-3
    assert all(torch.equal(v, eam.state_dict()[k]) for k, v in before.items())
    assert eam.core is not None
    with torch.no_grad():
        eam.base_atomic_energy += 100.0
    again = eam_decomposition(eam, labelled)
    np.testing.assert_allclose(again.iloc[:, 1:], table.iloc[:, 1:], atol=1e-8)


def test_each_part_is_exact_where_it_is_all_there_is(eam):
    pair_only, embedding_only = EAM(**eam.hparams).double(), EAM(**{**eam.hparams, "core": False}).double()
    for model in (pair_only, embedding_only):
        model.load_state_dict(eam.state_dict(), strict=False)
    with torch.no_grad():
        pair_only.B.zero_()
        embedding_only.D.zero_()
    table = eam_decomposition(eam, label(cells(), pair_only))
    assert part(table, "morse")["total"] < 1e-6 < part(table, "embedding")["total"]
    table = eam_decomposition(eam, label(cells(), embedding_only))
    assert part(table, "embedding")["total"] < 1e-6 < part(table, "morse")["total"]


def test_energies_and_forces_of_the_parts_add_up(eam):
    # forces of both parts are those of the whole, so the part that is left out is the error
    labelled = label(cells(), eam)
    table = eam_decomposition(eam, labelled)
    pair_only = EAM(**eam.hparams).double()
    pair_only.load_state_dict(eam.state_dict())
    with torch.no_grad():
        pair_only.B.zero_()
    of_pairs = np.concatenate([a.get_forces() for a in label(cells(), pair_only)])
    assert part(table, "embedding")["forces_mae"] == pytest.approx(np.abs(of_pairs).mean())


def test_trivial_is_the_trivial_predictor(eam, rocksalt):
    expected = trivial_errors(rocksalt, reference_energies(rocksalt))
    found = part(eam_decomposition(eam, rocksalt), "trivial")
    for name in ("energy_mae", "forces_mae", "stress_mae", "total"):
        assert found[name] == pytest.approx(expected[name])


def test_missing_labels_and_wrong_models(eam, rocksalt):
    table = eam_decomposition(eam, label(rocksalt, eam, stress=False))
    assert table["stress_mae"].isna().all()
    with pytest.raises(StructureError, match="no structure has an energy"):
        eam_decomposition(eam, cells())
    with pytest.raises(ConfigError, match="CGCNN"):
        eam_decomposition(CGCNN(cutoff=5.0, dim1=8, dim2=8, gc_count=1), rocksalt)
    with pytest.raises(StructureError, match="unknown"):
        eam_decomposition(EAM(["Mg"]), rocksalt)


def test_real_data(shared_data):
    from mdl_physpretrain.structures import read_structures

    structures = read_structures(shared_data / "lmo_val.extxyz")[:5]
    elements = sorted({s for a in structures for s in a.symbols})
    table = eam_decomposition(EAM(elements, cutoff=6.0), structures)
    assert np.isfinite(table["total"]).all()
