"""The exported table gives our numbers, in ASE and in LAMMPS itself."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators import eam as ase_eam
from ase.calculators.lammps import Prism
from ase.units import bar
from typer.testing import CliRunner

from mdl_physpretrain.cli import app
from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.graphs.batch import build_batch
from mdl_physpretrain.potentials import EAM, predict
from mdl_physpretrain.teacher.lammps import lammps_commands, write_eam_fs

SYMBOLS = ["O", "Mg", "Si", "Al"]


def potential(n_elements: int, core: bool = True) -> EAM:
    torch.manual_seed(n_elements)
    model = EAM(SYMBOLS[:n_elements], cutoff=5.0, n_basis=3, core=core).double()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1 + 0.3 * torch.rand_like(p))
        model.base_atomic_energy.mul_(-3)
    return model


def crystal(n_elements: int) -> Atoms:
    rng = np.random.default_rng(n_elements)
    cell = [[5.4, 0, 0], [0.8, 5.2, 0], [-0.5, 0.7, 5.6]]
    grid = np.array(np.meshgrid([0, 1], [0, 1], [0, 1])).reshape(3, -1).T / 2
    atoms = Atoms((SYMBOLS[:n_elements] * 8)[:8], scaled_positions=grid, cell=cell, pbc=True)
    atoms.positions += rng.normal(scale=0.15, size=(8, 3))
    return atoms


def ours(model: EAM, atoms: Atoms) -> tuple[float, np.ndarray, np.ndarray]:
    out = predict(model, build_batch(atoms, model.cutoff, torch.float64))
    return float(out.energy), out.forces.detach().numpy(), out.stress[0].detach().numpy()


@pytest.mark.parametrize("n_elements", [1, 2, 3, 4])
def test_ase_reads_our_numbers_from_the_table(n_elements: int, tmp_path: Path) -> None:
    model, atoms = potential(n_elements), crystal(n_elements)
    energy, forces, _ = ours(model, atoms)
    atoms.calc = ase_eam.EAM(potential=str(write_eam_fs(model, tmp_path / "x.eam.fs", n_rho=5000)), form="fs")
    assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-7 * len(atoms))
    assert np.abs(atoms.get_forces() - forces).max() < 1e-5 * max(1, np.abs(forces).max())


@pytest.mark.parametrize("n_elements", [1, 2, 3, 4])
@pytest.mark.parametrize("core", [True, False])
def test_lammps_gives_our_energy_forces_and_stress(n_elements: int, core: bool, tmp_path: Path) -> None:
    lammps = lammps_module()
    model, atoms = potential(n_elements, core), crystal(n_elements)
    path = write_eam_fs(model, tmp_path / "x.eam.fs")
    energy, forces, stress = ours(model, atoms)
    found = run_zero(lammps, atoms, model.elements, lammps_commands(model, path))
    assert found[0] == pytest.approx(energy, abs=1e-6 * len(atoms))
    assert np.abs(found[1] - forces).max() < 1e-5 * max(1, np.abs(forces).max())
    assert np.abs(found[2] - stress).max() < 1e-6 * max(1, np.abs(stress).max())
    assert np.abs(stress - np.diag(np.diag(stress))).max() > 1e-4  # shear components are tested, too


def test_on_the_command_line(tmp_path: Path) -> None:
    potential(2).save(tmp_path / "eam.pt")
    words = ["export-lammps", str(tmp_path / "eam.pt"), "--points", "500", "--density-points", "500"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "pair_style eam/fs" in result.output
    assert (tmp_path / "eam.eam.fs").is_file()


def test_what_cannot_be_tabulated_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 100 points"):
        write_eam_fs(potential(1), tmp_path / "x", n_r=10)
    far = EAM(["Cs"], cutoff=3.0, core=True)
    with pytest.raises(ConfigError, match="core reaches"):
        write_eam_fs(far, tmp_path / "x", n_r=200, n_rho=200)


def lammps_module() -> Any:
    for library in sorted(Path(sys.prefix, "lib").glob("libmpi.so.12")):
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)  # of the package mpich, which LAMMPS' wheel needs
    try:
        from lammps import lammps

        lammps(cmdargs=["-log", "none", "-screen", "none"]).close()
    except (ImportError, OSError) as error:
        pytest.skip(f"LAMMPS is not installed: {error}")
    return lammps


def run_zero(lammps: Any, atoms: Atoms, elements: list[str], commands: str) -> tuple[float, np.ndarray, np.ndarray]:
    prism = Prism(atoms.cell.array)
    xhi, yhi, zhi, xy, xz, yz = prism.get_lammps_prism()
    program = lammps(cmdargs=["-log", "none", "-screen", "none"])
    program.commands_string(
        "units metal\natom_style atomic\natom_modify map array\nbox tilt large\n"
        f"region b prism 0 {xhi} 0 {yhi} 0 {zhi} {xy} {xz} {yz} units box\ncreate_box {len(elements)} b"
    )
    positions = prism.vector_to_lammps(atoms.positions, wrap=True)
    for symbol, (x, y, z) in zip(atoms.symbols, positions, strict=True):
        program.command(f"create_atoms {elements.index(symbol) + 1} single {x:.15g} {y:.15g} {z:.15g} units box")
    program.commands_string(commands.split("\n", 1)[1] + "compute p all pressure NULL virial\n")
    program.commands_string("thermo_style custom pe pxx pyy pzz pyz pxz pxy\nrun 0")
    energy = program.get_thermo("pe")
    xx, yy, zz, yz, xz, xy = (-program.get_thermo(k) * bar for k in ("pxx", "pyy", "pzz", "pyz", "pxz", "pxy"))
    order = np.argsort(program.numpy.extract_atom("id")[: len(atoms)])
    forces = program.numpy.extract_atom("f")[: len(atoms)][order].copy()
    program.close()
    stress = prism.tensor2_to_ase(np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]))
    return energy, prism.vector_to_ase(forces), stress
