"""Kernels of the monitor: what it does every step of an MD on a CPU, in one pass.

The references are :class:`Monitor`'s and :class:`LindemannAccumulator`'s
operations in torch, which a GPU uses. Arithmetic of distances and fluctuations is that of IEEE, operation
by operation, so that they depend neither on the compiler nor on the other structures.
"""

# ruff: noqa: ANN001, ANN201, ANN202 - numba finds the types of what it compiles
from __future__ import annotations

import math

import numpy as np

from mdl_physpretrain.compiled.compiler import compiled, exact

__all__ = ["GOES_ON", "LOST", "STOPS_HERE", "add_fluctuations", "count_frame", "image_shifts", "look", "of_structures"]

BLOCK = 512  # pairs at a time
GOES_ON, STOPS_HERE, LOST = 0, 1, 2


@exact
def _distance(positions, i, j, shifts, s):
    x = positions[j, 0] - positions[i, 0] + shifts[s, 0]
    y = positions[j, 1] - positions[i, 1] + shifts[s, 1]
    z = positions[j, 2] - positions[i, 2] + shifts[s, 2]
    return math.sqrt(x * x + y * y + z * z)


@exact
def _welford(r, mean, squares, weight):
    deviation = r - mean
    mean += weight * deviation
    return mean, squares + deviation * (r - mean)


@compiled
def count_frame(positions, first, second, image, shift_vectors, frames, mean, squares):
    """Count one frame in the running means (Å) and sums of squared deviations (Å²) of pair distances, shape (P,)."""
    weight = 1.0 / frames
    for p in range(first.shape[0]):
        r = _distance(positions, first[p], second[p], shift_vectors, image[p])
        mean[p], squares[p] = _welford(r, mean[p], squares[p], weight)


@exact
def _fluctuation(mean, squares, frames, root):
    variance = squares / frames
    return (math.sqrt(variance) if root else variance) / mean if mean > 0 else 0.0


@compiled
def add_fluctuations(first, second, frames, mean, squares, root, total):
    """Add the relative fluctuation of every pair to ``total`` (N,).

    ``root``: of the standard deviation, not the variance.
    """
    terms = np.empty(BLOCK)
    for low in range(0, first.shape[0], BLOCK):
        size = min(BLOCK, first.shape[0] - low)
        for p in range(size):  # apart from the sums, so that it becomes vector instructions
            terms[p] = _fluctuation(mean[low + p], squares[low + p], frames, root)
        for p in range(size):
            total[first[low + p]] += terms[p]
            total[second[low + p]] += terms[p]


@compiled
def of_structures(local, structure, largest, total):
    """Largest and sum of the atoms' numbers ``local`` (N,) in each structure, shape (B,), written."""
    largest[:], total[:] = 0.0, 0.0
    for a in range(structure.shape[0]):
        if not local[a] <= largest[structure[a]]:  # NaN, too, and it stays
            largest[structure[a]] = local[a]
        total[structure[a]] += local[a]


@exact
def _square(part, candidate, box):
    total = 0.0
    for c in range(3):
        x = part[c] + candidate[0] * box[0, c] + candidate[1] * box[1, c] + candidate[2] * box[2, c]
        total += x * x
    return total


