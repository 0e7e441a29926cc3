"""The EAM's functions of a pair's distance as machine code: Morse well, density, and their derivatives.

:class:`mdl_physpretrain.potentials.EAM` is the readable formula. Distances come
as arrays of one kind of pair, so that the parameters are constant in the loops
and the compiler computes eight exponentials at a time. All is in double precision.
"""

# ruff: noqa: ANN001, ANN201 - numba finds the types of what it compiles
from __future__ import annotations

import math

import numba
import numpy as np

from mdl_physpretrain.compiled.compiler import compiled
from mdl_physpretrain.potentials.zbl_kernel import switch, zbl

__all__ = ["SMALLEST_R", "add_morse_gradient", "density_gradient", "exp", "pair_functions"]

SMALLEST_R = 1e-6  # Å, as in the formula: forces of atoms on top of each other
_LOG2_E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_ROUND = 6755399441055744.0  # 1.5 * 2**52: adding it rounds to an integer, kept in the lowest bits
_EXP_LIMIT = 709.0
_C2, _C3, _C4, _C5, _C6, _C7, _C8, _C9, _C10, _C11, _C12, _C13 = (1 / math.factorial(n) for n in range(2, 14))


@numba.njit(fastmath={"contract"}, nogil=True)
def exp(x):
    """Exponential to one unit in the last place, in a form that compilers turn into vector instructions.

    ``x = n ln 2 + y`` with ``|y| < 0.35``, a Taylor series for ``exp(y)``, and
    ``n`` added to the exponent bits.
    """
    inside = min(max(x, -_EXP_LIMIT + 2.0), _EXP_LIMIT)
    shifted = inside * _LOG2_E + _ROUND
    n = shifted - _ROUND
    y = inside - n * _LN2_HIGH - n * _LN2_LOW
    tail = _C8 + y * (_C9 + y * (_C10 + y * (_C11 + y * (_C12 + y * _C13))))
    series = 1 + y * (1 + y * (_C2 + y * (_C3 + y * (_C4 + y * (_C5 + y * (_C6 + y * (_C7 + y * tail)))))))
    bits = np.int64(np.float64(series).view(np.int64) + (np.float64(shifted).view(np.int64) << 52))
    return bits.view(np.float64) if x <= _EXP_LIMIT else x * np.inf


@compiled
def pair_functions(r, depth, alpha, middle, amplitudes, decays, core, start, cutoff, value, slope, density, fall):
    """Pair energy (switched Morse and core) and switched density at distances ``r`` (n,), and their derivatives.

    ``depth, alpha, middle, amplitudes, decays`` are ``D, alpha, r_m, A, beta``; ``core`` (4,) the arguments of ``zbl``,
    the last zero for no core; the switch goes from ``start`` to ``cutoff`` (Å). Writes the last four arguments.
    """
    for q in range(r.shape[0]):
        density[q], fall[q] = 0.0, 0.0
    for k in range(amplitudes.shape[0]):
        amplitude, decay = amplitudes[k], decays[k]
        for q in range(r.shape[0]):
            term = amplitude * exp(-decay * r[q])
            density[q] += term
            fall[q] -= decay * term
    for q in range(r.shape[0]):
        f, df = switch(r[q], start, cutoff)
        falling = exp(-alpha * (r[q] - middle))
        well = depth * falling * (falling - 2)
        value[q] = well * f
        slope[q] = 2 * depth * alpha * falling * (1 - falling) * f + well * df
        fall[q] = fall[q] * f + density[q] * df
        density[q] *= f
    if core[3] > 0:
        for q in range(r.shape[0]):
            if r[q] < core[3]:
                repulsion, push = zbl(r[q], core[0], core[1], core[2], core[3])
                value[q] += repulsion
                slope[q] += push


@compiled
def add_morse_gradient(r, morse, start, cutoff, by_value, by_slope, by_density, by_fall, gradient):
    """Add derivatives by ``D, alpha, r_m`` of what :func:`pair_functions` computes without a core to ``gradient`` (3,).

    ``by_value`` (a number), ``by_slope``, ``by_density`` and ``by_fall`` (n,) are derivatives of the sum by its
    outputs; the last two are replaced by those without the switch, which :func:`density_gradient` takes.
    """
    depth, alpha, middle = morse[0], morse[1], morse[2]
    by_depth, by_alpha, by_middle = gradient[0], gradient[1], gradient[2]
    for e in range(r.shape[0]):
        f, df = switch(r[e], start, cutoff)
        falling = exp(-alpha * (r[e] - middle))
        well, fall = by_value * f + by_slope[e] * df, by_slope[e] * f
        by_depth += well * falling * (falling - 2) + 2 * fall * alpha * falling * (1 - falling)
        by_falling = depth * (2 * well * (falling - 1) + 2 * fall * alpha * (1 - 2 * falling))
        by_alpha += 2 * fall * depth * falling * (1 - falling) - by_falling * (r[e] - middle) * falling
        by_middle += by_falling * alpha * falling
        by_density[e] = by_density[e] * f + by_fall[e] * df
        by_fall[e] *= f
    gradient[0], gradient[1], gradient[2] = by_depth, by_alpha, by_middle


@compiled
def density_gradient(r, decay, by_density, by_fall):
    """Derivatives by one amplitude and, over ``-amplitude``, by its decay; sums over the distances.

    ``by_density`` and ``by_fall`` are those by the density and its derivative without the switch.
    """
    total, moment, slopes = 0.0, 0.0, 0.0
    for e in range(r.shape[0]):
        term = exp(-decay * r[e])
        part = term * (by_density[e] - decay * by_fall[e])
        total += part
        moment += part * r[e]
        slopes += term * by_fall[e]
    return total, moment + slopes
