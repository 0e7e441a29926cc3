"""One file of structures, in whichever format: any failure names the file."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO, cast

import numpy as np
from ase import Atoms
from ase.db import connect
from ase.io import read, write
from ase.io.formats import UnknownFileTypeError, filetype

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.structures.extxyz import read_extxyz
from mdl_physpretrain.structures.mdl_json import parse_entries
from mdl_physpretrain.structures.packing import PACKED_ARRAYS, jsonable, pack_arrays, restore, unpack_arrays

__all__ = ["open_text", "read_file", "write_ase"]

_COMPRESSED = {".gz", ".bz2", ".xz"}
#: Arrays that ASE's traj and db formats keep by themselves.
_ASE_ARRAYS = {"numbers", "positions", "tags", "momenta", "masses", "initial_magmoms", "initial_charges"}
_DB_SUFFIXES = {".db", ".json"}  # a .json that comes here is ASE's
_INFO_IN_DB = "physpretrain_info"


def open_text(path: Path, mode: str, *, compression: str | None = None) -> TextIO:
    """Open a text file, compressed as the suffix says (``compression`` overrides it)."""
    match (compression or path.suffix).lower():
        case ".gz":
            return cast("TextIO", gzip.open(path, f"{mode}t", encoding="utf-8"))
        case ".bz2":
            return cast("TextIO", bz2.open(path, f"{mode}t", encoding="utf-8"))
        case ".xz":
            return cast("TextIO", lzma.open(path, f"{mode}t", encoding="utf-8"))
        case _:
            return cast("TextIO", path.open(mode, encoding="utf-8"))


def _read_text(path: Path) -> str:
    try:
        with open_text(path, "r") as stream:
            return stream.read()
    except UnicodeDecodeError as error:
        raise StructureError("not a text file, or damaged", file=path) from error
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise StructureError(f"the compressed file is truncated or damaged ({error})", file=path) from error
    except OSError as error:
        raise StructureError(f"cannot be read: {error.strerror or error}", file=path) from error


def read_file(path: Path, index: int | slice) -> tuple[list[int], list[Atoms]]:
    """Structures of one file and their positions in it.

    Raises
    ------
    StructureError
        If the file is missing, unreadable, empty, damaged or of a format
        nobody knows.
    """
    try:
        if path.is_dir():
            raise StructureError("is a folder; give a file or a pattern such as folder/*.extxyz", file=path)
        if not path.exists():
            raise StructureError("no such file", file=path)
        if path.stat().st_size == 0:
            raise StructureError("the file is empty", file=path)
        with path.open("rb"):
            pass
    except OSError as error:
        raise StructureError(f"cannot be read: {error.strerror or error}", file=path) from error
    suffixes = [s.lower() for s in path.suffixes if s.lower() not in _COMPRESSED]
    suffix = suffixes[-1] if suffixes else ""
    if suffix in {".xyz", ".extxyz"}:
        return read_extxyz(_read_text(path), index, path)
    if suffix == ".json":
        found = _read_json(path, index)
        if found is not None:
            return found
    return _read_with_ase(path, index, is_db=suffix in _DB_SUFFIXES)


def _read_json(path: Path, index: int | slice) -> tuple[list[int], list[Atoms]] | None:
    """MatDeepLearn's list; None for ASE's own JSON, which is a dictionary."""
    try:
        content = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise StructureError(
            f"not valid JSON at line {error.lineno}, column {error.colno} ({error.msg}); truncated or damaged",
            file=path,
        ) from error
    if isinstance(content, dict):
        if "atomic_numbers" not in content:
            return None
        content = [content]
    if not isinstance(content, list):
        raise StructureError("expected MatDeepLearn's list of structures", file=path)
    try:
        chosen = range(len(content))[index]
    except IndexError:
        raise StructureError(f"index {index} is out of range: it has {len(content)} structures", file=path) from None
    positions = [chosen] if isinstance(chosen, int) else list(chosen)
    return positions, parse_entries([content[k] for k in positions], path)


def _read_with_ase(path: Path, index: int | slice, *, is_db: bool) -> tuple[list[int], list[Atoms]]:
    # Positions in the file are known without reading all of it only for plain forward slices.
    forward = isinstance(index, slice) and (index.start or 0) >= 0 and (index.step or 1) > 0 and (index.stop or 0) >= 0
    try:
        if is_db:
            forward = False
            loaded: Atoms | list[Atoms] = _read_db(path)
        else:
            loaded = read(path, index=index if forward else slice(None))
    except UnknownFileTypeError as error:
        raise StructureError("ASE does not know this file format", file=path) from error
    except Exception as error:
        cause = str(error).strip().split("\n")[0][:200]
        raise StructureError(
            f"cannot be read, damaged or of an unexpected format ({type(error).__name__}: {cause})", file=path
        ) from error
    frames: list[Atoms] = [loaded] if isinstance(loaded, Atoms) else list(loaded)
    if forward and isinstance(index, slice):
        positions = [(index.start or 0) + k * (index.step or 1) for k in range(len(frames))]
    else:
        try:
            chosen = range(len(frames))[index]
        except IndexError:
            raise StructureError(f"index {index} is out of range: it has {len(frames)} structures", file=path) from None
        positions = [chosen] if isinstance(chosen, int) else list(chosen)
        frames = [frames[k] for k in positions]
    for atoms in frames:
        unpack_arrays(atoms)
    return positions, frames


def _read_db(path: Path) -> list[Atoms]:
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
    copy.calc = atoms.calc
    further = {name: values for name, values in atoms.arrays.items() if name not in _ASE_ARRAYS}
    info = {}
    for key, value in atoms.info.items():
        try:
            info[str(key)] = jsonable(value)
        except TypeError:
            warnings.warn(f"info[{key!r}] ({type(value).__name__}) has no JSON form: left out", stacklevel=3)
    for name in further:
        del copy.arrays[name]
    if further:
        info[PACKED_ARRAYS] = pack_arrays(further)
    return copy, info


def write_ase(part: Path, path: Path, structures: Sequence[Atoms]) -> None:
    """Write with ASE to ``part`` in the format that ``path``'s suffix names.

    Raises
    ------
    StructureError
        If the format is unknown or cannot hold these structures.
    """
    suffix = path.suffix.lower()
    if suffix == ".db":
        _write_db(part, structures)
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


def _write_db(part: Path, structures: Sequence[Atoms]) -> None:
    with connect(part, type="db", append=False) as database:
        for atoms in structures:
            copy, info = _packed(atoms)
            # JSON text: ASE's own encoding would not restore the types of everything
            database.write(copy, data={_INFO_IN_DB: json.dumps(info, default=np.ndarray.tolist)})
