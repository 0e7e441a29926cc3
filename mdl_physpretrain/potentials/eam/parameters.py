"""Names and order of the EAM's parameters, and the arrays that its kernels take them in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

__all__ = ["ELEMENT_PARAMETERS", "PAIR_PARAMETERS", "SWITCH_START", "Tables", "parameter_tables"]

SWITCH_START = 0.66  # in units of the cutoff
MORSE = ("D", "alpha", "rm")
PAIR_PARAMETERS = (*MORSE, "A", "beta")
ELEMENT_PARAMETERS = ("B", "rho0", "base_atomic_energy")
Tables: TypeAlias = tuple[tuple[np.ndarray, ...], np.ndarray]


def parameter_tables(values: Mapping[str, np.ndarray], core: np.ndarray) -> Tables:
    """``(morse, amplitudes, decays, core)`` by pair, and parameters by element: copies in double precision."""
    morse, element = (np.stack([values[k] for k in names], axis=1) for names in (MORSE, ELEMENT_PARAMETERS))
    return (morse, values["A"].copy(), values["beta"].copy(), core), element
