"""Formats read and written by ASE: databases and trajectories with everything, others as far as they go."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import read, write
from ase.io.formats import UnknownFileTypeError, filetype

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.structures.ase_doubts import examine_file
from mdl_physpretrain.structures.json_values import json_entries, pack_arrays, restore, unpack_arrays
from mdl_physpretrain.structures.labels import stored_results
from mdl_physpretrain.structures.selection import selected_positions

__all__ = ["read_with_ase", "write_with_ase"]

#: Arrays that ASE's traj and db formats keep by themselves.
_ASE_ARRAYS = {"numbers", "positions", "tags", "momenta", "masses", "initial_magmoms", "initial_charges"}
_INFO_IN_DB = "physpretrain_info"


def read_with_ase(path: Path, index: int | slice, *, is_database: bool) -> tuple[list[int], list[Atoms]]:
    """Structures of one file and their positions in it.

    Raises StructureError for an unknown format or a damaged file.
    """
    # Positions in the file are known without reading all of it only for plain forward slices.
    forward = (
        not is_database
        and isinstance(index, slice)
        and (index.start or 0) >= 0
        and (index.step or 1) > 0
        and (index.stop or 0) >= 0
    )
    try:
        frames = _read_database(path) if is_database else read(path, index=index if forward else slice(None))
    except UnknownFileTypeError as error:
        raise StructureError(f"ASE does not know this file format{_hint(path)}", file=path) from error
    except Exception as error:
        cause = ": ".join(filter(None, (type(error).__name__, str(error).strip().split("\n")[0][:200])))
        raise StructureError(
            f"cannot be read, damaged or of an unexpected format ({cause}){_hint(path)}", file=path
        ) from error
    frames = [frames] if isinstance(frames, Atoms) else list(frames)
    if forward and isinstance(index, slice):
        positions = [(index.start or 0) + k * (index.step or 1) for k in range(len(frames))]
    else:
        positions = selected_positions(len(frames), index, path)
        frames = [frames[k] for k in positions]
    examine_file(path, None if is_database else _kind(path), frames, positions)
    return positions, [unpack_arrays(atoms) for atoms in frames]


def _hint(path: Path) -> str:
    """What to do about a file whose name does not say that it is extxyz; else nothing."""
    try:
        with path.open(encoding="utf-8") as file:
            count, comment = (file.readline(2000).strip() for _ in range(2))
    except (OSError, UnicodeDecodeError):
        return ""
    if not (count.isdigit() and re.search(r"\b(Lattice|Properties)=", comment)):
        return ""
    return f"; its content looks like extxyz, so call it {path.with_suffix('.extxyz').name}"


def _kind(path: Path) -> str | None:
    """ASE's name of the format."""
    try:
        return str(filetype(str(path)))
    except Exception:  # it was read all the same, by its content
        return None


def _read_database(path: Path) -> list[Atoms]:
    """All rows of an ASE database; key-value pairs and data, which ``ase.io`` drops, go to ``info``."""
    structures = []
    for row in connect(path, serial=True).select():
        atoms = row.toatoms()
        data = dict(row.get("data") or {})
        ours = data.pop(_INFO_IN_DB, None)
        info = {**row.key_value_pairs, **data, **(json.loads(ours) if isinstance(ours, str) else {})}
        atoms.info.update({key: restore(value) for key, value in info.items()})
        structures.append(atoms)
    return structures


def _packed(atoms: Atoms) -> tuple[Atoms, dict[str, Any]]:
    """A copy whose other arrays and ``info`` have JSON types, and that ``info``."""
    copy = atoms.copy()
    results = {name: value for name, value in stored_results(atoms).items() if value is not None}
    if results:  # labels of its own: ASE drops those of a calculator whose structure was wrapped or given moments since
        copy.calc = SinglePointCalculator(copy, **results)
    further = {name: copy.arrays.pop(name) for name in atoms.arrays if name not in _ASE_ARRAYS}
    return copy, json_entries(atoms.info) | pack_arrays(further)


def write_with_ase(part: Path, path: Path, structures: Sequence[Atoms]) -> None:
    """Write to ``part`` in the format of ``path``'s suffix.

    Raises StructureError if it cannot hold these structures.
    """
    if path.suffix.lower() == ".db":
        with connect(part, type="db", append=False) as database:
            for atoms in structures:
                copy, info = _packed(atoms)
                # JSON text: ASE's own encoding would not restore the types of everything
                database.write(copy, data={_INFO_IN_DB: json.dumps(info, default=np.ndarray.tolist)})
        return
    try:
        kind = filetype(str(path), read=False)
        if kind == "traj":
            images = []
            for atoms in structures:
                image, info = _packed(atoms)
                image.info = info
                images.append(image)
            write(part, images, format=kind)
            return
        lost = sorted({key for atoms in structures for key in atoms.info} | {"labels" for a in structures if a.calc})
        if lost:
            warnings.warn(
                f"{path}: the format {kind!r} may not hold {', '.join(lost[:6])}; "
                "extxyz, json, db and traj keep everything",
                stacklevel=3,
            )
        write(part, list(structures) if len(structures) != 1 else structures[0], format=kind)
    except UnknownFileTypeError as error:
        raise StructureError("ASE does not know this file format", file=path) from error
    except OSError:
        raise
    except Exception as error:
        raise StructureError(
            f"cannot be written in this format ({type(error).__name__}: {error})", file=path
        ) from error
