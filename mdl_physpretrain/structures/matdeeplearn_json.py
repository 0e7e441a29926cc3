"""MatDeepLearn's JSON: a list of dictionaries, one per structure.

Keys: ``structure_id``, ``atomic_numbers``, ``positions`` (Å), ``cell`` (3, 3),
``y`` (energy in eV: a number or nested lists around one), ``forces`` (eV/Å),
``stress`` (eV/Å³, ``[[3x3]]``), optionally ``pbc``, and any further key, which
MatDeepLearn reads on request as "additional attribute". Format as read by
MatDeepLearn's ``DataProcessor.json_wrap`` (Fung-Lab/MatDeepLearn_dev).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import dict2constraint
from ase.data import chemical_symbols
from ase.stress import full_3x3_to_voigt_6_stress

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.structures.json_values import (
    PACKED_ARRAYS,
    json_entries,
    jsonable,
    pack_arrays,
    restore,
    unpack_arrays,
)
from mdl_physpretrain.structures.labels import full_stress, stored_results
from mdl_physpretrain.structures.selection import selected_positions

__all__ = ["read_entries", "write_entries"]

_KNOWN = {"structure_id", "atomic_numbers", "positions", "cell", "pbc", "y", "forces", "stress"}
#: Names of the per-atom entries, further results (charges, ...), constraints and entries whose names collide.
_ARRAYS, _RESULTS, _CONSTRAINTS, _COLLIDING = "_arrays", "_results", "_constraints", "_info"
_RESERVED = _KNOWN | {_ARRAYS, _RESULTS, _CONSTRAINTS, _COLLIDING}


def read_entries(content: Any, index: int | slice, file: str | Path) -> tuple[list[int], list[Atoms]]:
    """Structures of a decoded file and their positions in it; raises StructureError naming entry and key."""
    entries = [content] if isinstance(content, dict) else content
    if not isinstance(entries, list):
        raise StructureError("expected MatDeepLearn's list of structures", file=file)
    positions = selected_positions(len(entries), index, file)
    structures = []
    for k in positions:
        entry = entries[k]
        if not isinstance(entry, dict):
            raise StructureError(f"expected a dictionary, found {type(entry).__name__}", file=file, structure=k)
        try:
            structures.append(_parse(entry))
        except StructureError as error:
            name = entry.get("structure_id")
            raise error.at(file=file, structure=k if name is None else name) from error
    return positions, structures


def _numbers(entry: dict[str, Any], key: str, shape: tuple[int, ...], dtype: type = float) -> np.ndarray:
    try:
        values = np.array(entry[key], dtype=float)
        if dtype is int and not np.array_equal(values, np.trunc(np.clip(values, -(10**9), 10**9))):
            raise ValueError
        return values.astype(dtype).reshape(shape)
    except KeyError:
        raise StructureError("the key is missing", field=key) from None
    except (OverflowError, TypeError, ValueError):
        expected = " x ".join(str(n) for n in shape) if shape != (-1,) else "a list of"
        raise StructureError(f"expected {expected} numbers", field=key) from None


def _parse(entry: dict[str, Any]) -> Atoms:
    numbers = _numbers(entry, "atomic_numbers", (-1,), int)
    unknown = next((int(z) for z in numbers if not 1 <= z < len(chemical_symbols)), None)
    if unknown is not None:
        raise StructureError(f"unknown element: atomic number {unknown}", field="atomic_numbers")
    n = len(numbers)
    has_cell = entry.get("cell") is not None
    cell = _numbers(entry, "cell", (3, 3)) if has_cell else np.zeros((3, 3))
    pbc = entry.get("pbc")
    pbc = np.any(cell != 0, axis=1) if pbc is None else np.ravel(pbc).astype(bool)
    if pbc.size not in (1, 3):
        raise StructureError("expected three booleans", field="pbc")
    atoms = Atoms(
        numbers, positions=_numbers(entry, "positions", (n, 3)), cell=cell, pbc=pbc if pbc.size == 3 else bool(pbc[0])
    )
    results: dict[str, Any] = {k: restore(v) for k, v in _typed(entry, _RESULTS, dict).items()}
    if entry.get("y") is not None and any(v is not None for v in np.ravel(np.array(entry["y"], dtype=object))):
        results["energy"] = float(_numbers(entry, "y", (1,))[0])
    if entry.get("forces") is not None:
        results["forces"] = _numbers(entry, "forces", (n, 3))
    if entry.get("stress") is not None:
        six = np.size(entry["stress"]) == 6
        stress = _numbers(entry, "stress", (6,) if six else (3, 3))
        results["stress"] = stress if six else full_3x3_to_voigt_6_stress(stress)
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    if entry.get("structure_id") is not None:
        name = entry["structure_id"]
        atoms.info["structure_id"] = str(name[0] if isinstance(name, list) and len(name) == 1 else name)
    per_atom = _typed(entry, _ARRAYS, list) if entry.get(_ARRAYS) is not None else None
    for key, value in entry.items():
        if key in _RESERVED:
            continue
        plain = restore(value)
        is_vectors = isinstance(plain, np.ndarray) and plain.shape == (n, 3) and plain.dtype.kind in "if"
        # Foreign files do not say what is per atom: only (n, 3) vectors are taken for it.
        if (key in per_atom) if per_atom is not None else is_vectors:
            atoms.arrays[key] = plain if isinstance(plain, np.ndarray) else np.array(plain)
        else:
            atoms.info[key] = plain
    for key, value in _typed(entry, _COLLIDING, dict).items():
        atoms.info[key] = restore(value)
    wrong = next((name for name, values in atoms.arrays.items() if np.ndim(values) < 1 or len(values) != n), None)
    if wrong is not None:
        raise StructureError(f"expected a value for each of {n} atoms", field=wrong)
    try:
        atoms.set_constraint([dict2constraint(c) for c in _typed(entry, _CONSTRAINTS, list)])
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise StructureError(f"not constraints of ASE ({error})", field=_CONSTRAINTS) from None
    return unpack_arrays(atoms)


def _typed(entry: dict[str, Any], key: str, kind: type) -> Any:
    """An entry of our own, empty where it is not there."""
    value = entry.get(key)
    if value is None:
        return kind()
    if not isinstance(value, kind):
        raise StructureError(f"expected a {kind.__name__}, found {type(value).__name__}", field=key)
    return value


def _entry(atoms: Atoms) -> dict[str, Any]:
    results = dict(stored_results(atoms))
    energy, forces, stress = (results.pop(name, None) for name in ("energy", "forces", "stress"))
    entry: dict[str, Any] = {
        "structure_id": str(atoms.info["structure_id"]) if "structure_id" in atoms.info else None,
        "atomic_numbers": atoms.numbers.tolist(),
        "positions": atoms.positions.tolist(),
        "cell": atoms.cell.array.tolist(),
        "pbc": atoms.pbc.tolist(),
        "y": None if energy is None else float(energy),  # MatDeepLearn needs the key, null is NaN there
    }
    if forces is not None:
        entry["forces"] = np.asarray(forces).tolist()
    if stress is not None:
        entry["stress"] = [full_stress(np.asarray(stress, dtype=float)).tolist()]
    per_atom: list[str] = []
    packed: dict[str, np.ndarray] = {}
    for name, values in atoms.arrays.items():
        if name in {"numbers", "positions"}:
            continue
        if (
            name in _RESERVED
            or name in atoms.info
            or values.dtype not in (np.float64, np.int64, np.bool_)
            or values.size == 0
        ):
            packed[name] = values
        else:
            entry[name] = values.tolist()
            per_atom.append(name)
    entry[_ARRAYS] = per_atom
    info = {k: v for k, v in atoms.info.items() if k not in {"structure_id", PACKED_ARRAYS}}
    entries = json_entries(info | pack_arrays(packed))
    colliding = {key: value for key, value in entries.items() if key in _RESERVED}
    entry.update((key, value) for key, value in entries.items() if key not in _RESERVED)
    if colliding:
        entry[_COLLIDING] = colliding
    further = {k: jsonable(v) for k, v in results.items() if v is not None}
    if further:
        entry[_RESULTS] = further
    if atoms.constraints:
        entry[_CONSTRAINTS] = [jsonable(c.todict()) for c in atoms.constraints]
    return entry


def write_entries(stream: TextIO, structures: Iterable[Atoms]) -> None:
    """Write MatDeepLearn's list, one structure per line."""
    stream.write("[\n")
    for k, atoms in enumerate(structures):
        stream.write(("" if k == 0 else ",\n") + json.dumps(_entry(atoms)))
    stream.write("\n]\n")
