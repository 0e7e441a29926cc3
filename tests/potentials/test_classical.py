"""Pairs with charges: values, derivatives, smooth end, checkpoints."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress

import mdl_physpretrain as pp
from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.graphs.batch import build_batch
from mdl_physpretrain.potentials import predict
from mdl_physpretrain.potentials.classical import COULOMB, ClassicalForceField, radial_terms


def _model(seed: int = 0) -> ClassicalForceField:
    model = ClassicalForceField(["Mg", "O"], cutoff=5.0).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model.charges.copy_(torch.tensor([1.2, -1.1], dtype=torch.float64))
        model.strengths.copy_(torch.rand(model.strengths.shape, generator=generator))
        model.base_energies.copy_(torch.tensor([-1.0, 2.0]))
    return model


def test_slopes_belong_to_values_and_everything_ends_smoothly():
    r = torch.linspace(0.5, 8.0, 4001, dtype=torch.float64, requires_grad=True)
    values, slopes = radial_terms(r, 8.0)
    for value, slope in zip(values, slopes, strict=True):
        (derived,) = torch.autograd.grad(value.sum(), r, retain_graph=True)
        assert torch.allclose(derived, slope, rtol=1e-9, atol=1e-10)
    assert values[:, -1].abs().max() < 1e-9
    assert slopes[:, -1].abs().max() < 1e-9
    assert (slopes[:-1] <= 0).all()  # like charges and repulsion push apart at every distance
    assert (values[-1] <= 0).all()  # dispersion attracts


def test_energy_of_a_pair_is_the_formula():
    model = _model()
    r = 2.1
    atoms = Atoms("MgO", [[0, 0, 0], [r, 0, 0]])
    energy = float(predict(model, build_batch(atoms, model.cutoff, torch.float64)).energy)
    screened = [np.nan, np.nan]
    for k, x in enumerate((r, 5.0)):
        screened[k] = float(torch.erfc(torch.tensor(0.2 * x, dtype=torch.float64))) / x
    slope_at_end = -(screened[1] + 0.4 / np.sqrt(np.pi) * np.exp(-1.0)) / 5.0
    expected = 1.2 * -1.1 * COULOMB * (screened[0] - screened[1] - slope_at_end * (r - 5.0)) + 1.0
    strengths = model.strengths.detach().numpy()[model.pairs.index(("Mg", "O"))]
    expected += sum(a * np.exp((2.0 - r) / length) for a, length in zip(strengths, model.lengths, strict=False))
    expected -= strengths[-1] * 2 * 2.0**6 / (r**6 + 2.0**6)
    assert energy == pytest.approx(expected, rel=1e-12)


def test_forces_and_stress_are_derivatives():
    atoms = bulk("MgO", "rocksalt", a=4.2, cubic=True)
    atoms.positions += np.random.default_rng(0).normal(0, 0.1, (8, 3))
    atoms.calc = pp.ASECalculator(_model())
    assert np.allclose(atoms.get_forces(), calculate_numerical_forces(atoms, eps=1e-5), atol=1e-6)
    assert np.allclose(atoms.get_stress(), calculate_numerical_stress(atoms, eps=1e-5), atol=1e-7)


def test_checkpoint_and_elements(tmp_path):
    model = _model()
    pp.save_model(model, tmp_path / "ionic.pt")
    loaded = pp.load_model(tmp_path / "ionic.pt")
    atoms = bulk("MgO", "rocksalt", a=4.2, cubic=True)
    one, two = (predict(m.double(), build_batch(atoms, 5.0, torch.float64)) for m in (model, loaded))
    assert torch.equal(one.forces, two.forces)
    assert torch.equal(one.energy, two.energy)
    with pytest.raises(ConfigError, match="different symbols"):
        ClassicalForceField(["O", "O"])
