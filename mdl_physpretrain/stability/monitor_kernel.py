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

__all__ = [
    "CAUSES", "EVENTS", "GOES_ON", "LOST", "STOPS_HERE", "add_by_element", "add_fluctuations", "count_frame",
    "image_shifts", "look", "of_structures", "pair_terms",
]  # fmt: skip

BLOCK = 512  # pairs at a time
GOES_ON, STOPS_HERE, LOST = 0, 1, 2
#: Rows of the first steps of events; those of the paper's verdict last.
EVENTS = ("overlap", "nan", "explosion", "overlap_paper", "explosion_paper")
#: Why a trajectory exploded, by code.
CAUSES = ("", "volume", "temperature", "energy", "force", "out of bounds")


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
def pair_terms(positions, first, second, image, shift_vectors, start, bound, terms):
    """Squared relative deviation of every bound pair's distance from ``start`` (P,), Å, written to ``terms`` (P,)."""
    for p in range(first.shape[0]):
        terms[p] = 0.0
        if bound[p] and start[p] > 0:
            part = _distance(positions, first[p], second[p], shift_vectors, image[p]) / start[p] - 1.0
            terms[p] = part * part


@compiled
def add_by_element(first, second, element, terms, total):
    """Add the terms (P,) of pairs to both atoms, by the element (N,) of the other one: ``total`` (N, G)."""
    for p in range(first.shape[0]):
        total[first[p], element[second[p]]] += terms[p]
        total[second[p], element[first[p]]] += terms[p]


@compiled
def of_structures(local, structure, largest, total):
    """Largest and sum of the atoms' numbers ``local`` (N,) in each structure, shape (B,), written."""
    largest[:], total[:] = 0.0, 0.0
    for a in range(structure.shape[0]):
        if not local[a] <= largest[structure[a]] and not math.isnan(largest[structure[a]]):  # a NaN stays
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
    forces,
    edge_index,
    edge_structure,
    edge_squared,
    numbers,
    on_overlap,
    on_explosion,
    paper,
    radius,
    n_atoms,
    threshold_squared,
    first_energy,
    smallest_squared,
    closest,
    overlapping,
    overlap_squared,
    cause,
    steps,
    codes,
):
    """Events of one frame, see :meth:`Monitor._look`; returns the largest code.

    Limits in ``numbers``: temperature (K), energy (eV per atom), square of force (eV²/Å²), shares of the sum of radii
    that are an overlap and that one can be, whether energies are known. ``volume_runaway`` (2, B) is of the verdict and
    of the paper's, ``forces`` of no atoms where they are not known. Updates per structure the smallest squared distance
    (Å²) with its atoms, the first pair that overlaps, the ``CAUSES`` of an explosion, and the first ``steps`` of
    ``EVENTS`` (5, B), -1 for none; writes ``codes``: ``GOES_ON``, ``STOPS_HERE``, or ``LOST`` for a frame that cannot
    be evaluated, and returns the largest. A ``threshold_squared`` of zero is no overlap.
    """
    n = codes.shape[0]
    total, shorter, worst_ratio, strongest = np.zeros(n), np.empty(n), np.full(n, np.inf), np.zeros(n)
    hot, change, strong, share, possible = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]
    energies = numbers[5] > 0
    for a in range(structure.shape[0]):  # any NaN or infinity survives a sum
        total[structure[a]] += positions[a, 0] + positions[a, 1] + positions[a, 2]
    for a in range(forces.shape[0]):
        k = structure[a]
        squared = forces[a, 0] * forces[a, 0] + forces[a, 1] * forces[a, 1] + forces[a, 2] * forces[a, 2]
        if not squared <= strongest[k] and not math.isnan(strongest[k]):  # a NaN stays
            strongest[k] = squared
    for k in range(n):
        if energies and math.isnan(first_energy[k]) and math.isfinite(energy[k]):
            first_energy[k] = energy[k]
        unknown = not math.isfinite(total[k]) or math.isnan(temperature[k]) or not math.isfinite(energy[k])
        unknown = unknown or not math.isfinite(strongest[k])
        codes[k] = LOST if unknown or broken[k] != 0 else GOES_ON
        total[k] = 1.0 if unknown else 0.0
        shorter[k] = -1.0 if codes[k] == LOST else smallest_squared[k]
    for e in range(edge_squared.shape[0]):
        k, squared = edge_structure[e], edge_squared[e]
        # compared with what was before, so that the last of several equally short pairs is found
        if squared < shorter[k] and squared <= smallest_squared[k]:
            smallest_squared[k] = squared
            closest[0, k], closest[1, k] = edge_index[0, e], edge_index[1, e]
        reach = radius[edge_index[0, e]] + radius[edge_index[1, e]]
        ratio = squared / (reach * reach)
        if steps[0, k] >= 0 or codes[k] == LOST or not ratio < worst_ratio[k]:
            continue
        near = moving and squared <= threshold_squared[k] and ratio < possible * possible
        if near or ratio < share * share:
            worst_ratio[k], overlap_squared[k] = ratio, squared
            overlapping[0, k], overlapping[1, k] = edge_index[0, e], edge_index[1, e]
    worst = GOES_ON
    for k in range(n):
        nan = total[k] > 0 or broken[k] == 1
        code = 0
        if volume_runaway[0, k]:
            code = 1
        elif temperature[k] > hot:
            code = 2
        elif energies and abs(energy[k] - first_energy[k]) > change * n_atoms[k]:
            code = 3
        elif strongest[k] > strong:
            code = 4
        elif broken[k] == 2:
            code = 5
        runaway_paper = volume_runaway[1, k] or temperature[k] > hot or broken[k] == 2
        overlap = worst_ratio[k] < np.inf
        overlap_paper = moving and threshold_squared[k] > 0 and smallest_squared[k] <= threshold_squared[k]
        events = (overlap, nan, code > 0 and not nan, overlap_paper, runaway_paper and not nan)
        for row in range(5):
            if events[row] and steps[row, k] < 0:
                steps[row, k] = step
                if row == 2:
                    cause[k] = code
        ends = (overlap_paper if paper else overlap) and on_overlap
        ends = ends or ((runaway_paper if paper else code > 0) and on_explosion)
        if codes[k] == GOES_ON and ends:
            codes[k] = STOPS_HERE
        worst = max(worst, codes[k])
    return worst
