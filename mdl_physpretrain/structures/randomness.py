"""Random number generators that belong to a structure, not to its place in a list.

A structure is augmented and simulated with two independent streams, both made
of a seed and the structure's identifier alone. BLAKE2b stands in for Python's
own ``hash``, which differs from process to process.
"""

from __future__ import annotations

import zlib
from hashlib import blake2b

import numpy as np

from mdl_physpretrain.errors import ConfigError

__all__ = ["derived_seed", "structure_rng", "trajectory_rng"]


def structure_rng(seed: int, identifier: str) -> np.random.Generator:
    """Generator of a structure's augmentation: the same in any order, subset or process.

    Parameters
    ----------
    seed
        Non-negative integer of the whole augmentation.
    identifier
        The structure's id; its 64-bit hash joins the seed.

    Raises
    ------
    ConfigError
        If the seed is negative or not an integer.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ConfigError(f"seed must be a non-negative integer, not {seed!r}")
    key = int.from_bytes(blake2b(identifier.encode(), digest_size=8).digest(), "little")
    return np.random.default_rng(np.random.SeedSequence([int(seed), key]))


def trajectory_rng(seed: int, identifier: str) -> np.random.Generator:
    """Generator of a structure's MD trajectory, whatever the engine and whatever else is simulated.

    Velocities are drawn first (when they are), then ``xi`` and ``eta`` of every Langevin step, as ASE's ``Langevin``
    draws them. The four words of the identifier's 128-bit hash join the seed.
    """
    words = np.frombuffer(blake2b(identifier.encode(), digest_size=16).digest(), dtype="<u4")
    return np.random.default_rng([seed, *words.tolist()])


def derived_seed(seed: int, purpose: str) -> int:
    """An independent seed for one purpose within a run's seed.

    The purpose is the same for all arms of a run: the same initial weights,
    starting velocities and noise, so that arms are compared in pairs.
    """
    return int(np.random.SeedSequence([seed, zlib.crc32(purpose.encode())]).generate_state(1)[0] & 0x7FFFFFFF)
