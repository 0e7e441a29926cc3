"""Falls and jumps of energy curves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mdl_physpretrain.errors import StructureError

__all__ = ["deepest_fall", "lasting_jump", "standing_out", "stands_out", "unexplained_jump"]

STANDS_OUT = 2.0  # times both neighbouring differences; those of a smooth curve on a sensible grid are alike

MOST_STEPS, FINER, REFINEMENTS = 3, 21, 2  # that are looked at again; points; how often


def deepest_fall(energy: np.ndarray, least_rise: float) -> tuple[float, int]:
    """Depth and lowest index of the deepest fall below an earlier maximum, after a rise of ``least_rise``."""
    highest = np.maximum.accumulate(energy)
    fall = np.where(highest - energy[0] > least_rise, highest - energy, 0.0)
    index = int(np.argmax(fall))
    return float(fall[index]), index


def standing_out(differences: np.ndarray) -> float:
    """The largest step that is more than twice both of its neighbours, else 0; the first and the last do not count."""
    return float(np.abs(differences)[stands_out(differences)].max(initial=0.0))


def stands_out(differences: np.ndarray) -> np.ndarray:
    """Which steps are more than twice both of their neighbours, shape (n,)."""
    size = np.abs(differences)
    mask = np.zeros(len(size), dtype=bool)
    mask[1:-1] = size[1:-1] > STANDS_OUT * np.maximum(size[:-2], size[2:])
    return mask


def lasting_jump(
    force: np.ndarray, r: np.ndarray, limit: float, forces_at: Callable[[np.ndarray], np.ndarray]
) -> float:
    """Largest step of the force along a curve that stands out, eV/Å; 0 without.

    A force that changes fast between two points looks like a jump. Steps above ``limit`` (at most three) are looked at
    with ever nearer points, at last a 400th of the grid apart, and count as the largest step there: that of a jump
    stays.

    Parameters
    ----------
    force, r
        Of the curve, eV/Å and Å, shape (n,).
    limit
        eV/Å; smaller steps are no jumps anyway.
    forces_at
        Forces at other distances, NaN or a StructureError where there is none: such a step stays what it is.
    """
    steps = np.diff(force)
    size = np.where(stands_out(steps), np.abs(steps), 0.0)
    for k in np.argsort(-size)[:MOST_STEPS]:
        if size[k] <= limit:
            break
        low, high = r[k], r[k + 1]
        for _ in range(REFINEMENTS):
            near = np.linspace(low, high, FINER)
            try:
                finer = np.abs(np.diff(forces_at(near)))
            except StructureError:
                break
            if not np.isfinite(finer).all():
                break
            place = int(np.argmax(finer))
            low, high = near[place], near[place + 1]
        else:
            size[k] = finer[place]
    return float(size.max(initial=0.0))


def unexplained_jump(r: np.ndarray, energy: np.ndarray, force: np.ndarray) -> float:
    """Largest change of the energy that neither forces nor neighbouring changes explain, eV."""
    change, step = np.diff(energy), np.diff(r)
    # the mean force of an interval is within the forces around it
    around = np.pad(force, 1, mode="edge")
    four = np.stack([around[k : k + len(step)] for k in range(4)])
    mean = 0.5 * (force[:-1] + force[1:])
    unexplained = np.abs(change + mean * step) - 0.5 * (four.max(0) - four.min(0)) * step
    return float(np.maximum(unexplained, 0.0)[stands_out(change)].max(initial=0.0))
