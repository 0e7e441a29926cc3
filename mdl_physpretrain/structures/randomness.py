"""Random numbers that belong to a structure, not to its place in a list."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from ase import Atoms

from mdl_physpretrain.errors import ConfigError, StructureError

__all__ = ["derived_seed", "require_unique_ids", "stable_id", "structure_rng"]


def stable_id(atoms: Atoms) -> str:
    """The structure's identifier, or one made from its content when it has none.

    A formula alone would be shared by all frames of a trajectory; the hash of
    species, positions, cell and periodicity is not, and does not depend on the
    order of the list.
    """
    if "structure_id" in atoms.info:
        return str(atoms.info["structure_id"])
    digest = blake2b(digest_size=6)
    for array, dtype in (
        (atoms.numbers, "<i8"),
        (atoms.positions, "<f8"),
        (atoms.cell.array, "<f8"),
        (atoms.pbc, "?"),
    ):
        digest.update(np.ascontiguousarray(array, dtype=dtype).tobytes())
    return f"{atoms.get_chemical_formula()}-{digest.hexdigest()}"


def require_unique_ids(structures: Sequence[Atoms], what: str) -> list[str]:
    """Identifiers of all structures.

    Raises
    ------
    StructureError
        If two structures share one: their random numbers and their
        augmented structures could not be told apart.
    """
    seen: dict[str, int] = {}
    for k, atoms in enumerate(structures):
        name = stable_id(atoms)
        if name in seen:
            raise StructureError(
                f"{what} {seen[name]} and {k} have the same identifier; make them unique",
                structure=name,
                field="structure_id",
            )
        seen[name] = k
    return list(seen)


def structure_rng(seed: int, identifier: str) -> np.random.Generator:
    """Generator of one structure: the same in any order, subset or process.

    Parameters
    ----------
    seed
        Non-negative integer of the whole augmentation.
    identifier
        The structure's id; its 64-bit BLAKE2b hash joins the seed (Python's
        own ``hash`` differs from process to process).

    Raises
    ------
    ConfigError
        If the seed is negative or not an integer.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ConfigError(f"seed must be a non-negative integer, not {seed!r}")
    key = int.from_bytes(blake2b(identifier.encode(), digest_size=8).digest(), "little")
    return np.random.default_rng(np.random.SeedSequence([int(seed), key]))


def derived_seed(seed: int, purpose: str) -> int:
    """An independent seed for one purpose within a run's seed.

    The purpose is the same for all arms of a run: the same initial weights,
    starting velocities and noise, so that arms are compared in pairs.
    """
    return int(np.random.SeedSequence([seed, zlib.crc32(purpose.encode())]).generate_state(1)[0] & 0x7FFFFFFF)
