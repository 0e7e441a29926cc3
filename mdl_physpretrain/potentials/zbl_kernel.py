"""ZBL repulsion and the quintic switch as machine code; :mod:`mdl_physpretrain.potentials.zbl` is the formula."""

# ruff: noqa: ANN001, ANN201 - numba finds the types of what it compiles
from __future__ import annotations

import math

from mdl_physpretrain.compiled.compiler import compiled

__all__ = ["SCREENING", "SCREENING_DECAYS", "SMALLEST_CORE_R", "switch", "zbl"]

SMALLEST_CORE_R = 1e-3  # Å; the repulsion of atoms closer than this is that at this distance
SCREENING = (0.18175, 0.50986, 0.28022, 0.02817)
SCREENING_DECAYS = (3.19980, 0.94229, 0.40290, 0.20162)


@compiled
def switch(r, inner, outer):
    """Value and derivative of :func:`mdl_physpretrain.potentials.switch.quintic_switch`."""
    width = outer - inner
    s = min(max(1 - (r - inner) / width, 0.0), 1.0)
    t = s * (1 - s)
    return s * s * s * (s * (6 * s - 15) + 10), -30 * t * t / width


@compiled
def zbl(r, charges, inverse_length, inner, outer):
    """Value and derivative of :func:`mdl_physpretrain.potentials.zbl.zbl_pair`."""
    r = max(r, SMALLEST_CORE_R)
    screening, slope = 0.0, 0.0
    for k in range(4):
        term = SCREENING[k] * math.exp(-SCREENING_DECAYS[k] * inverse_length * r)
        screening += term
        slope -= SCREENING_DECAYS[k] * inverse_length * term
    coulomb = charges / r
    value, derivative = switch(r, inner, outer)
    energy = coulomb * screening
    return energy * value, (coulomb * slope - energy / r) * value + energy * derivative
