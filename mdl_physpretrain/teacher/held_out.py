"""Errors of a teacher on structures that it was not fitted to, beside those of predicting no force."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from ase import Atoms

from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.structures.elements import spread_sample
from mdl_physpretrain.structures.identifiers import stable_id
from mdl_physpretrain.structures.labels import get_labels
from mdl_physpretrain.teacher.engines import make_engine

__all__ = ["force_verdict", "verdict_sentence", "worse_than_none"]

MOST_STRUCTURES = 300
HOPELESS = 10.0  # times the trivial error: not even the core can be believed
FAR = 1.5  # times the trivial error: near the data it knows nothing
SMALL_FORCE = 0.2  # eV/Å: of relaxed structures the trivial error says nothing about a teacher


def force_verdict(model: EnergyModel, structures: Sequence[Atoms], *, unseen: bool) -> dict[str, Any] | None:
    """Mean force errors (eV/Å) on at most 300 structures, and what the teacher may teach for them.

    Parameters
    ----------
    model
        The teacher.
    structures
        Labelled; those without forces, or with elements that the teacher does not know, do not count.
    unseen
        Whether the fit did not see them.

    Returns
    -------
    dict or None
        ``forces_mae``, ``trivial`` (of predicting no force), ``structures``, ``unseen``, ``worst`` (the id of the
        structure with the largest error) and ``teaches``: ``"all"``; ``"core"`` where the error is more than 1.5 times
        the trivial one (or 0.2 eV/Å, if that is more), so that only the repulsion of close atoms is worth learning;
        ``"nothing"`` where it is more than ten times that, or not finite. ``None`` without forces.
    """
    known = model.known_elements()
    usable = [a for a in structures if get_labels(a).forces is not None and (known is None or set(a.symbols) <= known)]
    if not usable:
        return None
    bare = copy.copy(model)
    bare.metadata = {}  # an earlier examination's limit of forces would hide what is asked for here
    chosen = spread_sample(usable, -(-len(usable) // MOST_STRUCTURES))
    worst, largest, total, trivial, count = "", -1.0, 0.0, 0.0, 0
    outcomes = chain.from_iterable(make_engine(bare, 64, False, True).outcomes(chosen))
    for atoms, outcome in zip(chosen, outcomes, strict=True):
        reference = get_labels(atoms).forces
        assert reference is not None
        forces = None if isinstance(outcome, str) else outcome.forces
        error = np.inf if forces is None else float(np.abs(forces - reference).sum())
        total, trivial, count = total + error, trivial + float(np.abs(reference).sum()), count + reference.size
        if error / reference.size > largest:
            worst, largest = stable_id(atoms), error / reference.size
    mean, zero = total / count, trivial / count
    ratio = mean / max(zero, SMALL_FORCE)
    return {
        "forces_mae": mean,
        "trivial": zero,
        "structures": len(chosen),
        "unseen": unseen,
        "worst": worst,
        "teaches": "all" if ratio <= FAR else "core" if ratio <= HOPELESS else "nothing",
    }


def worse_than_none(verdict: dict[str, Any]) -> bool:
    """Whether predicting no force would be nearer to the data."""
    return verdict["forces_mae"] is None or verdict["forces_mae"] > max(verdict["trivial"], SMALL_FORCE)


def verdict_sentence(verdict: dict[str, Any]) -> str:
    """The verdict in words."""
    seen = {True: " it has not seen", False: " of its fit", None: ""}[verdict["unseen"]]
    of = f"{verdict['structures']} structures{seen}"
    error = "infinite" if verdict["forces_mae"] is None else f"{verdict['forces_mae']:.3g} eV/Å"  # JSON has no infinity
    start = f"force error of {error} on {of}, no force at all has {verdict['trivial']:.3g}"
    worse = worse_than_none(verdict)
    ends = {
        "all": ": worse than none, only its changes from known structures can be believed" * worse,
        "core": ": near the data it knows nothing, and teaches its core only",
        "nothing": f" (the worst is {verdict['worst']})",
    }
    return start + ends[verdict["teaches"]]
