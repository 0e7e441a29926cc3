"""Units of labels: those that are stated, and those that nobody stated and that cannot be right."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.structures import (
    chosen_references,
    get_labels,
    read_structures,
    validate_structures,
    write_structures,
)
from mdl_physpretrain.structures.unit_checks import unit_warnings
from mdl_physpretrain.structures.units import LabelUnits


def with_labels(atoms: Atoms, *, energy=1.0, forces=1.0, stress=1.0, per_atom=False) -> Atoms:
    """EMT's labels times factors: what a file in other units holds."""
    e, f = atoms.get_potential_energy() - 3.7 * len(atoms), atoms.get_forces()
    results = {"energy": e * energy / (len(atoms) if per_atom else 1), "forces": f * forces}
    if atoms.pbc.all():
        results["stress"] = atoms.get_stress() * stress
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def data(kind: str = "strained", n: int = 30, **factors) -> list[Atoms]:
    rng = np.random.default_rng(0)
    structures = []
    for k in range(n):
        atoms = (
            molecule("CH4") if kind == "molecule" else bulk("Cu", cubic=True).repeat(1 + (kind == "sizes") * (k % 2))
        )
        if kind == "strained":
            atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(scale=0.02, size=(3, 3))), scale_atoms=True)
        atoms.rattle(0.03, seed=k)
        atoms.calc = EMT()
        structures.append(with_labels(atoms, **factors))
    return structures


@pytest.mark.parametrize("kind", ["strained", "rattled", "molecule", "sizes"])
def test_right_units_raise_no_doubt(kind):
    assert unit_warnings(data(kind)) == []


@pytest.mark.parametrize(
    ("factors", "expected"),
    [
        ({"stress": 1 / units.GPa}, "stress: GPa"),
        ({"stress": -1 / units.GPa}, "stress: -GPa"),
        ({"stress": -10 / units.GPa}, "stress: -kbar"),
        ({"stress": 10 / units.GPa}, "stress: kbar"),
        ({"stress": -1}, r"stress: -eV/Å\^3"),
        ({"forces": -1}, "forces: -eV/Å"),
        ({"energy": 1 / units.Hartree}, "energy: Hartree"),
        ({"energy": units.mol / units.kcal}, "energy: kcal/mol"),
        ({"energy": units.mol / units.kJ}, "energy: kJ/mol"),
        ({"forces": units.Bohr / units.Hartree}, "forces: Hartree/Bohr"),
        ({"forces": units.Bohr / units.Rydberg}, "forces: Rydberg/Bohr"),
        ({"forces": units.mol / units.kcal}, "forces: kcal/mol/Å"),
        ({"energy": 1 / units.Hartree, "forces": units.Bohr / units.Hartree}, "Hartree"),
    ],
)
def test_other_units_are_named(factors, expected):
    sentences = unit_warnings(data(**factors))
    assert len(sentences) == 1
    with pytest.warns(UserWarning, match=expected):
        validate_structures(data(**factors))


@pytest.mark.parametrize("kind", ["molecule", "rattled", "sizes"])
@pytest.mark.parametrize("factors", [{"forces": -1}, {"energy": 1 / units.Hartree}])
def test_other_units_without_strain(kind, factors):
    assert len(unit_warnings(data(kind, **factors))) == 1


def test_energies_per_atom():
    (sentence,) = unit_warnings(data("sizes", per_atom=True))
    assert "energy: eV/atom" in sentence


def test_stress_by_size_where_nothing_is_strained():
    structures = data("rattled")
    for atoms in structures:
        atoms.calc.results["stress"] = np.full(6, 12.0)
    assert any("GPa" in sentence for sentence in unit_warnings(structures))


@pytest.mark.parametrize(
    ("label", "name", "factor"),
    [
        ("stress", "GPa", units.GPa), ("stress", "-kbar", -units.GPa / 10), ("stress", "kB", units.GPa / 10),
        ("stress", "eV/Å³", 1.0), ("stress", "eV/A^3", 1.0), ("stress", "Ha/Bohr3", units.Hartree / units.Bohr**3),
        ("energy", "Hartree", units.Hartree), ("energy", "ha", units.Hartree), ("energy", "Ry", units.Rydberg),
        ("energy", "kcal/mol", units.kcal / units.mol), ("energy", "meV", 1e-3),
        ("forces", "Ha/Bohr", units.Hartree / units.Bohr), ("forces", "-eV/Angstrom", -1.0),
        ("forces", "kJ/mol/nm", units.kJ / units.mol / 10), ("virial", "kcal/mol", units.kcal / units.mol),
    ],
)  # fmt: skip
def test_names_of_units(label, name, factor):
    assert getattr(LabelUnits.named({label: name}), label) == pytest.approx(factor)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"stress": "GPaa"}, "did you mean 'GPa'"),
        ({"stresses": "GPa"}, "'stresses' is none of energy, forces"),
        ({"forces": "GPa"}, "no unit of forces"),
        ({"energy": "eV/Å"}, "no unit of energy"),
    ],
)
def test_wrong_units(names, message):
    with pytest.raises(ConfigError, match=message):
        LabelUnits.named(names)


