"""Values as JSON, and per-atom arrays that a file format has no column for.

Formats differ in which per-atom arrays they keep: extxyz has no columns for
(n, 3, 3) arrays or strings with blanks, ASE's traj and db keep only the arrays
ASE knows. Such arrays travel as JSON in ``info[PACKED_ARRAYS]``.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from ase import Atoms

from mdl_physpretrain.errors import StructureError

__all__ = ["PACKED_ARRAYS", "json_entries", "jsonable", "pack_arrays", "restore", "unpack_arrays"]

PACKED_ARRAYS = "physpretrain_arrays"


def jsonable(value: Any) -> Any:
    """A value as JSON types (NumPy arrays and scalars become lists and numbers).

    Raises TypeError if it has no JSON form.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic | np.ndarray):
        return jsonable(value.tolist())
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if hasattr(value, "symbol") and type(value).__name__ == "Spacegroup":
        return value.symbol
    raise TypeError(f"{type(value).__name__} has no JSON form")


def json_entries(info: Mapping[Any, Any]) -> dict[str, Any]:
    """Entries of ``info`` as JSON types; a warning names those that have no JSON form and are left out."""
    entries = {}
    for key, value in info.items():
        try:
            entries[str(key)] = jsonable(value)
        except TypeError:
            warnings.warn(f"info[{key!r}] ({type(value).__name__}) has no JSON form: left out", stacklevel=3)
    return entries


def restore(value: Any) -> Any:
    """The inverse of :func:`jsonable` as ASE's readers do it: lists of numbers become arrays."""
    if isinstance(value, list):
        try:
            array = np.array(value)
        except (OverflowError, ValueError):  # ragged, or an integer beyond 64 bits
            return value
        return array if array.dtype.kind in "ifb" else value
    return value


def pack_arrays(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """An ``info`` entry that holds the arrays' dtypes and values; none without arrays."""
    packed = {
        name: {"dtype": "O" if array.dtype.kind in "OUS" else array.dtype.str, "values": array.tolist()}
        for name, array in arrays.items()
    }
    return {PACKED_ARRAYS: packed} if packed else {}


def unpack_arrays(atoms: Atoms) -> Atoms:
    """Restore (in place) the arrays packed into ``info``."""
    packed = atoms.info.pop(PACKED_ARRAYS, None)
    if isinstance(packed, dict):
        for name, entry in packed.items():
            try:
                values = np.array(entry["values"], dtype=entry["dtype"])
            except (KeyError, OverflowError, TypeError, ValueError) as error:
                raise StructureError(f"a packed array is damaged ({error})", field=str(name)) from None
            if values.ndim < 1 or len(values) != len(atoms):
                raise StructureError(f"shape {values.shape} of a packed array of {len(atoms)} atoms", field=str(name))
            atoms.arrays[name] = values
    return atoms
