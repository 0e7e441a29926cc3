"""Kernels of an MD step on a CPU, around the model: edges, displacements, temperatures.

The references are the operations in torch that a GPU uses, next to the calls.
Arithmetic of vectors and squares is that of IEEE, operation by operation, in their order.
"""

# ruff: noqa: ANN001, ANN201, ANN202 - numba finds the types of what it compiles
from __future__ import annotations

from mdl_physpretrain.compiled.compiler import compiled, exact

__all__ = ["displacements", "square_edges", "take_edges", "temperatures"]


@exact
def _component(positions, i, j, shift_vectors, e, c):
    return positions[j, c] - positions[i, c] + shift_vectors[e, c]


@exact
def _square(x, y, z):
    return x * x + y * y + z * z


@compiled
def square_edges(positions, index, shift_vectors, limit, near, squared, near_squared):
    """Write squared lengths of edges (E,) and of the ``near`` ones (P,), Å².

    Return how many are below the limit (Å²).
    """
    below = 0
    for e in range(squared.shape[0]):
        i, j = index[0, e], index[1, e]
        x = _component(positions, i, j, shift_vectors, e, 0)
        y = _component(positions, i, j, shift_vectors, e, 1)
        z = _component(positions, i, j, shift_vectors, e, 2)
        squared[e] = _square(x, y, z)
        below += squared[e] < limit
    for p in range(near.shape[0]):
        near_squared[p] = squared[near[p]]
    return below


@compiled
def take_edges(positions, index, shift_vectors, shifts, squared, limit, inside, inside_shifts, vectors):
    """Index, shifts and vectors of the edges below a limit, which are written: (2, E'), (E', 3), (E', 3)."""
    n = 0
    for e in range(squared.shape[0]):
        if not squared[e] < limit:
            continue
        i, j = index[0, e], index[1, e]
        inside[0, n], inside[1, n] = i, j
        for c in range(3):
            inside_shifts[n, c] = shifts[e, c]
            vectors[n, c] = _component(positions, i, j, shift_vectors, e, c)
        n += 1


@compiled
def displacements(positions, reference, structure, furthest):
    """Square of the largest displacement of each structure's atoms, (B,), Å², written; NaN where one is NaN."""
    furthest[:] = 0.0
    for a in range(structure.shape[0]):
        x = positions[a, 0] - reference[a, 0]
        y = positions[a, 1] - reference[a, 1]
        z = positions[a, 2] - reference[a, 2]
        moved = _square(x, y, z)
        if not moved <= furthest[structure[a]]:  # NaN, too, and it stays
            furthest[structure[a]] = moved


@exact
def _divide(x, y):
    return x / y


@exact
def _twice_kinetic(mass, x, y, z):
    return mass * (x * x) + mass * (y * y) + mass * (z * z)


@compiled
def temperatures(masses, velocities, structure, n_atoms, unit, kelvin):
    """Write instantaneous temperatures (B,); ``unit``: twice the kinetic energy of an atom per K, eV/K."""
    kelvin[:] = 0.0
    for a in range(structure.shape[0]):
        kelvin[structure[a]] += _twice_kinetic(masses[a, 0], velocities[a, 0], velocities[a, 1], velocities[a, 2])
    for k in range(n_atoms.shape[0]):
        kelvin[k] = _divide(_divide(kelvin[k], n_atoms[k]), unit)
