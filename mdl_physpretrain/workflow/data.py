"""Reading data of a run folder, seeded subsets, and numbers for JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from mdl_physpretrain.structures import read_structures

__all__ = ["random_subset", "read_part", "without_nan"]


def read_part(folder: Path, name: str) -> list[Atoms]:
    """A part of the data of a run folder; empty where there is none."""
    path = folder / "data" / f"{name}.extxyz"
    return read_structures(path) if path.is_file() else []


def random_subset(structures: Sequence[Atoms], limit: int | None, seed: int) -> list[Atoms]:
    """At most ``limit`` structures, chosen at random, in their order."""
    if limit is None or len(structures) <= limit:
        return list(structures)
    chosen = np.random.default_rng([seed, 0xC405E]).permutation(len(structures))[:limit]
    return [structures[k] for k in np.sort(chosen)]


def without_nan(value: Any) -> Any:
    """The value with NaN and infinity as null, which JSON has not."""
    if isinstance(value, dict):
        return {str(k): without_nan(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(v) for v in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