@compiled
def image_shifts(vectors, box, inverse, operation, periodic, around, surely, tie, shifts):
    """Write shifts (P, 3) of the shortest images, see ``lindemann.minimum_image_shifts``.

    ``box``, ``inverse`` and ``operation`` are the Minkowski-reduced cell, its inverse, and the integers that make it
    of the cell; ``around`` (K, 3) the shifts looked at. No other image of a vector shorter than ``surely`` is as
    short; images closer than ``tie`` are equally short (Å).
    """
    k = around.shape[0]
    part, wrapped, candidate = np.empty(3), np.empty(3), np.empty(3)
    lengths, shift = np.empty(k), np.empty(3, dtype=np.int64)
    for p in range(vectors.shape[0]):
        for c in range(3):
            part[c] = vectors[p, c]
        for c in range(3):
            fraction = part[0] * inverse[0, c] + part[1] * inverse[1, c] + part[2] * inverse[2, c]
            wrapped[c] = -math.floor(fraction + 0.5) if periodic[c] else 0.0
        alone = math.sqrt(_square(part, wrapped, box)) < surely
        shortest = math.inf
        if not alone:
            for q in range(k):
                for c in range(3):
                    candidate[c] = wrapped[c] + around[q, c]
                lengths[q] = math.sqrt(_square(part, candidate, box))
                shortest = min(shortest, lengths[q])
        first = True
        for q in range(k):
            if not alone and lengths[q] > shortest + tie:
                continue
            for c in range(3):
                total = 0.0
                for m in range(3):
                    total += (wrapped[m] + (0.0 if alone else around[q, m])) * operation[m, c]
                shift[c] = round(total)
            smaller = shift[0] < shifts[p, 0] or (
                shift[0] == shifts[p, 0]
                and (shift[1] < shifts[p, 1] or (shift[1] == shifts[p, 1] and shift[2] < shifts[p, 2]))
            )
            if first or smaller:
                first = False
                for c in range(3):
                    shifts[p, c] = shift[c]
            if alone:
                break


@compiled
def look(
    step,
    moving,
    positions,
    structure,
    temperature,
    energy,
    broken,
    volume_runaway,
    edge_index,
    edge_structure,
    edge_squared,
    temperature_limit,
    on_overlap,
    on_explosion,
    threshold_squared,
    smallest_squared,
    closest,
    steps,
    codes,
):
    """Events of one frame, see :meth:`Monitor._look`; returns the largest code.

    Updates per structure the smallest squared distance (Å²) with its atoms, and the first ``steps`` of overlap, NaN and
    explosion (3, B), -1 for none; writes ``codes``: ``GOES_ON``, ``STOPS_HERE``, or ``LOST`` for a frame that cannot be
    evaluated. A ``threshold_squared`` of zero is no overlap.
    """
    n = codes.shape[0]
    total, shorter = np.zeros(n), np.empty(n)
    for a in range(structure.shape[0]):  # any NaN or infinity survives a sum
        total[structure[a]] += positions[a, 0] + positions[a, 1] + positions[a, 2]
    for k in range(n):
        unknown = not math.isfinite(total[k]) or math.isnan(temperature[k]) or not math.isfinite(energy[k])
        codes[k] = LOST if unknown or broken[k] != 0 else GOES_ON
        shorter[k] = -1.0 if codes[k] == LOST else smallest_squared[k]
    for e in range(edge_squared.shape[0]):
        k = edge_structure[e]
        # compared with what was before, so that the last of several equally short pairs is found
        if edge_squared[e] < shorter[k] and edge_squared[e] <= smallest_squared[k]:
            smallest_squared[k] = edge_squared[e]
            closest[0, k], closest[1, k] = edge_index[0, e], edge_index[1, e]
    worst = GOES_ON
    for k in range(n):
        unknown = not math.isfinite(total[k]) or math.isnan(temperature[k]) or not math.isfinite(energy[k])
        nan = unknown or broken[k] == 1
        runaway = volume_runaway[k] or temperature[k] > temperature_limit or broken[k] == 2
        overlap = moving and threshold_squared[k] > 0 and smallest_squared[k] <= threshold_squared[k]
        if overlap and steps[0, k] < 0:
            steps[0, k] = step
        if nan and steps[1, k] < 0:
            steps[1, k] = step
        if runaway and not nan and steps[2, k] < 0:
            steps[2, k] = step
        if codes[k] == GOES_ON and ((overlap and on_overlap) or (runaway and on_explosion)):
            codes[k] = STOPS_HERE
        worst = max(worst, codes[k])
    return worst
