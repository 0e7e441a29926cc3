"""The fit recovers a known potential, is seeded, and is judged by its curves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.graphs.batch import build_batch
from mdl_physpretrain.graphs.bonds import nearest_distances
from mdl_physpretrain.potentials import EAM, load_model, predict
from mdl_physpretrain.structures.labels import Labels, set_labels
from mdl_physpretrain.teacher import examine, fit_eam, teacher_curves


@pytest.fixture(scope="module")
def copper_like() -> list[Atoms]:
    """Rattled and strained fcc cells labelled by a Morse-like EAM."""
    truth = EAM(["Cu"], cutoff=5.0, n_basis=2, core=False).double()
    with torch.no_grad():
        truth.D.fill_(0.35)
        truth.alpha.fill_(1.4)
        truth.rm.fill_(2.7)
        truth.B.fill_(0.02)
        truth.base_atomic_energy.fill_(-1.3)
    rng = np.random.default_rng(0)
    structures = []
    for k in range(16):
        atoms = bulk("Cu", cubic=True, a=3.75 * (1 + 0.02 * rng.normal())).repeat((2, 1, 1))
        atoms.positions += rng.normal(scale=0.12, size=atoms.positions.shape)
        out = predict(truth, build_batch(atoms, 5.0, torch.float64))
        set_labels(
            atoms, Labels(float(out.energy[0].detach()), out.forces.detach().numpy(), out.stress[0].detach().numpy())
        )
        atoms.info["structure_id"] = f"cu-{k}"
        structures.append(atoms)
    return structures


def test_default_fit_beats_the_trivial_predictor_and_passes(copper_like: list[Atoms], tmp_path: Path) -> None:
    model = fit_eam(copper_like[:12], val=copper_like[12:], cutoff=5.0, n_basis=4, directory=tmp_path)
    fit = model.metadata["fit"]
    assert fit["val_errors"]["forces_mae"] < 0.25 * fit["trivial"]["forces_mae"]
    assert fit["errors"]["total"] < 0.3 * fit["trivial"]["total"]
    assert fit["history"][-1]["val_loss"] < 0.3 * fit["history"][0]["val_loss"]
    assert model.metadata["examination"]["passed"], model.metadata["examination"]["failures"]
    back = load_model(tmp_path / "teacher.pt", expect="eam")
    assert back.metadata["examination"] == model.metadata["examination"]
    assert back.dtype == torch.float64
    # a well where the data has its bonds, and a wall inside
    (examination,) = examine(model, copper_like).pairs
    assert examination.well_position == pytest.approx(examination.data_distance, rel=0.15)
    assert examination.wall_energy > 3


def test_fit_is_seeded(copper_like: list[Atoms]) -> None:
    one, two, three = (fit_eam(copper_like[:6], cutoff=5.0, n_basis=2, epochs=3, seed=s) for s in (1, 1, 2))
    assert torch.equal(one.D, two.D)
    assert not torch.equal(one.D, three.D)


def test_paper_preset_is_the_papers(copper_like: list[Atoms]) -> None:
    model = fit_eam(copper_like[:4], cutoff=5.0, preset="paper", epochs=1, batch_size=4, learning_rate=1e-9)
    assert model.core is None
    for name in ("D", "alpha", "A", "beta", "B", "rho0", "base_atomic_energy"):
        torch.testing.assert_close(getattr(model, name), torch.ones_like(getattr(model, name)))
    assert model.rm.item() == pytest.approx(2 * 1.32, abs=1e-6)  # two covalent radii of Cu
    assert model.A.shape == (1, 10)


def test_a_potential_without_a_core_fails(copper_like: list[Atoms]) -> None:
    model = EAM(["Cu"], cutoff=5.0, n_basis=1, core=False).double()
    with torch.no_grad():
        model.alpha.fill_(1.0)
        model.D.fill_(0.2)
        model.rm.fill_(0.4)  # attracts down to 0.4 Å
    examination = examine(model, copper_like)
    assert not examination.passed
    assert not examination.pairs[0].core
    assert "Cu-Cu" in examination.failures[0]
    assert "attractive between" in examination.failures[0]


def test_a_well_at_the_wrong_place_fails(copper_like: list[Atoms]) -> None:
    model = EAM(["Cu"], cutoff=5.0, n_basis=1).double()
    with torch.no_grad():
        model.A.zero_()
        model.alpha.fill_(1.5)
        model.rm.fill_(3.9)
    (examination,) = examine(model, copper_like).pairs
    assert examination.core
    assert examination.well is False
    assert "well at 3.7" in examination.notes


def test_curves_add_up_and_belong_to_the_model(copper_like: list[Atoms]) -> None:
    model = fit_eam(copper_like[:4], cutoff=5.0, n_basis=2, epochs=2)
    curves = teacher_curves(model, copper_like, points=600)
    total = curves[["pair_term", "embedding", "core"]].sum(axis=1)
    np.testing.assert_allclose(curves.total, total)
    assert abs(curves.total.iloc[-1]) < 1e-9
    far = curves.r > 1.5
    slope = np.gradient(curves.total[far], curves.r[far])
    np.testing.assert_allclose(slope[2:-2], curves.slope[far][2:-2], atol=0.05 * np.abs(curves.slope[far]).max())


def test_nearest_distances_against_ase(copper_like: list[Atoms]) -> None:
    known = nearest_distances(copper_like[:3], 5.0)[("Cu", "Cu")]
    nearest = []
    for atoms in copper_like[:3]:
        d = atoms.get_all_distances(mic=True)
        np.fill_diagonal(d, np.inf)
        nearest.append(d.min(axis=1))
    assert known.typical == pytest.approx(np.median(np.concatenate(nearest)))
    assert known.closest == pytest.approx(np.concatenate(nearest).min())
    assert known.bonded


def test_refusals(copper_like: list[Atoms]) -> None:
    with pytest.raises(ConfigError, match="preset"):
        fit_eam(copper_like, preset="papper")
    with pytest.raises(ConfigError):
        fit_eam(copper_like, epochs=0)
    with pytest.raises(StructureError):
        fit_eam([])
    bare = copper_like[0].copy()
    with pytest.raises(StructureError):
        fit_eam([bare])


def test_real_data_default_passes_where_the_paper_fit_fails(shared_data: Path) -> None:
    from mdl_physpretrain.structures import read_structures

    structures = [a for a in read_structures(shared_data / "lmo_train.extxyz") if len(a) <= 24][:20]
    default = fit_eam(structures, cutoff=6.0, epochs=30)
    paper = fit_eam(structures, cutoff=6.0, preset="paper", epochs=30)
    assert default.metadata["examination"]["passed"], default.metadata["examination"]["failures"]
    assert not paper.metadata["examination"]["passed"]
