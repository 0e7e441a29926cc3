"""One file of structures, read or written in the format that its suffix names."""

from __future__ import annotations

import bz2
import gzip
import itertools
import json
import lzma
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from ase import Atoms
from ase.io import iread

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.files import replacing
from mdl_physpretrain.structures.ase_formats import read_with_ase, write_with_ase
from mdl_physpretrain.structures.extxyz import iterate_extxyz, read_extxyz, write_extxyz
from mdl_physpretrain.structures.matdeeplearn_json import read_entries, write_entries
from mdl_physpretrain.structures.selection import parse_index

__all__ = ["iterate_file", "read_file", "write_structures"]

_OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def _open_text(path: Path, mode: str, compression: str) -> TextIO:
    """Open a text file, compressed as the suffix ``compression`` says."""
    return _OPENERS.get(compression.lower(), open)(path, f"{mode}t", encoding="utf-8")


def _format_suffix(path: Path) -> str:
    """The suffix that names the format, that of a compression left aside."""
    suffixes = [s.lower() for s in path.suffixes if s.lower() not in _OPENERS]
    return suffixes[-1] if suffixes else ""


def _read_text(path: Path) -> str:
    try:
        with _open_text(path, "r", path.suffix) as stream:
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
    suffix = _format_suffix(path)
    if suffix in {".xyz", ".extxyz"}:
        return read_extxyz(_read_text(path), index, path)
    if suffix == ".json":
        try:
            content = json.loads(_read_text(path))
        except json.JSONDecodeError as error:
            raise StructureError(
                f"not valid JSON at line {error.lineno}, column {error.colno} ({error.msg}); truncated or damaged",
                file=path,
            ) from error
        if not isinstance(content, dict) or "atomic_numbers" in content:  # else it is ASE's own JSON
            return read_entries(content, index, path)
    return read_with_ase(path, index, is_database=suffix in {".db", ".json"})


def iterate_file(path: str | Path, index: str | int | slice = ":", **options: Any) -> Iterator[Atoms]:
    """Structures of one file, one by one: (ext)xyz read as strictly as elsewhere, other formats by ``ase.io.iread``.

    Parameters
    ----------
    path
        Long trajectories do not have to fit into memory.
    index
        Which ones, as in ``ase.io.read``.
    **options
        Of ``ase.io.iread``; ``format`` overrules the suffix.

    Raises
    ------
    StructureError
        If the file is missing or damaged; it names the frame.
    """
    path = Path(path)
    if path.is_dir():
        raise StructureError("is a folder; give a file or a pattern such as folder/*.extxyz", file=path)
    if not path.is_file():
        raise StructureError("no such file", file=path)
    kind = options.get("format") or ("extxyz" if _format_suffix(path) in {".xyz", ".extxyz"} else None)
    count = 0
    try:
        if kind in {"xyz", "extxyz"}:
            with _open_text(path, "r", path.suffix) as stream:
                yield from _selected(iterate_extxyz(stream, path), index)
            return
        for atoms in iread(str(path), index=index, **options):
            yield atoms
            count += 1
    except (StructureError, GeneratorExit):
        raise
    except Exception as error:  # every reader has its own way of failing on a damaged file
        cause = str(error).strip().split("\n")[0][:200]
        raise StructureError(f"cannot read frame {count}: {cause}", file=path) from error


def _selected(frames: Iterator[Atoms], index: str | int | slice) -> Iterator[Atoms]:
    chosen = parse_index(index)
    if isinstance(chosen, slice) and all(v is None or v >= 0 for v in (chosen.start, chosen.stop, chosen.step)):
        return itertools.islice(frames, chosen.start, chosen.stop, chosen.step)
    selected = list(frames)[chosen]
    return iter(selected if isinstance(selected, list) else [selected])


def write_structures(path: str | Path, structures: Atoms | Iterable[Atoms]) -> None:
    """Write structures with labels, identifiers and provenance.

    The suffix decides: ``.extxyz``/``.xyz`` (exact), ``.json`` (MatDeepLearn's list),
    ``.db`` and ``.traj`` keep everything; other formats of ASE hold the geometry
    and warn of what they lose. The first two take one structure after the other
    from an iterator. The file is complete or not there: it is
    written beside its place as ``.part`` and then moved.

    Raises
    ------
    StructureError
        If the folder cannot be written or the format is unknown.
    """
    path = Path(path)
    structures = [structures] if isinstance(structures, Atoms) else structures
    write_text = {".xyz": write_extxyz, ".extxyz": write_extxyz, ".json": write_entries}.get(_format_suffix(path))
    try:
        with replacing(path) as part:
            if write_text is None:
                write_with_ase(part, path, list(structures))
            else:
                with _open_text(part, "w", path.suffix) as stream:
                    write_text(stream, structures)
    except OSError as error:
        raise StructureError(f"cannot be written: {error.strerror or error}", file=path) from error
