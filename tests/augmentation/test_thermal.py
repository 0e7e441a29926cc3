"""Disorder of all atoms and of the cell."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.units import kB

from mdl_physpretrain.augmentation.thermal import disorder, thermal_amplitudes
from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.structures.labels import Labels, set_labels


def _cells(count: int = 3) -> list[Atoms]:
    cells = [bulk("MgO", "rocksalt", a=4.2, cubic=True) * (2, 2, 2) for _ in range(count)]
    for k, atoms in enumerate(cells):
        atoms.info["structure_id"] = f"mgo-{k}"
    return cells


def test_ladder_of_amplitudes_by_element():
    made = disorder(_cells(8), n_aug=4, amplitude={"Mg": 0.1, "O": 0.4}, compression=0.0, shear=0.0)
    assert len(made) == 32
    for k in range(4):
        rounds = [a for a in made if a.info["structure_id"].endswith(f"heat{k}")]
        for symbol, largest in (("Mg", 0.1), ("O", 0.4)):
            moves = np.concatenate([a.arrays["aug_displacement"][a.symbols == symbol] for a in rounds])
            assert moves.std() == pytest.approx(largest * (k + 1) / 4, rel=0.1)
    assert "aug_strain" not in made[0].info
    assert np.allclose(made[0].arrays["aug_displacement"].mean(axis=0), 0)


def test_cells_are_strained_within_the_limits_and_say_how():
    parents = {a.info["structure_id"]: a for a in _cells()}
    made = disorder(list(parents.values()), n_aug=10, amplitude=0.1, compression=0.05, shear=0.02)
    lengths = []
    for atoms in made:
        parent, strain = parents[atoms.info["parent_id"]], atoms.info["aug_strain"]
        assert np.allclose(strain, strain.T)
        assert np.abs(strain).max() <= 0.07
        assert np.allclose(atoms.cell.array, parent.cell.array @ (np.eye(3) + strain))
        moved = (parent.positions + atoms.arrays["aug_displacement"]) @ (np.eye(3) + strain)
        assert np.allclose(atoms.positions, moved)
        lengths.append(atoms.get_volume() / parent.get_volume())
    assert min(lengths) < 0.95
    assert max(lengths) > 1.05


def test_molecules_keep_their_cell_and_numbers_belong_to_the_structure():
    water = Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0.1]], info={"structure_id": "water"})
    (alone,) = disorder([water], n_aug=1)
    assert "aug_strain" not in alone.info
    among = [a for a in disorder([*_cells(), water], n_aug=1) if a.info["parent_id"] == "water"]
    assert np.array_equal(among[0].positions, alone.positions)


def test_amplitude_of_an_einstein_crystal():
    springs = {"Mg": 5.0, "O": 2.0}
    parents = _cells(2)
    made = disorder(parents, n_aug=3, amplitude=0.1, compression=0, shear=0)
    for atoms in parents:
        set_labels(atoms, Labels(0.0, np.full((len(atoms), 3), 0.3), None))
    for atoms in made:
        stiffness = np.array([springs[s] for s in atoms.symbols])[:, None]
        set_labels(atoms, Labels(0.0, 0.3 - stiffness * atoms.arrays["aug_displacement"], None))
    found = thermal_amplitudes(made, parents, 1000.0)
    for symbol, spring in springs.items():
        assert found[symbol] == pytest.approx(np.sqrt(kB * 1000.0 / spring))
    assert thermal_amplitudes(made, parents, 1e6, largest=0.4) == {"Mg": 0.4, "O": 0.4}
    for atoms in made:  # no restoring force at all
        set_labels(atoms, Labels(0.0, np.zeros((len(atoms), 3)), None))
        atoms.calc.results["forces"] = 0.3 + atoms.arrays["aug_displacement"]
    assert thermal_amplitudes(made, parents, 1000.0, largest=0.4) == {"Mg": 0.4, "O": 0.4}
    with pytest.raises(StructureError):
        thermal_amplitudes(made, parents[:1], 1000.0)


@pytest.mark.parametrize(
    "option", [{"n_aug": 0}, {"amplitude": -1.0}, {"amplitude": {"Mg": 0.1}}, {"shear": 0.9}, {"compression": -0.1}]
)
def test_options_out_of_range(option):
    with pytest.raises(ConfigError):
        disorder(_cells(1), **option)
