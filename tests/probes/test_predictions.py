"""Predictions beside labels: what is stored agrees with the errors, and large sets are thinned alike."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.units import GPa

from mdl_physpretrain.potentials import ZBL
from mdl_physpretrain.probes import predictions
from mdl_physpretrain.probes.accuracy import Errors
from mdl_physpretrain.probes.base import Subject
from mdl_physpretrain.structures import get_labels
from mdl_physpretrain.structures.labels import Labels, set_labels


@pytest.fixture
def metals() -> list[Atoms]:
    """Copper cells of 4 and 8 atoms; the second has no stress, the third no forces."""
    structures = []
    for k in range(3):
        atoms = bulk("Cu", "fcc", cubic=True) * (1 + k % 2, 1, 1)
        atoms.rattle(0.1, seed=k)
        atoms.info["structure_id"] = f"m/{k}"
        atoms.calc = EMT()
        energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False)
        atoms.calc = None
        set_labels(atoms, Labels(energy, None if k == 2 else forces, None if k == 1 else stress))
        structures.append(atoms)
    return structures


@pytest.mark.parametrize("potential", [LennardJones(sigma=2.3, epsilon=0.3, rc=5.0), ZBL().double()])
def test_stored_values_give_the_errors(metals, potential):
    tables = Errors().tables(Subject(potential, splits={"test": metals, "train": metals[:1]}))
    errors, table = tables["efs"].iloc[0], tables["predictions"]
    assert set(table["split"]) == {"test"}
    difference = (table["predicted"] - table["reference"]).abs().groupby(table["quantity"]).mean()
    assert difference["energy_per_atom"] == pytest.approx(errors["energy_per_atom_mae"], abs=2e-6)
    assert difference["forces"] == pytest.approx(errors["forces_mae"], abs=2e-6)
    sizes = table["quantity"].value_counts()
    assert sizes.to_dict() == {"forces": 3 * (4 + 8), "stress": 2 * 6, "energy_per_atom": 3}
    stress = table[table["quantity"] == "stress"]
    weights = stress["axis"].map(lambda axis: 1 if axis[0] == axis[1] else 2)
    mean = ((stress["predicted"] - stress["reference"]).abs() * weights).sum() / (2 * 9)
    assert mean / GPa == pytest.approx(errors["stress_mae_gpa"], abs=1e-5)
    forces = get_labels(metals[1]).forces
    row = table[(table["structure_id"] == "m/1") & (table["atom"] == 5) & (table["axis"] == "y")]
    assert row["reference"].item() == pytest.approx(forces[5, 1], abs=1e-6)


def test_of_many_a_choice_is_stored_the_same_for_every_potential(metals, monkeypatch):
    monkeypatch.setattr(predictions, "MAX_ROWS", 10)
    tables = [Errors().tables(Subject(p, splits={"test": metals}))["predictions"] for p in (EMT(), ZBL().double())]
    for table in tables:
        forces = table[table["quantity"] == "forces"]
        assert (len(forces), set(forces["of"])) == (10, {36})
    where = ["quantity", "structure_id", "atom", "axis", "reference"]
    assert tables[0][where].equals(tables[1][where])
    assert not np.allclose(tables[0]["predicted"], tables[1]["predicted"])
