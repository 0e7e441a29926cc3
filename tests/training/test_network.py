"""What a trained potential is made of: network, core, EAM; and what of it is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ase import Atoms

from mdl_physpretrain.errors import CheckpointError, ConfigError
from mdl_physpretrain.graphs.batch import build_batch, collate
from mdl_physpretrain.potentials import EAM, Sum, load_model, predict
from mdl_physpretrain.structures import get_labels
from mdl_physpretrain.training import new_network, train

SMALL = {"cutoff": 4.0, "dim1": 8, "dim2": 8, "gc_count": 1, "post_fc_count": 1, "edge_dim": 12}


@pytest.fixture
def eam() -> EAM:
    torch.manual_seed(5)
    model = EAM(["O", "Mg"], cutoff=4.5, n_basis=2)
    with torch.no_grad():
        model.B.mul_(0.05)
        model.rm.fill_(2.1)
        model.base_atomic_energy.fill_(-40.0)  # far from the labels' scale
    return model


def test_hybrid_is_network_plus_eam(rocksalt: list[Atoms], eam: EAM) -> None:
    hybrid = new_network("cgcnn", rocksalt, model_args=SMALL, eam=eam, core="zbl")
    assert isinstance(hybrid, Sum)
    assert [p.registry_name for p in hybrid.parts] == ["cgcnn", "eam", "zbl"]  # type: ignore[union-attr]
    batch = collate([build_batch(a, hybrid.cutoff) for a in rocksalt])
    whole, parts = predict(hybrid, batch), [predict(p, batch) for p in hybrid.parts]  # type: ignore[arg-type]
    for name in ("energy", "forces", "stress"):
        total = sum(getattr(p, name) for p in parts)
        torch.testing.assert_close(getattr(whole, name), total, rtol=1e-5, atol=1e-5)


def test_references_of_a_hybrid_make_up_for_the_eams_atomic_energies(rocksalt: list[Atoms], eam: EAM) -> None:
    hybrid = new_network("cgcnn", rocksalt, model_args=SMALL, eam=eam)
    energies = predict(hybrid, collate([build_batch(a, hybrid.cutoff) for a in rocksalt])).energy.detach()
    labels = torch.tensor([get_labels(a).energy for a in rocksalt])
    assert (energies - labels).mean().abs() < 0.5  # the EAM alone is 280 eV off
    assert (predict(eam, build_batch(rocksalt[0], 4.5)).energy - labels[0]).abs() > 100


@pytest.mark.parametrize("freeze", [True, False])
def test_eam_of_a_hybrid_is_trained_or_kept(rocksalt: list[Atoms], eam: EAM, freeze: bool, tmp_path: Path) -> None:
    before = {k: v.clone() for k, v in eam.state_dict().items()}
    trained = train("cgcnn", rocksalt, epochs=2, batch_size=4, model_args=SMALL, eam=eam, freeze_eam=freeze)
    changed = [k for k, v in trained.parts[1].state_dict().items() if not torch.equal(v, before[k])]  # type: ignore[union-attr, operator]
    assert bool(changed) is not freeze
    assert all(torch.equal(v, before[k]) for k, v in eam.state_dict().items())  # the caller's is a copy
    trained.save(tmp_path / "hybrid.pt")
    loaded = load_model(tmp_path / "hybrid.pt")
    batch = build_batch(rocksalt[0], trained.cutoff)
    assert torch.equal(predict(loaded, batch).forces, predict(trained, batch).forces)
    assert all(p.requires_grad is not freeze for p in loaded.parts[1].parameters())  # type: ignore[union-attr]


def test_an_eam_checkpoint_will_do_and_another_model_will_not(rocksalt: list[Atoms], eam: EAM, tmp_path: Path) -> None:
    eam.save(tmp_path / "eam.pt")
    hybrid = new_network("cgcnn", rocksalt, model_args=SMALL, eam=tmp_path / "eam.pt")
    assert torch.equal(hybrid.parts[1].rm, eam.rm)  # type: ignore[union-attr, arg-type]
    new_network("cgcnn", rocksalt, model_args=SMALL).save(tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match="holds a 'cgcnn' model, not 'eam'"):
        new_network("cgcnn", rocksalt, model_args=SMALL, eam=tmp_path / "net.pt")
    with pytest.raises(ConfigError, match="belong to a new model"):
        train(tmp_path / "net.pt", rocksalt, epochs=1, eam=eam)


def test_frozen_part_must_exist(eam: EAM) -> None:
    with pytest.raises(ConfigError, match="has no part 3"):
        Sum([eam], frozen=[3])


def test_a_core_is_added_to_a_hybrid_and_once_only(rocksalt: list[Atoms], eam: EAM) -> None:
    from mdl_physpretrain.training.network import copied_network

    hybrid = new_network("cgcnn", rocksalt, model_args=SMALL, eam=eam, freeze_eam=True)
    with_core = copied_network(hybrid, rocksalt, "zbl")
    assert [p.registry_name for p in with_core.parts] == ["cgcnn", "eam", "zbl"]  # type: ignore[union-attr]
    assert not any(p.requires_grad for p in with_core.parts[1].parameters())  # type: ignore[union-attr]
    assert len(copied_network(with_core, rocksalt, "zbl").parts) == 3  # type: ignore[arg-type]


def test_freezing_an_eam_that_is_not_there_is_refused(rocksalt: list[Atoms]) -> None:
    with pytest.raises(ConfigError, match="freeze_eam needs an eam"):
        new_network("cgcnn", rocksalt, model_args=SMALL, freeze_eam=True)
    with pytest.raises(ConfigError, match="belong to a new model"):
        train(new_network("cgcnn", rocksalt, model_args=SMALL), rocksalt, epochs=1, freeze_eam=True)
