"""Extended XYZ, read strictly and written exactly.

ASE's reader stops silently at a blank line and cannot say which line is
damaged; its writer rounds positions and forces to 1e-8 and turns the
identifier "007" into the number 7. Here the file says where it is broken, and
what is written is read back bit for bit (a resumed run equals an
uninterrupted one). The files are ordinary extxyz for ASE and others.
"""

from __future__ import annotations

import io
import itertools
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixCartesian
from ase.stress import full_3x3_to_voigt_6_stress

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.structures.extxyz_columns import atomic_numbers_of, columns_of, read_columns
from mdl_physpretrain.structures.extxyz_comment import parse_comment
from mdl_physpretrain.structures.json_values import PACKED_ARRAYS, jsonable, pack_arrays, unpack_arrays
from mdl_physpretrain.structures.labels import full_stress, stored_results
from mdl_physpretrain.structures.selection import selected_positions

__all__ = ["iterate_extxyz", "read_extxyz", "write_extxyz"]

_PER_ATOM = ("forces", "stresses", "charges", "magmoms", "energies")
_PER_STRUCTURE = ("energy", "free_energy", "stress", "dipole", "magmom")
_RESERVED_COLUMNS = {
    "species", "pos", "Z", "charge", "move_mask", "symbols", "symbol", "element", "elements",
    "positions", "numbers", "atomic_numbers", "initial_charges", *_PER_ATOM,
}  # fmt: skip
_PLAIN_WORD = re.compile(r"[A-Za-z][\w./:+-]*", re.ASCII)
_BOOLEANS = {"T", "F", "true", "false", "True", "False", "TRUE", "FALSE"}


class RawFrame(NamedTuple):
    """The lines of one frame, and the number of its comment line."""

    line: int
    comment: str
    rows: list[str]


def raw_frames(lines: Iterable[str], file: str | Path) -> Iterator[RawFrame]:
    """Frames of (extended) XYZ text, one by one; blank lines between them are skipped.

    Raises
    ------
    StructureError
        With line and frame where the text is malformed or ends too early.
    """
    numbered = enumerate(lines, start=1)
    count, last = 0, ""
    rows: list[str] = []
    for number, last in numbered:
        if not last.strip():
            continue
        if not re.fullmatch(r"\s*\d+\s*", last, re.ASCII):
            raise StructureError(
                f"line {number}: expected a number of atoms, found {last.strip()[:40]!r}", file=file, structure=count
            )
        n_atoms = int(last)
        following = list(itertools.islice(numbered, n_atoms + 1))
        rows = [text for _, text in following[1:] if text.strip()]
        if not following or len(rows) < n_atoms:
            raise StructureError(
                f"{len(rows)} of {n_atoms} atoms present after line {number}; the file is truncated or damaged",
                file=file,
                structure=count,
            )
        last = following[-1][1]
        if not last.endswith("\n"):
            _refuse_cut_number(rows, file, count)
        yield RawFrame(number + 1, following[0][1], rows)
        count += 1


def iterate_extxyz(lines: Iterable[str], file: str | Path) -> Iterator[Atoms]:
    """Frames of (extended) XYZ text as structures, one by one, the text read only as far as needed.

    Raises
    ------
    StructureError
        With line and frame where the text is malformed or ends too early.
    """
    for k, frame in enumerate(raw_frames(lines, file)):
        yield _structure(frame, k, file)


def read_extxyz(text: str, index: slice | int, file: str | Path) -> tuple[list[int], list[Atoms]]:
    """Parse (extended) XYZ text.

    Parameters
    ----------
    text
        The content of the file.
    index
        Which frames to build.
    file
        Named in errors.

    Returns
    -------
    positions, structures
        The frames' positions in the file, and the frames.

    Raises
    ------
    StructureError
        With line and frame where the text is malformed or ends too early.
    """
    frames = list(raw_frames(io.StringIO(text), file))
    positions = selected_positions(len(frames), index, file)
    return positions, [_structure(frames[k], k, file) for k in positions]


def _structure(frame: RawFrame, k: int, file: str | Path) -> Atoms:
    try:
        return _parse_frame(frame, file)
    except StructureError as error:
        raise error.at(file=file, structure=k) from error
    except (ValueError, TypeError, IndexError, KeyError, OverflowError) as error:
        raise StructureError(f"line {frame.line}: {error}", file=file, structure=k) from error


