"""Which elements of a structure stay at their sites, and which move through it.

A superionic conductor is sound: one sublattice is liquid-like, the others are
a solid (J. B. Boyce and B. A. Huberman, Phys. Rep. 51, 189 (1979); S. Hull,
Rep. Prog. Phys. 67, 1233 (2004)). A melt has no sublattice left. The Lindemann
index therefore counts per sublattice: as long as the structure is over a limit,
the element that moves most is set aside, and the index of what remains is that
of the distances *within* it. What remains is a framework when it is below all
limits and has at least a quarter of the atoms (one in four is the least in known
conductors: Li3N's nitrogen) and four of them; then those set aside diffuse.
Without a framework the structure is lost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mdl_physpretrain.stability.limits import Limits

__all__ = ["Sublattices", "framework"]

LEAST_SHARE, LEAST_ATOMS = 0.25, 4


@dataclass(frozen=True)
class Sublattices:
    """Sums over compared pairs, of every atom and every element of its partners.

    Attributes
    ----------
    element
        Of every atom: index into the elements, shape (n,).
    compared
        Number of partners, shape (n, G).
    fluctuations
        Sum of the relative fluctuations of the distances, shape (n, G).
    deviations
        Sum of the squared relative deviations from the first frame's
        distances, shape (n, G).
    """

    element: np.ndarray
    compared: np.ndarray
    fluctuations: np.ndarray
    deviations: np.ndarray

    def indices(self, elements: np.ndarray) -> tuple[np.ndarray, float]:
        """Local Lindemann indices of the atoms of some elements among each other, and the deviation from the start."""
        atoms = elements[self.element]
        pairs = self.compared[atoms][:, elements].sum(axis=1)
        local = self.fluctuations[atoms][:, elements].sum(axis=1) / np.maximum(pairs, 1)
        squared = float(self.deviations[atoms][:, elements].sum()) / max(float(pairs.sum()), 1.0)
        return local, float(np.sqrt(squared))


def framework(sums: Sublattices, limits: Limits) -> np.ndarray | None:
    """Mask of the elements that are a framework, shape (G,); ``None`` when the structure is lost."""
    n_elements = sums.compared.shape[1]
    present = np.bincount(sums.element, minlength=n_elements)
    staying = present > 0
    while staying.any():
        atoms = int(present[staying].sum())
        local, deviation = sums.indices(staying)
        if limits.holds(local, deviation):
            whole = atoms == len(sums.element)
            return staying if whole or (atoms >= LEAST_ATOMS and atoms >= LEAST_SHARE * len(sums.element)) else None
        of_elements = np.bincount(sums.element[staying[sums.element]], local, n_elements)
        moving = np.where(staying, of_elements / np.maximum(present, 1), -1.0)
        if deviation > limits.start_deviation and local.max(initial=0.0) <= limits.lindemann_local:
            squares = np.bincount(sums.element, sums.deviations[:, staying].sum(axis=1), n_elements)
            pairs = np.bincount(sums.element, sums.compared[:, staying].sum(axis=1), n_elements)
            moving = np.where(staying, squares / np.maximum(pairs, 1), -1.0)
        staying[int(np.argmax(moving))] = False
    return None
