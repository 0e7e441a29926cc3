"""The kind "classical": its options, its examination, its curves, and a run of it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from ase import Atoms

from mdl_physpretrain.graphs.batch import build_batch
from mdl_physpretrain.potentials import predict
from mdl_physpretrain.potentials.classical import ClassicalForceField
from mdl_physpretrain.structures.labels import Labels, set_labels
from mdl_physpretrain.teacher.kinds import classical
from mdl_physpretrain.teacher.kinds.classical import ClassicalTeacher, fit_classical


@pytest.fixture(scope="module")
def truth() -> ClassicalForceField:
    model = ClassicalForceField(["O", "Mg"], cutoff=6.0).double()
    with torch.no_grad():
        model.charges.copy_(torch.tensor([-1.2, 1.2]))
        model.strengths.fill_(0.004)
        model.strengths[:, 1] = torch.tensor([0.1, 0.3, 0.03])
    return model


@pytest.fixture
def ionic_data(truth: ClassicalForceField, rocksalt: list[Atoms]) -> list[Atoms]:
    for atoms in rocksalt:
        out = predict(truth, build_batch(atoms, truth.cutoff, torch.float64))
        labels = (float(out.energy), out.forces.detach().numpy(), out.stress[0].detach().numpy())
        set_labels(atoms, Labels(*labels))
    return rocksalt


def test_a_fit_to_its_own_form_passes(ionic_data: list[Atoms]) -> None:
    kind = ClassicalTeacher()
    model = kind.fit(ionic_data, val=None, options=kind.Options(cutoff=6.0), progress=False)
    examination = kind.examine(model, ionic_data)
    assert examination.passed, examination.failures
    assert examination.pushed_back == 1
    assert {pair.pair for pair in examination.pairs} == {"O-Mg", "Mg-Mg", "O-O"}
    assert all(pair.well is None for pair in examination.pairs), "bonds are made by the crystal"


def test_pairs_repel_although_the_data_want_attraction(
    truth: ClassicalForceField, ionic_data: list[Atoms], monkeypatch: pytest.MonkeyPatch
) -> None:
    strong = copy.deepcopy(truth)
    with torch.no_grad():
        strong.charges *= 2
        strong.strengths[:, -1] = 6.0
    for atoms in ionic_data:
        out = predict(strong, build_batch(atoms, strong.cutoff, torch.float64))
        labels = (float(out.energy), out.forces.detach().numpy(), out.stress[0].detach().numpy())
        set_labels(atoms, Labels(*labels))
    options = {"cutoff": 6.0, "core": False}
    examination = ClassicalTeacher().examine(fit_classical(ionic_data, **options), ionic_data)
    assert examination.passed, examination.failures
    monkeypatch.setattr(classical._LeastSquares, "limit", lambda *_: None)
    assert not ClassicalTeacher().examine(fit_classical(ionic_data, **options), ionic_data).passed


def test_attraction_without_a_core_is_seen(truth: ClassicalForceField, ionic_data: list[Atoms]) -> None:
    strong = copy.deepcopy(truth)
    with torch.no_grad():
        strong.charges *= 3
    examination = ClassicalTeacher().examine(strong, ionic_data)
    assert not examination.passed
    assert any(reason.startswith("O-Mg: attractive between 0.30") for reason in examination.failures)


def test_curves_are_those_of_two_atoms(ionic_data: list[Atoms]) -> None:
    model = fit_classical(ionic_data, cutoff=6.0)
    parts = ["coulomb", "repulsion", "dispersion", "core"]
    for potential in (model, fit_classical(ionic_data, cutoff=6.0, core=False)):
        table = ClassicalTeacher().curves(potential, ionic_data)
        np.testing.assert_allclose(table[parts].sum(axis=1), table["total"], rtol=1e-12, atol=1e-12)
        curve = table[table["pair"] == "O-Mg"].iloc[[40, 120, 200]]
        for row in curve.to_dict("records"):
            two, far = (Atoms("OMg", [[0, 0, 0], [0, 0, z]]) for z in (row["r"], 9.0))
            near = predict(potential, build_batch(two, potential.cutoff, torch.float64))
            alone = predict(potential, build_batch(far, potential.cutoff, torch.float64))
            assert float(near.energy - alone.energy) == pytest.approx(row["total"], rel=1e-9)
            assert float(near.forces[0, 2]) == pytest.approx(row["slope"], rel=1e-9)


def test_a_rare_element_is_fitted_too(ionic_data: list[Atoms], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdl_physpretrain.teacher.kinds.classical.MOST_STRUCTURES", 3)
    ionic_data[4].symbols[0] = "Ca"
    assert fit_classical(ionic_data, cutoff=6.0).known_elements() == {"O", "Mg", "Ca"}


def test_noise_of_the_labels_makes_no_soft_force_field(
    truth: ClassicalForceField, ionic_data: list[Atoms], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(3)
    frames = []
    for k in range(12):
        atoms = ionic_data[0].copy()
        atoms.rattle(0.08, seed=k)
        atoms.info["structure_id"] = f"frame-{k}"
        out = predict(truth, build_batch(atoms, truth.cutoff, torch.float64))
        forces = out.forces.detach().numpy()
        set_labels(atoms, Labels(None, forces + rng.normal(0.0, 2 * forces.std(), forces.shape), None))
        frames.append(atoms)

    def stiffness(model: ClassicalForceField) -> float:
        """Its changes of force along those of the truth, 1 for the truth itself."""
        changes = []
        for potential in (model, truth):
            taught = [
                predict(potential, build_batch(a, potential.cutoff, torch.float64)).forces.detach().numpy()
                for a in frames
            ]
            changes.append(np.concatenate([(f - taught[0]).ravel() for f in taught[1:]]))
        return float(changes[0] @ changes[1] / (changes[1] @ changes[1]))

    options = {"cutoff": 6.0, "core": False, "angles": False}
    after = stiffness(fit_classical(frames, **options))
    monkeypatch.setattr(classical, "REWEIGHTINGS", 0)
    before = stiffness(fit_classical(frames, **options))
    assert before < 0.9
    assert after == pytest.approx(1.0, abs=0.1)