def test_stated_units_are_converted(tmp_path):
    rows = "H 0 0 0 1 0 0\nH 0 0 1 -1 0 0"
    text = f'2\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3:forces:R:3 energy=-3 {{}}\n{rows}\n'
    (tmp_path / "a.xyz").write_text(text.format('stress="1 0 0 0 1 0 0 0 1"'))
    names = {"energy": "eV/atom", "forces": "kcal/mol/Å", "stress": "-kbar"}
    labels = get_labels(read_structures(tmp_path / "a.xyz", units=names)[0])
    assert labels.energy == -6.0
    assert labels.forces[0, 0] == pytest.approx(units.kcal / units.mol)
    assert labels.stress[0, 0] == pytest.approx(-0.1 * units.GPa)
    (tmp_path / "a.xyz").write_text(text.format('virial="64 0 0 0 64 0 0 0 64"'))
    labels = get_labels(read_structures(tmp_path / "a.xyz", units={"virial": "Hartree", "stress": "GPa"})[0])
    assert labels.stress[0, 0] == pytest.approx(-units.Hartree)


def test_reference_energies(tmp_path):
    cell = bulk("MgO", "rocksalt", a=4.2)
    cell.calc = SinglePointCalculator(cell, energy=-12.0)
    alone = [Atoms("Mg"), Atoms("O", cell=[12, 12, 12], pbc=True), Atoms("O", cell=[3, 3, 3], pbc=True)]
    for atoms, energy in zip(alone, (-1.5, -2.5, -9.0), strict=True):
        atoms.calc = SinglePointCalculator(atoms, energy=energy)
    assert chosen_references([cell, *alone], "isolated") == {"O": -2.5, "Mg": -1.5}
    assert chosen_references([cell], {"Mg": -1, "O": -2, "Li": 0}) == {"O": -2.0, "Mg": -1.0}
    with pytest.raises(StructureError, match=r"no isolated atom .* of O"):
        chosen_references([cell, alone[0]], "isolated")
    with pytest.raises(StructureError, match="no reference energy of O"):
        chosen_references([cell], {"Mg": -1})


@pytest.mark.parametrize("suffix", ["traj", "db", "extxyz", "json"])
@pytest.mark.parametrize("change", ["wrap", "center", "moments", "charges", "none"])
def test_labels_of_a_structure_that_changed_since(tmp_path, rocksalt, suffix, change):
    for atoms in rocksalt:
        if change == "wrap":
            atoms.positions += 3.0
            atoms.wrap()
        elif change == "center":
            atoms.center()
        elif change == "moments":
            atoms.set_initial_magnetic_moments(np.ones(len(atoms)))
        elif change == "charges":
            atoms.set_initial_charges(np.ones(len(atoms)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # ASE's use of NumPy 2.5 is another matter
        write_structures(tmp_path / f"a.{suffix}", rocksalt)
        again = read_structures(tmp_path / f"a.{suffix}")
    for a, b in zip(rocksalt, again, strict=True):
        assert get_labels(b).energy == a.calc.results["energy"]
        assert np.array_equal(get_labels(b).forces, a.calc.results["forces"])


def test_one_label_in_two_places(tmp_path, rocksalt):
    atoms = rocksalt[0]
    energy = atoms.calc.results["energy"]
    atoms.info["energy"] = energy
    read_structures(atoms)  # equal: nothing to say
    atoms.info["energy"] = energy + 1
    with pytest.warns(UserWarning, match="two values of 'energy' differ"):
        (read,) = read_structures(atoms)
    assert (get_labels(read).energy, read.info["other_energy"]) == (energy, energy + 1)
    (tmp_path / "a.json").write_text('[{"atomic_numbers": [1], "positions": [[0, 0, 0]], "y": -1, "energy": -2}]')
    with pytest.warns(UserWarning, match="two values of 'energy' differ"):
        (read,) = read_structures(tmp_path / "a.json")
    assert get_labels(read).energy == -1


@pytest.mark.parametrize("missing", [("forces",), ("stress",), ("energy", "forces")])
def test_missing_labels_are_counted(rocksalt, missing):
    for atoms in rocksalt[:3]:
        for name in missing:
            del atoms.calc.results[name]
    with pytest.warns(UserWarning, match="structures have no") as caught:
        validate_structures(rocksalt, require=())
    told = [str(w.message) for w in caught]
    for name in missing:
        assert any(f"3 of 8 structures have no {name}" in text for text in told)