def _refuse_cut_number(rows: Sequence[str], file: str | Path, frame: int) -> None:
    """A cut inside the very last number leaves a readable but wrong number."""
    decimals = [len(words[-1].partition(".")[2]) for row in rows if (words := row.split())]
    fixed = len(decimals) > 1 and len(set(decimals[:-1])) == 1
    if fixed and decimals[-1] < decimals[0]:
        raise StructureError(
            f"the last number {rows[-1].split()[-1]!r} is cut off; the file is truncated", file=file, structure=frame
        )
    if not fixed:
        warnings.warn(f"{file}: no newline at the end; if the file was cut off, its last number is wrong", stacklevel=4)


def _parse_frame(frame: RawFrame, file: str | Path) -> Atoms:
    try:
        info = parse_comment(frame.comment, file)
    except StructureError as error:
        raise StructureError(f"line {frame.line}: {error.message}", field=error.field) from error
    lattice = info.pop("Lattice", None)
    pbc = info.pop("pbc", lattice is not None)
    if isinstance(pbc, str) or np.size(pbc) not in (1, 3) or not np.isin(np.asarray(pbc), [0, 1]).all():
        raise StructureError(f"{str(pbc)[:40]!r} is not one or three of T and F", field="pbc")
    columns = columns_of(str(info.pop("Properties", "species:S:1:pos:R:3")))
    rows = [row.split() for row in frame.rows]
    arrays = read_columns(rows, columns, frame.line + 1)
    width = sum(n for _, _, n in columns)
    if any(len(row) > width for row in rows):
        warnings.warn(
            f"{file}: columns behind the first {width} have no name in Properties and are not read", stacklevel=4
        )
    numbers, positions = atomic_numbers_of(arrays, file)
    info = {key: value.item() if isinstance(value, np.generic) else value for key, value in info.items()}
    if "structure_id" in info:
        info["structure_id"] = str(info["structure_id"])
    atoms = Atoms(
        numbers,
        positions=positions,
        charges=arrays.pop("initial_charges", None),
        cell=None if lattice is None else np.asarray(lattice).T,
        pbc=pbc,
        info=info,
    )
    mask = arrays.pop("move_mask", None)
    if mask is not None:
        atoms.set_constraint(_constraints(mask.astype(bool)))
    results: dict[str, Any] = {}
    for name, array in arrays.items():
        ase_name = "charges" if name == "charge" else name
        if ase_name in _PER_ATOM and array.dtype.kind != "b":  # T and F are no labels
            results[ase_name] = array
        else:
            atoms.arrays[ase_name] = array
    for name in _PER_STRUCTURE:
        value = atoms.info.get(name)
        if name in atoms.info and not isinstance(value, bool):
            del atoms.info[name]
            results[name] = full_3x3_to_voigt_6_stress(value) if np.shape(value) == (3, 3) else value
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return unpack_arrays(atoms)


def _constraints(movable: np.ndarray) -> list[Any]:
    if movable.ndim == 1:
        return [FixAtoms(mask=~movable)]
    return [FixCartesian(a, mask=~row) for a, row in enumerate(movable) if not row.all()]


