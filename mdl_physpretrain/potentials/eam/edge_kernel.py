"""The EAM on a list of edges, as machine code, for MD and single points of any size.

:class:`mdl_physpretrain.potentials.EAM` is the readable formula; functions of a
pair are those of the labels, in double precision whatever the type of the
vectors. Edges are worked on a few hundred at
a time, ordered by kind of pair, so that what is between stays in the caches.
"""

# ruff: noqa: ANN001, ANN201, ANN202 - numba finds the types of what it compiles
from __future__ import annotations

import math

import numba
import numpy as np

from mdl_physpretrain.compiled.compiler import compiled

__all__ = ["SMALLEST_CORE_R", "SMALLEST_R", "energy_and_gradient", "exp", "switch", "zbl"]

BLOCK = 1024  # directed edges at a time
SMALLEST_R = 1e-6  # Å, as in the reference: forces of atoms on top of each other
SMALLEST_CORE_R = 1e-3  # Å, as in ZBL

_LOG2_E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_ROUND = 6755399441055744.0  # 1.5 * 2**52: adding it rounds to an integer, kept in the lowest bits
_EXP_LIMIT = 709.0
_C2, _C3, _C4, _C5, _C6, _C7, _C8, _C9, _C10, _C11, _C12, _C13 = (1 / math.factorial(n) for n in range(2, 14))
_ZBL_C = (0.18175, 0.50986, 0.28022, 0.02817)
_ZBL_D = (3.19980, 0.94229, 0.40290, 0.20162)


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
        term = _ZBL_C[k] * math.exp(-_ZBL_D[k] * inverse_length * r)
        screening += term
        slope -= _ZBL_D[k] * inverse_length * term
    coulomb = charges / r
    value, derivative = switch(r, inner, outer)
    energy = coulomb * screening
    return energy * value, (coulomb * slope - energy / r) * value + energy * derivative


@compiled
def _pick(index, vectors, shifts, element, kind_of, low, high, starts, chosen, place_of, r, gradient):
    """One direction of the pairs in a block, by kind, the ``q``-th at ``place_of[q]``; gradients of the other are 0."""
    kind, edge = np.empty(high - low, dtype=np.int64), np.empty(high - low, dtype=np.int64)
    starts[:] = 0
    found = 0
    for e in range(low, high):
        i, j = index[0, e], index[1, e]
        # among an atom's own images the shift S stands for -S too: the first non-zero component decides
        a, b, c = shifts[e, 0], shifts[e, 1], shifts[e, 2]
        if i < j or (i == j and (a > 0 or (a == 0 and (b > 0 or (b == 0 and c > 0))))):
            kind[found], edge[found] = kind_of[element[i], element[j]], e
            starts[kind[found] + 1] += 1
            found += 1
        else:
            gradient[e, 0], gradient[e, 1], gradient[e, 2] = 0.0, 0.0, -1.0
    for k in range(1, starts.shape[0]):
        starts[k] += starts[k - 1]
    place = starts.copy()
    for q in range(found):
        p, e = place[kind[q]], edge[q]
        place[kind[q]] += 1
        place_of[q] = p
        x, y, z = np.float64(vectors[e, 0]), np.float64(vectors[e, 1]), np.float64(vectors[e, 2])
        chosen[p], r[p] = e, math.sqrt(x * x + y * y + z * z)
    return found


@compiled
def _pair_functions(r, depth, alpha, middle, amplitudes, decays, core, start, cutoff, value, slope, density, fall):
    """Pair energy and density of one kind at the distances ``r``, and their derivatives; all (n,), written."""
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
def energy_and_gradient(
    index, vectors, shifts, structure, element, kind_of, pair, element_parameters, cutoff, start, energies, gradient
):
    """Energies of structures, and their gradient with respect to the edge vectors.

    Parameters
    ----------
    index, vectors, shifts
        Of the edges, in both directions: shapes (2, E), (E, 3) in Å, (E, 3).
    structure, element
        Of the atoms, shape (N,).
    kind_of
        Kind of pair of two elements, shape (n_elements, n_elements).
    pair
        ``(morse, amplitudes, decays, core)`` by kind: ``D, alpha, r_m``; ``A``;
        ``beta``; charges (eV Å), inverse length (1/Å), inner and outer end (Å),
        zero for no core.
    element_parameters
        ``B, rho_0, E_atom``, shape (n_elements, 3).
    cutoff, start
        Where the switch ends and begins, Å.
    energies
        Written, shape (B,), eV, float64.
    gradient
        Written, shape (E, 3), eV/Å: that of a pair whole on one of its edges.
    """
    morse, amplitudes, decays, core = pair
    n, n_edges, n_kinds = structure.shape[0], index.shape[1], morse.shape[0]
    slope_of = np.zeros(n)  # first the density at an atom, then the derivative of the embedding energy
    starts, place_of = np.empty(n_kinds + 1, dtype=np.int64), np.empty(BLOCK, dtype=np.int64)
    chosen = np.empty(BLOCK, dtype=np.int64)
    r, value, slope, density, fall = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    energies[:] = 0.0
    for low in range(0, n_edges, BLOCK):
        high = min(low + BLOCK, n_edges)
        found = _pick(index, vectors, shifts, element, kind_of, low, high, starts, chosen, place_of, r, gradient)
        for kind in range(n_kinds):
            own = slice(starts[kind], starts[kind + 1])
            depth, alpha, middle = morse[kind, 0], morse[kind, 1], morse[kind, 2]
            functions = (amplitudes[kind], decays[kind], core[kind], start, cutoff)
            _pair_functions(r[own], depth, alpha, middle, *functions, value[own], slope[own], density[own], fall[own])
        for o in range(found):  # in the order of the list: sums depend on no other structure of the batch
            q = place_of[o]
            e = chosen[q]
            i, j = index[0, e], index[1, e]
            slope_of[i] += density[q]
            slope_of[j] += density[q]
            energies[structure[i]] += value[q]
            # kept here until all densities are known
            gradient[e, 0], gradient[e, 1], gradient[e, 2] = slope[q], fall[q], max(r[q], SMALLEST_R)
    for a in range(n):
        strength, zero, alone = element_parameters[element[a]]
        excess = slope_of[a] - zero
        energies[structure[a]] += strength * excess * excess + alone
        slope_of[a] = 2 * strength * excess
    for e in range(n_edges):
        if gradient[e, 2] < 0:
            gradient[e, 2] = 0.0
            continue
        total = (gradient[e, 0] + (slope_of[index[0, e]] + slope_of[index[1, e]]) * gradient[e, 1]) / gradient[e, 2]
        gradient[e, 0] = total * vectors[e, 0]
        gradient[e, 1] = total * vectors[e, 1]
        gradient[e, 2] = total * vectors[e, 2]
