"""The hash of a structure, by which it is recognised in another file or process."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from ase import Atoms

from mdl_physpretrain.structures.labels import get_labels

__all__ = ["structure_hash"]


def structure_hash(
    atoms: Atoms, *, labels: bool = False, velocities: bool = False, masses: bool = False, size: int = 16
) -> str:
    """BLAKE2b hash (``size`` bytes, hexadecimal) of species, positions, cell and periodicity.

    Identifier, constraints and other data do not count; labels, velocities and masses where asked for. Raises
    StructureError with ``labels``, if one is not finite or of a wrong shape.
    """
    digest = blake2b(digest_size=size)
    for array, dtype in (
        (atoms.numbers, "<i8"),
        (atoms.positions, "<f8"),
        (atoms.cell.array, "<f8"),
        (atoms.pbc, "?"),
    ):
        digest.update(np.ascontiguousarray(array, dtype=dtype).tobytes())
    further = {"masses": atoms.get_masses()} if masses else {}
    if velocities:
        further["velocities"] = atoms.get_velocities()
    if labels:
        further |= vars(get_labels(atoms))
    for name, value in further.items():
        digest.update(f"|{name}|".encode())
        if value is not None:
            digest.update(np.ascontiguousarray(value, dtype="<f8").tobytes())
    return digest.hexdigest()
