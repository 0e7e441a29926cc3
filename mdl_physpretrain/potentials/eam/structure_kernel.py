"""The EAM as machine code: neighbours, energy, forces and virial of one structure in two passes.

:class:`mdl_physpretrain.potentials.EAM` is the readable formula and the reference
of the tests; nothing is tabulated here, so the two agree to rounding. Pairs
are ordered by kind, so that the parameters are constant in the inner loops and
the compiler can compute eight exponentials at a time. Sums are in a fixed
order: a result depends neither on threads nor on the other structures.
"""

# ruff: noqa: ANN001, ANN201, ANN202 - numba finds the types of what it compiles
from __future__ import annotations

import math

import numpy as np

from mdl_physpretrain.compiled.compiler import compiled
from mdl_physpretrain.potentials.eam.pair_functions import SMALLEST_R, pair_functions
from mdl_physpretrain.potentials.zbl_kernel import zbl

__all__ = ["BLOCK", "EDGE_FLOATS", "evaluate", "evaluate_all", "half_list"]

BLOCK = 256  # edges at a time, so that the exponentials stay in the first cache
EDGE_FLOATS = 5  # work space of an edge: length, pair energy, its derivative, density, its derivative
_ROUNDING = 1e-9  # cells by which ranges of images are widened before distances are compared


@compiled
def _dot(a, i, b, j):
    return a[i, 0] * b[j, 0] + a[i, 1] * b[j, 1] + a[i, 2] * b[j, 2]


@compiled
def half_list(positions, element, n_elements, cell, periodic, cutoff, edges, vectors, segments):
    """Number of pairs within the cutoff, each listed once, ordered by kind, for any cell and any images.

    In the frame where the first cell vector lies on x and the second in the xy plane, the images of a pair that are
    near enough form nested intervals, so hardly a distance is computed in vain. Work is quadratic in the atoms. Writes
    atoms (2, capacity), vectors (3, capacity) in Å, and where the pairs of elements ``(0, 0), (0, 1), ..., (1, 1),
    ...`` begin; a number above the capacity means that there was no room.
    """
    n, capacity = positions.shape[0], edges.shape[1]
    frame, turned = np.empty((3, 3)), np.empty((n, 3))
    for k in range(3):  # Gram and Schmidt
        for c in range(3):
            frame[k, c] = cell[k, c]
        for m in range(k):
            along = _dot(frame, k, frame, m)
            for c in range(3):
                frame[k, c] -= along * frame[m, c]
        length = math.sqrt(_dot(frame, k, frame, k))
        for c in range(3):
            frame[k, c] /= length
    for i in range(n):
        for k in range(3):
            turned[i, k] = _dot(positions, i, frame, k)
    ax = _dot(cell, 0, frame, 0)
    bx, by = _dot(cell, 1, frame, 0), _dot(cell, 1, frame, 1)
    cx, cy, cz = _dot(cell, 2, frame, 0), _dot(cell, 2, frame, 1), _dot(cell, 2, frame, 2)
    # atoms in order of their element
    first = np.zeros(n_elements + 1, dtype=np.int64)
    for i in range(n):
        first[element[i] + 1] += 1
    for e in range(n_elements):
        first[e + 1] += first[e]
    order, place = np.empty(n, dtype=np.int64), first.copy()
    for i in range(n):
        order[place[element[i]]] = i
        place[element[i]] += 1

    square = cutoff * cutoff
    count, kind = 0, 0
    for a in range(n_elements):
        for b in range(a, n_elements):
            segments[kind] = min(count, capacity)
            kind += 1
            for p in range(first[a], first[a + 1]):
                i = order[p]
                for q in range(p if a == b else first[b], first[b + 1]):
                    j = order[q]
                    z0 = turned[j, 2] - turned[i, 2]
                    low3, high3 = 0, 0
                    if periodic[2]:
                        low3 = math.ceil((-cutoff - z0) / cz - _ROUNDING)
                        high3 = math.floor((cutoff - z0) / cz + _ROUNDING)
                    for n3 in range(low3, high3 + 1):
                        z = z0 + n3 * cz
                        left = square - z * z
                        if left < 0.0:
                            continue
                        reach = math.sqrt(left)
                        y0 = turned[j, 1] - turned[i, 1] + n3 * cy
                        low2, high2 = 0, 0
                        if periodic[1]:
                            low2 = math.ceil((-reach - y0) / by - _ROUNDING)
                            high2 = math.floor((reach - y0) / by + _ROUNDING)
                        for n2 in range(low2, high2 + 1):
                            y = y0 + n2 * by
                            inner = left - y * y
                            if inner < 0.0:
                                continue
                            width = math.sqrt(inner)
                            x0 = turned[j, 0] - turned[i, 0] + n3 * cx + n2 * bx
                            low1, high1 = 0, 0
                            if periodic[0]:
                                low1 = math.ceil((-width - x0) / ax - _ROUNDING)
                                high1 = math.floor((width - x0) / ax + _ROUNDING)
                            if i == j:  # of an image and its opposite one
                                low1 = max(low1, 0 if n2 > 0 or (n2 == 0 and n3 > 0) else 1)
                            for n1 in range(low1, high1 + 1):
                                dx = positions[j, 0] - positions[i, 0] + n1 * cell[0, 0] + n2 * cell[1, 0]
                                dy = positions[j, 1] - positions[i, 1] + n1 * cell[0, 1] + n2 * cell[1, 1]
                                dz = positions[j, 2] - positions[i, 2] + n1 * cell[0, 2] + n2 * cell[1, 2]
                                dx += n3 * cell[2, 0]
                                dy += n3 * cell[2, 1]
                                dz += n3 * cell[2, 2]
                                if dx * dx + dy * dy + dz * dz < square:
                                    if count < capacity:
                                        edges[0, count] = i
                                        edges[1, count] = j
                                        vectors[0, count] = dx
                                        vectors[1, count] = dy
                                        vectors[2, count] = dz
                                    count += 1
    segments[kind] = min(count, capacity)
    return count


