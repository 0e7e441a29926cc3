"""The shipped demo data: complete, near equilibrium, and what its script and README say."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections import Counter
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from ase.data import covalent_radii
from ase.io import read
from ase.neighborlist import neighbor_list

from mdl_physpretrain.structures import read_structures
from mdl_physpretrain.structures.labels import get_labels

DATA = Path(str(files("mdl_physpretrain") / "data"))
SCRIPT = Path(__file__).parents[1] / "scripts" / "make_demo_data.py"


@pytest.fixture(scope="module")
def demo():
    return read(DATA / "demo.extxyz", ":")


@pytest.fixture(scope="module")
def maker():
    """The script as a module (it imports CHGNet only when it computes)."""
    spec = importlib.util.spec_from_file_location("make_demo_data", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_file_is_small_and_has_its_checksum():
    content = (DATA / "demo.extxyz").read_bytes()
    digest, name = (DATA / "demo.sha256").read_text().split()
    assert name == "demo.extxyz"
    assert hashlib.sha256(content).hexdigest() == digest
    assert len(content) < 2_000_000


def test_counts_are_those_of_the_readme(demo):
    readme = (DATA / "README.md").read_text()
    n_atoms = [len(atoms) for atoms in demo]
    assert f"{len(demo)} periodic cells" in readme
    assert f"{min(n_atoms)} to {max(n_atoms)} atoms, {sum(n_atoms):,} atoms in all" in readme
    crystals = Counter(atoms.info["config_type"] for atoms in demo)
    for kind, number in Counter(atoms.info["configuration"] for atoms in demo).items():
        assert f"| `{kind}` | {number // len(crystals)} |" in readme


def test_ids_are_unique_and_the_source_is_said(demo):
    assert len({atoms.info["structure_id"] for atoms in demo}) == len(demo)
    assert {atoms.info["label_source"] for atoms in demo} == {"CHGNet 0.3.0 (not DFT)"}


def test_labels_are_complete_and_physical(demo):
    for atoms in demo:
        labels = get_labels(atoms)  # raises on NaN and wrong shapes
        assert labels.energy is not None
        assert -12 < labels.energy / len(atoms) < -3
        assert np.abs(labels.forces.sum(axis=0)).max() < 2e-3  # rounding of the file and float32
        assert np.abs(labels.forces).max() < 10
        np.testing.assert_array_equal(labels.stress, labels.stress.T)


def test_forces_and_stress_have_the_sign_of_the_energy(demo):
    """Compression costs energy and gives ASE's negative stress, stretching a positive one."""
    by_crystal: dict[str, list] = {}
    for atoms in demo:
        if atoms.info["configuration"] == "strain":
            by_crystal.setdefault(atoms.info["config_type"], []).append(atoms)
    for strained in by_crystal.values():
        strained.sort(key=lambda atoms: atoms.get_volume())
        volumes = np.array([atoms.get_volume() for atoms in strained])
        energies = np.array([atoms.get_potential_energy() for atoms in strained])
        traces = np.array([np.trace(atoms.get_stress(voigt=False)) / 3 for atoms in strained])
        assert (np.diff(traces) > 0).all()
        # dE/dV = tr(stress)/3: units and sign at once; what is left is curvature and rattle
        slope = (energies[-1] - energies[0]) / (volumes[-1] - volumes[0])
        span = traces[-1] - traces[0]
        assert abs(slope - traces.mean()) < 0.15 * span


def test_configurations_stay_near_equilibrium(demo):
    for atoms in demo:
        i, j, d = neighbor_list("ijd", atoms, 3.0)
        radii = covalent_radii[atoms.numbers]
        assert (d / (radii[i] + radii[j])).min() > 0.8, atoms.info["structure_id"]


def test_structures_are_the_crystals_of_the_script(demo, maker):
    built = {reference.name: reference.build() for reference in maker.CRYSTALS}
    assert {atoms.info["config_type"] for atoms in demo} == set(built)
    assert demo[0].info["label_source"] == maker.LABEL_SOURCE
    for atoms in demo:
        reference = built[atoms.info["config_type"]]
        np.testing.assert_array_equal(atoms.numbers, reference.numbers)
        assert atoms.get_volume() / reference.get_volume() == pytest.approx(1, abs=0.2)
        if atoms.info["structure_id"].endswith("-01"):  # the relaxation starts from the textbook cell
            np.testing.assert_allclose(atoms.positions, reference.positions, atol=1e-5)
            np.testing.assert_allclose(atoms.cell.array, reference.cell.array, atol=1e-5)


@pytest.mark.slow
def test_labels_are_chgnets(demo, maker):
    pytest.importorskip("chgnet")
    calc = maker.chgnet_calculator()
    for atoms in demo[7::80]:
        calc.calculate(atoms)
        assert float(calc.results["energy"]) == pytest.approx(atoms.get_potential_energy(), abs=1e-3)
        np.testing.assert_allclose(calc.results["forces"], atoms.get_forces(), atol=1e-3)
        np.testing.assert_allclose(calc.results["stress"], atoms.get_stress(voigt=False), atol=1e-5)


def test_silica_nets_are_whole_and_what_the_readme_says():
    content = (DATA / "silica.extxyz").read_bytes()
    digest, name = (DATA / "silica.sha256").read_text().split()
    assert (hashlib.sha256(content).hexdigest(), name) == (digest, "silica.extxyz")
    silica = read_structures("demo-silica")
    n_atoms = [len(atoms) for atoms in silica]
    line = f"{len(silica)} periodic cells, {min(n_atoms)} to {max(n_atoms)} atoms, {sum(n_atoms):,} atoms in all"
    assert line in (DATA / "README.md").read_text()
    assert len({atoms.info["structure_id"] for atoms in silica}) == len(silica)
    for atoms in silica:  # every silicon atom keeps its four oxygen atoms, each oxygen its two silicon atoms
        i = neighbor_list("i", atoms, {("O", "Si"): 2.1})
        bonds = np.bincount(i, minlength=len(atoms))
        assert {(s, n) for s, n in zip(atoms.symbols, bonds, strict=True)} == {("Si", 4), ("O", 2)}
        labels = get_labels(atoms)
        assert np.isfinite([labels.energy, *labels.forces.ravel(), *labels.stress.ravel()]).all()
        assert atoms.info["label_source"] == "CHGNet 0.3.0 (not DFT)"
