"""Export of the EAM as a LAMMPS ``eam/fs`` table (Finnis-Sinclair form of setfl)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from ase.data import atomic_masses, atomic_numbers, covalent_radii
from torch import Tensor

from mdl_physpretrain.errors import CheckpointError, ConfigError
from mdl_physpretrain.files import replacing
from mdl_physpretrain.potentials.eam.model import EAM

__all__ = ["lammps_commands", "write_eam_fs"]

PER_LINE = 5


def write_eam_fs(
    eam: EAM, path: str | Path, *, n_r: int = 10_000, n_rho: int = 50_000, elements: Sequence[str] | None = None
) -> Path:
    """Write an EAM as an ``eam/fs`` file for LAMMPS, ASE or OpenKIM (https://docs.lammps.org/pair_eam.html).

    The atomic energies go into the embedding function, the ZBL core into the pair function. LAMMPS and ASE interpolate
    with cubic splines between ``n_r`` distances and ``n_rho`` densities. Densities are tabulated up to that of twelve
    neighbours at half the sum of covalent radii; LAMMPS continues the embedding linearly. ``elements``: these only; a
    table grows with their square (85 elements: 2.7 GB). Raises ConfigError if the tables are too short, the core
    reaches beyond the cutoff or an element is not there.
    """
    if min(n_r, n_rho) < 100:
        raise ConfigError(f"eam/fs needs tables of at least 100 points, not {min(n_r, n_rho)}")
    model = eam.restricted(eam.elements if elements is None else elements).double().cpu()
    r = torch.linspace(0.0, model.cutoff, n_r, dtype=torch.float64)
    highest = _highest_density(model)
    path = Path(path)
    try:
        with replacing(path) as part, part.open("w") as file:
            file.writelines(f"{line}\n" for line in _lines(model, r, highest, n_rho))
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error}") from error
    return path


def _lines(model: EAM, r: Tensor, highest: float, n_rho: int) -> Iterator[str]:
    """The lines of the file, one after the other: those of many elements would not fit into memory."""
    n_r, rho = len(r), torch.linspace(0.0, highest, n_rho, dtype=torch.float64)
    yield from (
        "EAM written by mdl_physpretrain: Morse pair, exponential density, quadratic embedding ",
        f"core: {'ZBL' if model.core is not None else 'none'}; energies in eV, distances in Angstrom",
        "atomic energies are part of the embedding function",
        f"{len(model.elements)} {' '.join(model.elements)}",
        f"{n_rho} {highest / (n_rho - 1):.16e} {n_r} {model.cutoff / (n_r - 1):.16e} {model.cutoff:.16e}",
    )
    model.requires_grad_(False)
    for e, symbol in enumerate(model.elements):
        yield f"{atomic_numbers[symbol]} {atomic_masses[atomic_numbers[symbol]]:.6f} 0.0 none"
        yield from _rows(model.embedding(rho, torch.tensor(e))[0] + model.base_atomic_energy[e])
        for other in range(len(model.elements)):
            yield from _rows(model.density_function(r, model.pair_of[e, other].expand(n_r))[0])
    for a in range(len(model.elements)):
        for b in range(a + 1):
            yield from _rows(_pair_times_r(model, r, a, b))


def lammps_commands(eam: EAM, path: str | Path) -> str:
    """The lines of a LAMMPS input that use the file; types in the order of ``eam.elements``."""
    return f"units metal\npair_style eam/fs\npair_coeff * * {path} {' '.join(eam.elements)}\n"


def _pair_times_r(model: EAM, r: Tensor, a: int, b: int) -> Tensor:
    """``r V(r)`` in eV Å, the core included, shape like ``r``."""
    product = model.pair_function(r, model.pair_of[a, b].expand(len(r)))[0] * r
    if model.core is None:
        return product
    number_a, number_b = (torch.full((len(r),), atomic_numbers[model.elements[k]]) for k in (a, b))
    reach = float(model.core.end[number_a[0], number_b[0]])
    if reach > model.cutoff:
        raise ConfigError(f"the ZBL core reaches {reach:.2f} Å, beyond the cutoff of {model.cutoff:g} Å")
    near = r.clamp_min(1e-3)  # r V of the core is finite at zero, V is not
    return product + model.core.pair_terms(number_a, number_b, near)[0] * near


def _highest_density(model: EAM) -> float:
    """The density of twelve neighbours at half the sum of covalent radii, or twice rho0."""
    z = [atomic_numbers[e] for e in model.elements]
    index = {e: k for k, e in enumerate(model.elements)}
    contact = torch.tensor([covalent_radii[z[index[a]]] + covalent_radii[z[index[b]]] for a, b in model.pairs])
    with torch.no_grad():
        density = model.density_function(0.5 * contact.double(), torch.arange(len(model.pairs)))[0]
        return float(torch.cat([12 * density, 2 * model.rho0]).abs().max().clamp_min(1.0))


def _rows(values: Tensor) -> Iterator[str]:
    array = values.numpy()
    if not np.isfinite(array).all():
        raise ConfigError("the EAM's functions are not finite everywhere: it cannot be tabulated")
    for start in range(0, len(array), PER_LINE):
        yield " ".join(f"{v:.16e}" for v in array[start : start + PER_LINE])
