"""Wrong input ends in a message that names what is wrong."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms

from mdl_physpretrain.dynamics import simulate
from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.potentials import CGCNN


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"ensemble": "nph"}, "ensemble must be one of"),
        ({"engine": "fast"}, "engine must be one of"),
        ({"temperature": -1}, "temperature must not be negative"),
        ({"temperature": float("nan")}, "temperature must be a finite number"),
        ({"ensemble": "npt", "temperature": 0}, "above 0 K"),
        ({"timestep": 0}, "timestep must be positive"),
        ({"steps": 1.5}, "steps must be an integer"),
        ({"steps": -1}, "steps must be an integer"),
        ({"friction": -0.1}, "friction must not be negative"),
        ({"interval": 0}, "interval must be an integer of at least 1"),
        ({"stop_on": ("melting",)}, "stop_on must be one of"),
        ({"initial_velocities": "cold"}, "initial_velocities must be one of"),
        ({"skin": -1}, "skin must lie in"),
        ({"skin": 1e9}, "skin must lie in"),
        ({"steps": 10**12}, "steps must be at most"),
        ({"friction": 10.0}, "the unit is 1/fs"),
        ({"max_batch_atoms": 0}, "max_batch_atoms must be at least 1"),
        ({"trajectory_format": "xyz"}, "trajectory_format must be one of"),
    ],
)
def test_options_out_of_range(options, match, eam, mgo):
    with pytest.raises(ConfigError, match=match):
        simulate(eam, mgo, **{"steps": 1, **options})


def test_empty_list(eam):
    with pytest.raises(ConfigError, match="no structures"):
        simulate(eam, [])


def damaged(case: str, mgo: list[Atoms]) -> list[Atoms]:
    if case == "nan":
        mgo[1].positions[2, 0] = np.nan
    elif case == "twice":
        mgo[1].info["structure_id"] = "mgo-0"
    elif case == "coincident":
        mgo[1].positions[3] = mgo[1].positions[4] + mgo[1].cell[0]
    elif case == "no cell":
        mgo[1].cell[:] = 0
    elif case == "no atoms":
        mgo[1] = Atoms(info={"structure_id": "mgo-1"})
    elif case == "element":
        mgo[1].symbols[0] = "U"
    return mgo


@pytest.mark.parametrize("engine", ["ase", "batched"])
@pytest.mark.parametrize(
    ("case", "match"),
    [
        ("nan", "mgo-1.*positions.*NaN"),
        ("twice", "mgo-0.*twice"),
        ("coincident", "mgo-1.*atoms 3 and 4 are at the same place"),
        ("no cell", "mgo-1.*without a cell vector"),
        ("no atoms", "mgo-1.*no atoms"),
        ("element", "mgo-1.*element U is unknown"),
    ],
)
def test_damaged_structures_are_named(case, match, engine, eam, mgo):
    with pytest.raises(StructureError, match=match):
        simulate(eam, damaged(case, mgo), steps=1, engine=engine)


def test_npt_needs_a_three_dimensional_cell(eam, mgo, zoo):
    for name in ("molecule", "slab"):
        atoms = zoo[name]
        atoms.info["structure_id"] = name
        with pytest.raises(ConfigError, match=f"npt.*{name}"):
            simulate(eam, [mgo[0], atoms], ensemble="npt", steps=1)


def test_elements_the_model_was_not_trained_on(mgo):
    model = CGCNN(cutoff=4.0, dim1=4, dim2=4, gc_count=1)
    model.metadata = {"elements": ["Mg", "Li"]}
    with pytest.raises(StructureError, match="not trained on O"):
        simulate(model, mgo, steps=1)


def test_engines_and_potentials_must_fit(eam, mgo):
    with pytest.raises(ConfigError, match="needs an EnergyModel"):
        simulate(EMT(), mgo, engine="batched", steps=1)
    with pytest.raises(ConfigError, match="must be an EnergyModel"):
        simulate("eam", mgo, steps=1)
    with pytest.raises(ConfigError, match="returned int"):
        simulate(lambda: 3, mgo, steps=1)
    with pytest.raises(StructureError, match=r"mgo-0.*calculator failed"):
        simulate(EMT(), mgo, steps=1)  # EMT knows neither Mg nor O as such
    mgo[2].set_constraint(FixAtoms([0]))
    with pytest.raises(ConfigError, match="mgo-2 has constraints"):
        simulate(eam, mgo, engine="batched", steps=1)
    runs = simulate(eam, mgo[2:3], steps=5)  # auto takes the ASE engine
    np.testing.assert_array_equal(runs[0].positions[0], mgo[2].positions[0])


def test_npt_needs_stress(mgo):
    class NoStress(Calculator):
        implemented_properties = ("energy", "forces")

        def calculate(self, atoms=None, properties=(), system_changes=()):
            super().calculate(atoms, properties, system_changes)
            self.results = {"energy": 0.0, "forces": np.zeros((len(atoms), 3))}

    with pytest.raises(ConfigError, match="NoStress lacks"):
        simulate(NoStress(), mgo, ensemble="npt", steps=1)
    simulate(NoStress(), mgo, ensemble="nvt", steps=1)


def test_structures_are_left_alone_and_may_lack_ids(eam, mgo):
    for atoms in mgo:
        del atoms.info["structure_id"]
    before = [atoms.copy() for atoms in mgo]
    runs = simulate(eam, mgo, steps=3)
    assert len({r.structure_id for r in runs}) == 4
    assert all(r.structure_id.endswith(f"-{k}") for k, r in enumerate(runs))
    assert all(a == b and a.info == b.info and not a.has("momenta") for a, b in zip(mgo, before, strict=True))


def test_unwritable_trajectory_folder(eam, mgo, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StructureError, match="cannot write trajectories"):
        simulate(eam, mgo, steps=1, trajectory_dir=tmp_path / "file")


@pytest.mark.parametrize("ensemble", ["nvt", "nve", "npt"])
def test_constraints_that_nobody_can_count_are_refused(ensemble: str) -> None:
    class Uncounted(FixAtoms):
        def get_removed_dof(self, atoms):
            raise NotImplementedError

    atoms = bulk("Cu", cubic=True)
    atoms.info["structure_id"] = "cu"
    atoms.set_constraint(Uncounted([0]))
    with pytest.raises(ConfigError, match=r"structure cu has constraints \(Uncounted\) whose degrees of freedom"):
        simulate(EMT(), [atoms], ensemble=ensemble, steps=1)
