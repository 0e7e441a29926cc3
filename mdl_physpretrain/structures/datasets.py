"""Named data sets: the shipped ones, and public ones of load-atoms."""

from __future__ import annotations

import difflib
import os
from importlib.resources import files
from pathlib import Path

from ase import Atoms

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.files import nameable
from mdl_physpretrain.structures.formats import read_file
from mdl_physpretrain.structures.label_keys import normalise_labels

__all__ = ["PUBLIC_DATASETS", "SHIPPED", "demo_structures", "load_public", "shipped_configuration", "shipped_file"]

#: Names and files of the data that come with the package.
SHIPPED = {"demo": "demo.extxyz", "demo-silica": "silica.extxyz"}

#: Names offered when a name is misspelt (load-atoms knows its full list only online).
PUBLIC_DATASETS = (
    "P-GAP-20",
    "SiO2-GAP-22",
    "SiOx-ACE-24",
    "Si-GAP-18",
    "C-GAP-17",
    "C-GAP-20U",
    "GST-GAP-22",
    "a-Si-24",
    "QM7",
    "QM9",
    "rMD17",
)
_MIRROR_SUFFIXES = (".extxyz", ".xyz", ".extxyz.gz", ".xyz.gz", ".json", ".db", ".traj")


def shipped_file(name: str) -> Path:
    """Where a shipped data set is; raises KeyError for another name than those of :data:`SHIPPED`."""
    return Path(str(files("mdl_physpretrain") / "data" / SHIPPED[name]))


def shipped_configuration() -> Path:
    """Where the configuration of the demo is: ``physpretrain run demo``."""
    return Path(str(files("mdl_physpretrain") / "data" / "demo.yaml"))


def demo_structures(name: str = "demo") -> list[Atoms]:
    """A small data set shipped with the package, by its name in :data:`SHIPPED`.

    Raises
    ------
    StructureError
        If the package was installed without its data.
    """
    path = shipped_file(name)
    if not path.is_file():
        raise StructureError("the shipped demo data is missing; reinstall the package", file=path)
    return [normalise_labels(atoms, file=name) for atoms in read_file(path, slice(None))[1]]


def load_public(name: str, *, root: str | Path | None = None) -> list[Atoms]:
    """A public dataset by its load-atoms name, e.g. ``"P-GAP-20"`` or ``"SiO2-GAP-22"``.

    Parameters
    ----------
    name
        See https://jla-gardner.github.io/load-atoms/.
    root
        A folder: a file ``<name>.extxyz`` (.xyz, .json, .db, .traj, or gzipped)
        in it or in ``<root>/<name>/`` is read without load-atoms and without
        network; else load-atoms downloads to it. Default:
        ``$PHYSPRETRAIN_DATASETS``, else load-atoms' own.

    Returns
    -------
    list of ase.Atoms
        Labels still where load-atoms puts them (``info``, ``arrays``).

    Raises
    ------
    StructureError
        If load-atoms is not installed, does not know the name, or cannot
        download.
    """
    if not name or Path(name).name != name:
        raise StructureError(f"{name!r} is not a dataset's name", field="load-atoms")
    folder = root or os.environ.get("PHYSPRETRAIN_DATASETS") or None
    if folder is not None:
        folder = nameable(folder)
        for place in (folder, folder / name):
            for suffix in _MIRROR_SUFFIXES:
                if (place / f"{name}{suffix}").is_file():
                    return read_file(place / f"{name}{suffix}", slice(None))[1]
    try:
        from load_atoms.database.backend import load_dataset_by_id
    except ImportError as error:
        raise StructureError(
            "load-atoms is not installed: pip install 'mdl-physpretrain[datasets]'", file=f"load-atoms:{name}"
        ) from error
    try:
        # not load_dataset(), which would take a file of this name in the working folder
        dataset = load_dataset_by_id(name, Path.home() / ".load-atoms" if folder is None else folder)
    except Exception as error:
        near = difflib.get_close_matches(name, PUBLIC_DATASETS, n=1, cutoff=0.6)
        hint = f"; did you mean {near[0]!r}?" if near and near[0] != name else ""
        cause = error.__cause__ or error
        why = str(cause).split("\n")[0][:160]
        raise StructureError(
            f"cannot be loaded{hint} ({type(cause).__name__}: {why}). Without network, put {name}.extxyz "
            "into a folder and name it in PHYSPRETRAIN_DATASETS",
            file=f"load-atoms:{name}",
        ) from error
    return [_thaw(atoms) for atoms in dataset]


def _thaw(atoms: Atoms) -> Atoms:
    """A writable copy (load-atoms freezes the structures of its large datasets)."""
    copy = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc, info=dict(atoms.info))
    for key, values in atoms.arrays.items():
        if key not in {"numbers", "positions"}:
            copy.arrays[key] = values.copy()
    copy.calc = atoms.calc
    return copy
