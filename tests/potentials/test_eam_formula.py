"""The EAM equals Eq. 1-3, written out with loops over images."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.fd import calculate_numerical_forces
from small_potentials import SYMBOLS

from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.potentials import EAM, ASECalculator
from mdl_physpretrain.potentials.switch import quintic_switch


def by_loops(model: EAM, atoms: Atoms) -> float:
    """Total energy from the printed equations, one pair of atoms at a time."""
    cutoff, start = model.cutoff, 0.66 * model.cutoff
    value = {k: v.detach().numpy() for k, v in model.named_parameters()}
    names = [tuple(sorted(p)) for p in model.pairs]
    reach = 2
    total, density = 0.0, np.zeros(len(atoms))
    for i, j in itertools.product(range(len(atoms)), repeat=2):
        for shift in itertools.product(range(-reach, reach + 1), repeat=3):
            d = atoms.positions[j] + np.array(shift) @ atoms.cell.array - atoms.positions[i]
            r = np.linalg.norm(d)
            if r < 1e-9 or r >= cutoff:
                continue
            p = names.index(tuple(sorted((atoms[i].symbol, atoms[j].symbol))))
            s = min(1.0, 1 - (r - start) / (cutoff - start))
            f = 6 * s**5 - 15 * s**4 + 10 * s**3
            depth, alpha, rm = (value[k][p] for k in ("D", "alpha", "rm"))
            total += 0.5 * (depth * (1 - np.exp(-alpha * (r - rm))) ** 2 - depth) * f
            density[i] += (value["A"][p] * np.exp(-value["beta"][p] * r)).sum() * f
    for i, atom in enumerate(atoms):
        e = model.elements.index(atom.symbol)
        total += value["B"][e] * (density[i] - value["rho0"][e]) ** 2 + value["base_atomic_energy"][e]
    return total


@pytest.mark.parametrize("name", ["triclinic", "slab", "tiny", "one_atom"])
def test_energy_is_that_of_the_equations(zoo: dict[str, Atoms], name: str) -> None:
    torch.manual_seed(2)
    model = EAM(["Mg", "O", "Si", "Al"], cutoff=4.0, n_basis=3, core=False).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.rand_like(p))
    atoms = zoo[name]
    if not atoms.pbc.all():
        atoms.pbc = True
    atoms.calc = ASECalculator(model)
    assert atoms.get_potential_energy() == pytest.approx(by_loops(model, atoms), rel=1e-10)


def test_pairs_are_numbered_as_in_the_released_files() -> None:
    model = EAM(["Li", "Mn", "O"])
    assert model.pairs == [("Li", "Mn"), ("Li", "O"), ("Mn", "O"), ("Li", "Li"), ("Mn", "Mn"), ("O", "O")]


def test_switch_has_two_continuous_derivatives() -> None:
    r = torch.linspace(1.9, 4.1, 4001, dtype=torch.float64)
    value, slope = quintic_switch(r, 2.0, 4.0)
    assert value[0] == 1
    assert value[-1] == 0
    numerical = np.gradient(value.numpy(), r.numpy())
    np.testing.assert_allclose(slope.numpy()[1:-1], numerical[1:-1], atol=1e-5)
    curvature = np.gradient(slope.numpy(), r.numpy())
    assert np.abs(np.diff(curvature)).max() < 0.02  # no step


def test_elements_must_be_elements() -> None:
    for wrong in ([], ["Xx"], ["O", "O"]):
        with pytest.raises(ConfigError):
            EAM(wrong)


@pytest.mark.parametrize("n_elements", [1, 2, 3, 4])
def test_eam_for_one_to_four_elements(n_elements: int) -> None:
    rng = np.random.default_rng(n_elements)
    symbols = (SYMBOLS[:n_elements] * 6)[:6]
    grid = np.array([[0, 0, 0], [2.1, 0, 0], [0, 2.1, 0], [0, 0, 2.1], [2.1, 2.1, 0], [2.1, 0, 2.1]])
    atoms = Atoms(
        symbols, grid + rng.normal(scale=0.1, size=(6, 3)), cell=[[4.4, 0, 0], [0.3, 4.3, 0], [0, 0.5, 4.2]], pbc=True
    )
    torch.manual_seed(0)
    model = EAM(SYMBOLS[:n_elements], cutoff=5.0, n_basis=10).double()
    atoms.calc = ASECalculator(model)
    forces = atoms.get_forces()
    numerical = calculate_numerical_forces(atoms, eps=1e-4)
    assert np.abs(forces - numerical).max() < 1e-6 * np.abs(forces).max()


def test_unknown_element_is_named() -> None:
    atoms = Atoms("AuO", [[0, 0, 0], [2, 0, 0]])
    atoms.calc = ASECalculator(EAM(["Mg", "O"], cutoff=5.0).double())
    with pytest.raises(StructureError, match="Au"):
        atoms.get_potential_energy()
