"""The columns of an extended XYZ frame: arrays, and what atoms they are."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from mdl_physpretrain.errors import StructureError

__all__ = ["atomic_numbers_of", "columns_of", "read_columns"]

_SPECIES = ("species", "symbols", "symbol", "element", "elements")
_CHARGES = ("Z", "numbers", "atomic_numbers")  # of the nuclei
_POSITIONS = ("pos", "positions")
_TRUTHS = ("T", "True", "true", "TRUE", "1", "F", "False", "false", "FALSE", "0")
#: Arrays that ASE knows by name, with the columns that they have.
_WIDTHS = {"momenta": 3, "masses": 1, "tags": 1, "initial_charges": 1, "charge": 1, "charges": 1, "energies": 1}


def columns_of(properties: str) -> list[tuple[str, str, int]]:
    """Name, type and width of every column that ``Properties`` names.

    Raises
    ------
    StructureError
        If it is malformed, or names a column twice.
    """
    words = properties.split(":")
    if len(words) % 3 or not all(re.fullmatch(r"\d+", words[k]) and int(words[k]) for k in range(2, len(words), 3)):
        raise StructureError(f"{properties!r} is not a list of name:type:columns", field="Properties")
    columns = [(_canonical(words[k]), words[k + 1].upper(), int(words[k + 2])) for k in range(0, len(words), 3)]
    wrong = [kind for _, kind, _ in columns if kind not in {*"RISL"}]
    if wrong:
        raise StructureError(f"unknown column type {wrong[0]!r} (R, I, S or L)", field="Properties")
    names = [name for name, _, _ in columns]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise StructureError(f"the column {twice!r} occurs twice", field="Properties")
    for name, kind, width in columns:
        if name in _WIDTHS and (width != _WIDTHS[name] or kind not in "RI"):
            raise StructureError(f"{kind}:{width} where R:{_WIDTHS[name]} was expected", field=name)
    return columns


def _canonical(name: str) -> str:
    lower = name.lower()
    return lower if lower in (*_SPECIES, *_POSITIONS, "move_mask") else name


def read_columns(
    rows: Sequence[list[str]], columns: Sequence[tuple[str, str, int]], line: int
) -> dict[str, np.ndarray]:
    """Arrays of one frame by the name of their column; ``line`` is that of the first atom.

    Raises
    ------
    StructureError
        If a row is too short or a word is not of the column's type.
    """
    width = sum(n for _, _, n in columns)
    for k, row in enumerate(rows):
        if len(row) < width:
            raise StructureError(f"line {line + k}: {len(row)} columns instead of {width}")
    arrays, first = {}, 0
    for name, kind, n in columns:
        words = np.array([row[first : first + n] for row in rows], dtype=object).reshape(len(rows), n)
        arrays[name] = _convert(name, kind, words, line)[:, 0 if n == 1 else slice(None)]
        first += n
    return arrays


def _convert(name: str, kind: str, words: np.ndarray, line: int) -> np.ndarray:
    if kind == "S":
        return words
    if kind == "L":
        wrong = ~np.isin(words.astype(str), _TRUTHS)
        if wrong.any():
            raise StructureError(f"{words[wrong][0]!r} is neither T nor F", field=name)
        return np.isin(words.astype(str), _TRUTHS[:5])
    dtype = np.float64 if kind == "R" else np.int64
    try:
        text = "".join(words.ravel().tolist())
        if "_" in text or not text.isascii():  # Python's 1_0 and digits of other scripts
            raise ValueError
        return words.astype(dtype)
    except (ValueError, OverflowError):
        for k, row in enumerate(words):
            try:
                row.astype(dtype)
                plain = not any("_" in word or not word.isascii() for word in row)
            except (ValueError, OverflowError):
                plain = False
            if not plain:
                message = f"line {line + k}: {' '.join(row)!r} is not numeric"
                raise StructureError(message, field=name) from None
        raise


def atomic_numbers_of(arrays: dict[str, np.ndarray], file: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Take atomic numbers (n,) and positions (n, 3) out of the columns.

    Elements are a column of symbols, of atomic numbers, or both if they agree.
    Where ``numbers`` does not agree with the symbols (it may count the atoms),
    it becomes ``other_numbers`` with a warning.

    Raises
    ------
    StructureError
        If there is no column of elements or positions, an element does not
        exist, or two columns contradict each other.
    """
    of_columns: dict[str, np.ndarray] = {}
    for name in (*_SPECIES, *_CHARGES):
        if name not in arrays or (of_columns and name not in {"Z", "numbers", "species"}):
            continue
        if arrays[name].ndim != 1:
            raise StructureError("more than one column of elements", field=name)
        if name == "numbers" and of_columns:
            counted = arrays.pop(name)
            if not np.array_equal(counted, next(iter(of_columns.values()))):
                warnings.warn(
                    f"{file}: the column 'numbers' does not hold atomic numbers; kept as 'other_numbers'", stacklevel=5
                )
                arrays["other_numbers"] = counted
            continue
        of_columns[name] = _elements(arrays.pop(name), name)
    if not of_columns:
        raise StructureError("no column of elements", field="species")
    (name, numbers), *others = of_columns.items()
    for other, values in others:
        if not np.array_equal(values, numbers):
            atom = int(np.flatnonzero(values != numbers)[0])
            a, b = chemical_symbols[numbers[atom]], chemical_symbols[values[atom]]
            raise StructureError(f"atom {atom} is {a} in the column {name!r} and {b} in {other!r}", field=other)
    if "pos" in arrays:
        positions = arrays.pop("pos")
        if "positions" in arrays:
            arrays["other_positions"] = arrays.pop("positions")
    else:
        positions = arrays.pop("positions", np.zeros(0))
    if positions.shape != (len(numbers), 3) or positions.dtype.kind not in "if":
        raise StructureError("no three columns of positions", field="pos")
    return numbers, positions


def _elements(values: np.ndarray, name: str) -> np.ndarray:
    """Atomic numbers of symbols, or of numbers that are whole and exist."""
    numbers = []
    for value in values.tolist():
        text = value if isinstance(value, str) else ""
        number = atomic_numbers.get(text.capitalize(), 0) if text.isalpha() else 0
        if not number:
            try:
                exact = float(value)
                number = int(exact) if exact == round(exact) else 0
            except (ValueError, OverflowError):
                number = 0
        if isinstance(value, bool) or not 1 <= number < len(chemical_symbols):
            raise StructureError(f"unknown element {value!r}", field=name)
        numbers.append(number)
    return np.array(numbers, dtype=int)
