"""Thermal amplitudes by a teacher."""

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.units import kB

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.teacher.amplitudes import amplitudes_at


class Springs(Calculator):
    """Atoms tied to lattice points at multiples of 2.1 Å."""

    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        away = atoms.positions - 2.1 * np.round(atoms.positions / 2.1)
        spring = np.where(atoms.symbols == "Mg", 6.0, 1.5)[:, None]
        self.results = {"energy": float(0.5 * np.sum(spring * away**2)), "forces": -spring * away}


def _cells(count):
    cells = [bulk("MgO", "rocksalt", a=4.2, cubic=True) for _ in range(count)]
    for k, atoms in enumerate(cells):
        atoms.info["structure_id"] = f"mgo-{k}"
    return cells


def test_amplitudes_of_springs():
    found = amplitudes_at(Springs(), _cells(5), 1000.0, factor=1.5)
    for symbol, spring in (("Mg", 6.0), ("O", 1.5)):
        assert found[symbol] == pytest.approx(1.5 * np.sqrt(kB * 1000 / spring), rel=0.05)  # less the common motion


def test_a_rare_element_is_not_missed():
    cells = _cells(120)
    cells[77].symbols[0] = "Ca"
    assert set(amplitudes_at(Springs(), cells, 300.0)) == {"Ca", "Mg", "O"}


@pytest.mark.parametrize("option", [{"temperature": 0.0}, {"temperature": 300.0, "factor": -1.0}])
def test_options_out_of_range(option):
    with pytest.raises(ConfigError):
        amplitudes_at(Springs(), _cells(1), **option)
