"""The loss of the EAM fit and its exact gradient with respect to the parameters, as machine code.

The loss sees energy, forces and stress, and these are linear in the pair
slopes. With ``l`` the derivatives of the loss by its inputs and
``q = r^ . (l_Fi - l_Fj) + r^ . l_S . r / V`` the derivative by the slope of a pair,

    J = l_E [sum V(r) + sum F(rho)] + sum q [V'(r) + (F'(rho_i) + F'(rho_j)) rho'(r)]

has the same gradient, and it needs no graph: one more pass over the pairs.
"""

# ruff: noqa: ANN001, ANN201, ANN202 - numba finds the types of what it compiles
from __future__ import annotations

import numpy as np

from mdl_physpretrain.compiled.compiler import compiled
from mdl_physpretrain.potentials.eam.pair_functions import SMALLEST_R, add_morse_gradient, density_gradient
from mdl_physpretrain.potentials.eam.structure_kernel import BLOCK, EDGE_FLOATS, evaluate

__all__ = ["measure"]


@compiled
def _add_gradient(
    element, edges, vectors, segments, kinds, work, potential, excess, by_energy, by_forces, by_strain, gradients
):
    """Add the gradient of one structure after :func:`evaluate`, by its segments; ``by_strain`` is ``l_S / V``."""
    pair, element_parameters, cutoff, start = potential
    morse, amplitudes, decays, _ = pair
    morse_gradient, amplitude_gradient, decay_gradient, element_gradient = gradients
    n, n_basis, n_kinds = element.shape[0], amplitudes.shape[1], segments.shape[0] - 1
    offset = segments[0]
    weighted_slope = np.zeros(n)  # of an atom: sum of q rho'
    for e in range(segments[n_kinds] - offset):
        i, j = edges[0, offset + e], edges[1, offset + e]
        x, y, z = vectors[0, offset + e], vectors[1, offset + e], vectors[2, offset + e]
        tx = by_forces[i, 0] - by_forces[j, 0] + by_strain[0, 0] * x + by_strain[0, 1] * y + by_strain[0, 2] * z
        ty = by_forces[i, 1] - by_forces[j, 1] + by_strain[1, 0] * x + by_strain[1, 1] * y + by_strain[1, 2] * z
        tz = by_forces[i, 2] - by_forces[j, 2] + by_strain[2, 0] * x + by_strain[2, 1] * y + by_strain[2, 2] * z
        q = (tx * x + ty * y + tz * z) / max(work[0, e], SMALLEST_R)
        work[1, e] = q
        weighted_slope[i] += q * work[4, e]
        weighted_slope[j] += q * work[4, e]
    by_density = np.empty(n)
    for i in range(n):
        curvature = element_parameters[element[i], 0]
        by_density[i] = 2 * curvature * (by_energy * excess[i] + weighted_slope[i])
        element_gradient[element[i], 0] += by_energy * excess[i] * excess[i] + 2 * excess[i] * weighted_slope[i]
        element_gradient[element[i], 1] -= by_density[i]
        element_gradient[element[i], 2] += by_energy
    for s in range(n_kinds):
        kind = kinds[s]
        for low in range(segments[s], segments[s + 1], BLOCK):
            high = min(low + BLOCK, segments[s + 1])
            here, there = low - offset, high - offset
            r, q = work[0, here:there], work[1, here:there]
            of_density, of_slope = work[2, here:there], work[3, here:there]
            first, second = edges[0, low:high], edges[1, low:high]
            size = r.shape[0]
            for e in range(size):
                i, j = first[e], second[e]
                of_density[e] = by_density[i] + by_density[j]
                embedding = (
                    element_parameters[element[i], 0] * excess[i] + element_parameters[element[j], 0] * excess[j]
                )
                of_slope[e] = 2 * q[e] * embedding
            of_morse = morse_gradient[s]
            add_morse_gradient(r, morse[kind], start, cutoff, by_energy, q, of_density, of_slope, of_morse)
            for k in range(n_basis):
                of_amplitude, of_decay = density_gradient(r, decays[kind, k], of_density, of_slope)
                amplitude_gradient[s, k] += of_amplitude
                decay_gradient[s, k] -= amplitudes[kind, k] * of_decay