@compiled
def evaluate(element, edges, vectors, segments, kinds, work, potential, excess, forces, virial):
    """Energy in eV; forces (N, 3) in eV/Å and ``sum r (x) dE/dr`` (3, 3) in eV are written.

    Parameters
    ----------
    element
        As in :func:`half_list`.
    edges, vectors, segments
        Pairs from :func:`half_list`; the segments need not begin at zero.
    kinds
        Which row of the tables each segment takes, shape (segments - 1,).
    work
        Written: (``EDGE_FLOATS``, E or more), of which the length, the
        derivative of the pair energy and that of the density are left behind.
    potential
        ``(pair, element_parameters, cutoff, start)``: of
        :func:`~mdl_physpretrain.potentials.eam.parameters.parameter_tables`, pairs in the order of the segments,
        and where the switch ends and begins, Å.
    excess
        Written: density of every atom less ``rho_0``, shape (N,).
    """
    pair, element_parameters, cutoff, start = potential
    morse, amplitudes, decays, core = pair
    n, n_kinds = element.shape[0], kinds.shape[0]
    offset = segments[0]
    no_core = np.zeros(4)  # repulsions are added to the energy one by one, after the wells of a block
    energy = 0.0
    excess[:] = 0.0
    for k in range(n_kinds):
        kind = kinds[k]
        depth, alpha, middle = morse[kind, 0], morse[kind, 1], morse[kind, 2]
        for low in range(segments[k], segments[k + 1], BLOCK):
            high = min(low + BLOCK, segments[k + 1])
            # views that begin at zero: the compiler then knows that no index is negative
            x, y, z = vectors[0, low:high], vectors[1, low:high], vectors[2, low:high]
            here, there = low - offset, high - offset
            r, value, derivative = work[0, here:there], work[1, here:there], work[2, here:there]
            density, slope = work[3, here:there], work[4, here:there]
            size = r.shape[0]
            for e in range(size):
                r[e] = math.sqrt(x[e] * x[e] + y[e] * y[e] + z[e] * z[e])
            functions = (depth, alpha, middle, amplitudes[kind], decays[kind], no_core, start, cutoff)
            pair_functions(r, *functions, value, derivative, density, slope)
            for e in range(size):
                energy += value[e]
            if core[kind, 3] > 0:
                for e in range(size):
                    if r[e] < core[kind, 3]:
                        repulsion, push = zbl(r[e], core[kind, 0], core[kind, 1], core[kind, 2], core[kind, 3])
                        energy += repulsion
                        derivative[e] += push
            first, second = edges[0, low:high], edges[1, low:high]
            for e in range(size):
                excess[first[e]] += density[e]
                excess[second[e]] += density[e]
    for i in range(n):
        excess[i] -= element_parameters[element[i], 1]
        energy += element_parameters[element[i], 0] * excess[i] * excess[i] + element_parameters[element[i], 2]
    forces[:] = 0.0
    xx, yy, zz, yz, xz, xy = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for e in range(segments[n_kinds] - offset):
        i, j = edges[0, offset + e], edges[1, offset + e]
        rx, ry, rz = vectors[0, offset + e], vectors[1, offset + e], vectors[2, offset + e]
        embedding = element_parameters[element[i], 0] * excess[i] + element_parameters[element[j], 0] * excess[j]
        total = (work[2, e] + 2 * embedding * work[4, e]) / max(work[0, e], SMALLEST_R)
        gx, gy, gz = total * rx, total * ry, total * rz
        forces[i, 0] += gx
        forces[i, 1] += gy
        forces[i, 2] += gz
        forces[j, 0] -= gx
        forces[j, 1] -= gy
        forces[j, 2] -= gz
        xx += rx * gx
        yy += ry * gy
        zz += rz * gz
        yz += ry * gz
        xz += rx * gz
        xy += rx * gy
    virial[0, 0], virial[1, 1], virial[2, 2] = xx, yy, zz
    virial[1, 2] = virial[2, 1] = yz
    virial[0, 2] = virial[2, 0] = xz
    virial[0, 1] = virial[1, 0] = xy
    return energy


@compiled
def evaluate_all(starts, positions, element, cells, periodic, potential, energies, forces, virials):
    """Energies, forces and virials of several structures; arguments as above, one after the other."""
    n_elements, n_kinds, cutoff = potential[1].shape[0], potential[0][0].shape[0], potential[2]
    segments, all_kinds = np.zeros(n_kinds + 1, dtype=np.int64), np.arange(n_kinds)
    capacity = 4096
    edges, vectors = np.empty((2, capacity), dtype=np.int32), np.empty((3, capacity))
    work = np.empty((EDGE_FLOATS, capacity))
    for s in range(len(starts) - 1):
        atoms = slice(starts[s], starts[s + 1])
        kinds = element[atoms]
        while True:
            pairs = half_list(
                positions[atoms], kinds, n_elements, cells[s], periodic[s], cutoff, edges, vectors, segments
            )
            if pairs <= capacity:
                break
            capacity = pairs + pairs // 4
            edges, vectors = np.empty((2, capacity), dtype=np.int32), np.empty((3, capacity))
            work = np.empty((EDGE_FLOATS, capacity))
        excess = np.empty(len(kinds))
        energies[s] = evaluate(
            kinds, edges, vectors, segments, all_kinds, work, potential, excess, forces[atoms], virials[s]
        )
