"""Ramps of temperature and pressure: what a structure loses on the way, and potentials that fail."""

import numpy as np
import pandas as pd
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.probes import ramps
from mdl_physpretrain.probes.base import Subject
from mdl_physpretrain.probes.ramps import Heating, PressureRamp, ramp


class KnowsArgon(Calculator):
    """Free atoms; an error for any element but argon."""

    implemented_properties = ("energy", "forces", "stress")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        if set(atoms.symbols) != {"Ar"}:
            raise RuntimeError("unknown element")
        self.results = {"energy": 0.0, "forces": np.zeros((len(atoms), 3)), "stress": np.zeros(6)}


def crystal(symbol):
    atoms = bulk(symbol, "fcc", a=5.3, cubic=True)
    atoms.info["structure_id"] = symbol
    return atoms


@pytest.mark.parametrize("probe", [Heating(heating_structures=2, heating_time=0.1),
                                   PressureRamp(pressure_structures=2, pressure_time=0.1)])  # fmt: skip
def test_only_structures_on_which_the_potential_fails_are_flagged(probe, monkeypatch):
    monkeypatch.setattr(ramps, "STAIRS", 3)
    monkeypatch.setattr(ramps, "HIGHEST_PRESSURE", 0.01)  # atoms without forces
    (kind,) = probe.files
    for symbols, failed in ((["Ar", "Kr"], [False, True]), (["Kr"], [True])):
        splits = {"test": [crystal(symbol) for symbol in symbols]}
        with pytest.warns(UserWarning, match="some: survives .* Kr"):
            tables = probe.tables(Subject(KnowsArgon(), "some", splits, flag_failures=True))
        assert tables[kind]["failed"].tolist() == failed
        assert probe.answer(tables)[1].endswith("the potential fails 1")
        assert (
            "fails"
            in probe.page({kind: tables[kind].assign(arm="some", seed=0)}, ["some"], "Arm").summary["reasons"][0]
        )
    with pytest.raises(StructureError):
        probe.tables(Subject(KnowsArgon(), "some", splits))


@pytest.mark.filterwarnings("error::UserWarning", "error::RuntimeWarning")
def test_constraints_and_masses_last_and_a_molecule_has_no_volume(monkeypatch):
    monkeypatch.setattr(ramps, "STAIRS", 4)
    fixed = crystal("Ar")
    fixed.set_constraint(FixAtoms([0]))
    fixed.set_masses([400.0] * 4)
    seen = []
    simulate = ramps.simulate

    def watched(potential, structures, **options):
        seen.extend(structures)
        return simulate(potential, structures, **options)

    monkeypatch.setattr(ramps, "simulate", watched)
    ramp(LennardJones(), [fixed], length=0.02)
    assert len(seen) == 4
    assert all((atoms.positions[0] == fixed.positions[0]).all() for atoms in seen)
    assert all((atoms.get_masses() == 400).all() for atoms in seen)
    assert (seen[-1].positions[1] != fixed.positions[1]).any()

    pair = Atoms("Ar2", [[0, 0, 0], [0, 0, 3.8]], info={"structure_id": "pair"})
    assert pd.isna(ramp(KnowsArgon(), [pair], length=0.02)["volume_ratio"][0])