@compiled
def measure(
    chosen, starts, element, edges, vectors, segments, kind_starts, kinds, potential, labels, weights, errors,
    with_gradient, gradients
):  # fmt: skip
    """Write errors of structures ``chosen`` (K,) and the gradient of their weighted sum.

    All structures stand one after the other. Structure ``s`` has pairs of ``kinds[kind_starts[s]:kind_starts[s + 1]]``
    alone, and one segment more than these: so the work does not depend on how many kinds there are. ``labels`` are
    ``energies, forces, stresses, volumes`` (S,), (N, 3), (S, 3, 3), (S,), volumes in Å³, zero for none. ``weights``
    (K, 3) of energy, force and stress components are zero for a missing label; ``errors`` (K, 3) are sums of absolute
    errors;
    ``gradients`` are by Morse parameters, amplitudes and decays, rows for the kinds of every chosen structure one after
    the other, and parameters of the elements, with a leading K.
    """
    energies, forces, stresses, volumes = labels
    morse_gradient, amplitude_gradient, decay_gradient, element_gradient = gradients
    longest, largest = 1, 1
    for s in chosen:
        longest = max(longest, segments[kind_starts[s + 1] + s] - segments[kind_starts[s] + s])
        largest = max(largest, starts[s + 1] - starts[s])
    work = np.empty((EDGE_FLOATS, longest))
    excess_of, force_of = np.empty(largest), np.empty((largest, 3))
    virial, by_strain = np.empty((3, 3)), np.empty((3, 3))
    row = 0
    for k in range(len(chosen)):
        s = chosen[k]
        kinds_here = kinds[kind_starts[s] : kind_starts[s + 1]]
        pieces = segments[kind_starts[s] + s : kind_starts[s + 1] + s + 1]
        atoms, n = slice(starts[s], starts[s + 1]), starts[s + 1] - starts[s]
        excess, by_forces = excess_of[:n], force_of[:n]
        energy = evaluate(
            element[atoms], edges, vectors, pieces, kinds_here, work, potential, excess, by_forces, virial
        )
        error = energy - energies[s]
        errors[k, 0] = abs(error)
        by_energy = weights[k, 0] * np.sign(error)
        sum_forces, sum_stress = 0.0, 0.0
        for i in range(n):
            for c in range(3):
                error = by_forces[i, c] - forces[starts[s] + i, c]
                sum_forces += abs(error)
                by_forces[i, c] = weights[k, 1] * np.sign(error)
        volume = volumes[s]
        for c in range(3):
            for d in range(3):
                error = (virial[c, d] / volume if volume > 0 else 0.0) - stresses[s, c, d]
                sum_stress += abs(error)
                virial[c, d] = weights[k, 2] * np.sign(error) / volume if volume > 0 else 0.0
        for c in range(3):
            for d in range(3):
                by_strain[c, d] = 0.5 * (virial[c, d] + virial[d, c])
        errors[k, 1], errors[k, 2] = sum_forces, sum_stress
        if with_gradient:
            rows = slice(row, row + len(kinds_here))
            row += len(kinds_here)
            morse_gradient[rows] = 0.0
            amplitude_gradient[rows] = 0.0
            decay_gradient[rows] = 0.0
            element_gradient[k] = 0.0
            of_structure = (morse_gradient[rows], amplitude_gradient[rows], decay_gradient[rows], element_gradient[k])
            _add_gradient(
                element[atoms], edges, vectors, pieces, kinds_here, work, potential, excess, by_energy, by_forces,
                by_strain, of_structure,
            )  # fmt: skip
