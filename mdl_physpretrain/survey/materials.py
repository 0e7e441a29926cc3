"""Textbook crystals that a survey is made on, built by ASE."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.spacegroup import crystal

from mdl_physpretrain.errors import ConfigError

__all__ = ["material_names", "materials"]

LEAST_ATOMS = 8  # smaller cells are repeated: a Lindemann index needs pairs

#: Lattices at room temperature, of R. W. G. Wyckoff, *Crystal Structures* (Wiley, 1963-1971).
CRYSTALS: dict[str, Callable[[], Atoms]] = {
    "Al": lambda: bulk("Al", "fcc", a=4.05, cubic=True),
    "Cu": lambda: bulk("Cu", "fcc", a=3.615, cubic=True),
    "Fe": lambda: bulk("Fe", "bcc", a=2.867, cubic=True),
    "Mg": lambda: bulk("Mg", "hcp", a=3.209, c=5.211),
    "Si": lambda: bulk("Si", "diamond", a=5.431, cubic=True),
    "C": lambda: bulk("C", "diamond", a=3.567, cubic=True),
    "GaAs": lambda: bulk("GaAs", "zincblende", a=5.653, cubic=True),
    "NaCl": lambda: bulk("NaCl", "rocksalt", a=5.64, cubic=True),
    "MgO": lambda: bulk("MgO", "rocksalt", a=4.212, cubic=True),
    "Li2O": lambda: bulk("OLi2", "fluorite", a=4.619, cubic=True),
    "LiCoO2": lambda: crystal(
        ["Li", "Co", "O"], [(0, 0, 0), (0, 0, 0.5), (0, 0, 0.2395)], spacegroup=166,
        cellpar=[2.816, 2.816, 14.05, 90, 90, 120],
    ),
    "SrTiO3": lambda: crystal(
        ["Sr", "Ti", "O"], [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)], spacegroup=221, cellpar=[3.905] * 3 + [90] * 3
    ),
    "TiO2": lambda: crystal(
        ["Ti", "O"], [(0, 0, 0), (0.3053, 0.3053, 0)], spacegroup=136, cellpar=[4.594, 4.594, 2.959, 90, 90, 90]
    ),
    "SiO2": lambda: crystal(
        ["Si", "O"], [(0.4697, 0, 1 / 3), (0.4133, 0.2672, 0.2144)], spacegroup=152,
        cellpar=[4.916, 4.916, 5.4054, 90, 90, 120],
    ),
    "CO2": lambda: crystal(["C", "O"], [(0, 0, 0), (0.1185, 0.1185, 0.1185)], spacegroup=205,
                           cellpar=[5.624] * 3 + [90] * 3),
}  # fmt: skip


def material_names() -> list[str]:
    """Of all crystals of a survey: metals, covalent and ionic crystals, oxides with and without lithium, dry ice."""
    return list(CRYSTALS)


def materials(names: Sequence[str] | None = None) -> list[Atoms]:
    """Crystals by name, with ids.

    Parameters
    ----------
    names
        Of :func:`material_names`; ``None``: all.

    Returns
    -------
    list of Atoms
        Eight atoms at least (a small cell is doubled along its shortest edges), perfect, ``info["structure_id"]`` the
        name.

    Raises
    ------
    ConfigError
        If there is no crystal of that name.
    """
    chosen = material_names() if names is None else list(names)
    built = []
    for name in dict.fromkeys(chosen):
        if name not in CRYSTALS:
            raise ConfigError(f"there is no material {name!r}; there are {', '.join(CRYSTALS)}")
        made = CRYSTALS[name]()
        atoms = Atoms(made.numbers, made.positions, cell=made.cell, pbc=True)
        while len(atoms) < LEAST_ATOMS:
            repeats = [1, 1, 1]
            repeats[int(np.argmin(atoms.cell.lengths()))] = 2
            atoms = atoms.repeat(repeats)
        atoms.info["structure_id"] = name
        built.append(atoms)
    return built