def _move_mask(atoms: Atoms) -> np.ndarray | None:
    """True where a coordinate may move, (n,) or (n, 3); None without constraints."""
    if not atoms.constraints:
        return None
    mask = np.ones((len(atoms), 3), dtype=bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            mask[constraint.index] = False
        elif isinstance(constraint, FixCartesian):
            mask[constraint.index] &= ~np.asarray(constraint.mask, dtype=bool)
        else:
            warnings.warn(f"extxyz cannot hold the constraint {type(constraint).__name__}: left out", stacklevel=2)
    if mask.all():
        return None
    return mask[:, 0] if (mask == mask[:, :1]).all() else mask


def _quote(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _quote_numbers(values: np.ndarray) -> str:
    return _quote(" ".join(map(repr, values.ravel().tolist())))


def _as_json(value: Any) -> str:
    return _quote("_JSON " + json.dumps(jsonable(value)))


def _info_text(key: str, value: Any) -> str | None:
    """One ``key=value`` that ASE's parser reads back as the same value."""
    if key in {"stress", "virial"}:
        array = np.asarray(value, dtype=np.float64)
        if array.size not in (6, 9):
            return None
        return _quote_numbers(full_stress(array).T)  # columns first, as the format has it
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return "T" if value else "F"
    if isinstance(value, int) and abs(value) < 2**62:
        return str(value)
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            if value not in _BOOLEANS and _PLAIN_WORD.fullmatch(value):
                return value
        return _as_json(value)
    if isinstance(value, np.ndarray) and value.ndim == 1 and value.size > 1 and value.dtype.kind in "if":
        return _quote_numbers(value)
    return _as_json(value)


def _column(values: np.ndarray) -> tuple[str, list[list[str]]] | None:
    """Type letter and words of an array's columns; None if it does not fit into columns."""
    if values.ndim not in (1, 2) or (values.ndim == 2 and values.shape[1] < 2):
        return None
    rows = values.reshape(len(values), -1).tolist()
    match values.dtype.kind:
        case "f" if values.dtype.itemsize <= 8:
            return "R", [list(map(repr, row)) for row in rows]
        case "i" | "u" if not values.size or np.abs(values).max() < 2**31:
            return "I", [list(map(str, row)) for row in rows]
        case "b":
            return "L", [["T" if v else "F" for v in row] for row in rows]
        case "U" | "O":
            if all(isinstance(v, str) and v and not re.search(r"\s", v) for row in rows for v in row):
                return "S", rows
    return None


def write_extxyz(stream: TextIO, structures: Iterable[Atoms]) -> None:
    """Write structures with every label, ``info`` entry and array, exactly.

    Values without a text form are left out with a warning that names the key.
    """
    for atoms in structures:
        _write_frame(stream, atoms)


def _write_frame(stream: TextIO, atoms: Atoms) -> None:
    results = stored_results(atoms)
    names, words = ["species:S:1", "pos:R:3"], [[[s] for s in atoms.symbols]]
    words.append([list(map(repr, row)) for row in atoms.positions.tolist()])
    packed: dict[str, np.ndarray] = {}

    def add(name: str, values: np.ndarray) -> None:
        column = _column(values)
        if column is None or re.search(r"[\s:]", name):
            packed[name] = values
        else:
            width = len(column[1][0]) if column[1] else (1 if values.ndim == 1 else values.shape[1])
            names.append(f"{name}:{column[0]}:{width}")
            words.append(column[1])

    mask = _move_mask(atoms)
    if mask is not None:
        add("move_mask", mask)
    for name in _PER_ATOM:
        if results.get(name) is not None:
            add("charge" if name == "charges" else name, np.asarray(results[name]))
    for name, values in atoms.arrays.items():
        if name == "forces" and results.get("forces") is None:
            add(name, values)  # a label that was never put on a calculator
        elif name == "initial_charges":
            add(name, values)
        elif name in {"numbers", "positions"}:
            continue
        elif name in _RESERVED_COLUMNS or name.lower() in _RESERVED_COLUMNS:
            packed[name] = values
        else:
            add(name, values)

    info = {k: v for k, v in atoms.info.items() if k not in {"Lattice", "Properties", "pbc", PACKED_ARRAYS}}
    if "structure_id" in info:
        info["structure_id"] = str(info["structure_id"])
    info.update({k: results[k] for k in _PER_STRUCTURE if results.get(k) is not None})
    info |= pack_arrays(packed)
    comment = []
    if atoms.cell.array.any():
        comment.append(f"Lattice={_quote_numbers(atoms.cell.array)}")
    comment.append("Properties=" + ":".join(names))
    for key, value in info.items():
        try:
            text = _info_text(str(key), value)
        except (TypeError, ValueError):
            text = None
        if text is None:
            warnings.warn(f"info[{key!r}] ({type(value).__name__}) has no extxyz form: left out", stacklevel=2)
            continue
        name = str(key) if re.fullmatch(r"[\w.:/+-]+", str(key)) else _quote(str(key))
        comment.append(f"{name}={text}")
    comment.append('pbc="' + " ".join("T" if p else "F" for p in atoms.pbc) + '"')
    stream.write(f"{len(atoms)}\n{' '.join(comment)}\n")
    for parts in zip(*words, strict=True):
        stream.write(" ".join(word for part in parts for word in part) + "\n")
