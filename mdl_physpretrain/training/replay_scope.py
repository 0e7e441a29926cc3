"""Which of a teacher's labels finetuning replays: all, or only what lies beyond the data.

Not of the paper. Near the data a network that was trained on them may know forces far better than its teacher: the
teacher's labels there only cost accuracy. Beyond the data, in the repulsive cores above all, nobody but the teacher
knows anything.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from ase import Atoms

from mdl_physpretrain.files import write_atomic
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.structures.labels import get_labels, set_labels
from mdl_physpretrain.teacher.changes import FramePair, change_skill, frame_pairs

__all__ = ["SCOPE", "ScopeChoice", "beyond_data", "chosen_scope", "comparable_frames", "noted_error"]

#: File of a training that says what was chosen.
SCOPE = "replay.json"
#: "Beyond the data" is above this percentile of the data's forces (and largest stress components).
PERCENTILE = 99.0
#: The network has to know changes of force so much better than the teacher: its error divided by the teacher's.
BETTER = 2 / 3
#: Of a set, for the comparison.
MOST_STRUCTURES = 2000

Frames = tuple[list[Atoms], list[FramePair]]


@dataclass(frozen=True)
class ScopeChoice:
    """Why all labels were replayed, or only those beyond the data.

    Attributes
    ----------
    scope
        ``"all"`` or ``"core"``.
    network_error
        Relative error of the changes of force of a network that replayed the core alone: in training or in validation
        frames, where it is larger. ``None``: there are no two frames of the same atoms, or none was trained.
    teacher_error
        That which the labels carry (``info["change_error"]``). ``None``: they carry none.
    """

    scope: str
    network_error: float | None = None
    teacher_error: float | None = None

    def write(self, folder: Path) -> None:
        """Write it into the folder of the training."""
        write_atomic(folder / SCOPE, json.dumps(asdict(self), indent=1))


def noted_error(replay: Sequence[Atoms]) -> float | None:
    """Relative error of the teacher's changes of force as the labels say it (their median); ``None``: they do not."""
    errors = [float(atoms.info["change_error"]) for atoms in replay if "change_error" in atoms.info]
    return float(np.median(errors)) if errors else None


def beyond_data(replay: Sequence[Atoms], structures: Sequence[Atoms]) -> list[Atoms]:
    """Labelled structures whose forces and stress count only beyond those of the data.

    Parameters
    ----------
    replay
        With the teacher's labels.
    structures
        With reference labels: 99 % of the forces on their atoms, and of their largest stress components, lie within
        the data.

    Returns
    -------
    list[Atoms]
        Copies. ``arrays["forces_counted"]`` says which atoms' forces count; a stress within the data's is taken away;
        structures of which neither is left are left out.
    """
    force_limit = _limit([np.linalg.norm(f, axis=1) for a in structures if (f := get_labels(a).forces) is not None])
    stress_limit = _limit([np.abs(s).max(keepdims=True) for a in structures if (s := get_labels(a).stress) is not None])
    kept = []
    for atoms in replay:
        labels = get_labels(atoms)
        counted = np.zeros(len(atoms), dtype=bool)
        if labels.forces is not None:
            counted = np.linalg.norm(labels.forces, axis=1) > force_limit
        strained = labels.stress is not None and np.abs(labels.stress).max() > stress_limit
        if not counted.any() and not strained:
            continue
        copy = set_labels(atoms.copy(), labels if strained else replace(labels, stress=None))
        copy.set_array("forces_counted", counted & atoms.arrays.get("forces_counted", True))
        kept.append(copy)
    return kept


def comparable_frames(structures: Sequence[Atoms], val: Sequence[Atoms] | None) -> list[Frames]:
    """Training and validation structures with forces, as far as they are frames of the same atoms.

    Returns
    -------
    list of (structures, pairs)
        Of each of the two sets that has a pair (:func:`mdl_physpretrain.teacher.changes.frame_pairs`); of a large set
        2,000 structures, chosen at random.
    """
    found = []
    for part in (structures, val or ()):
        usable = [atoms for atoms in part if get_labels(atoms).forces is not None]
        if len(usable) > MOST_STRUCTURES:
            chosen = np.random.default_rng(0).permutation(len(usable))[:MOST_STRUCTURES]
            usable = [usable[k] for k in np.sort(chosen)]
        if pairs := frame_pairs(usable):
            found.append((usable, pairs))
    return found


def chosen_scope(network: EnergyModel, frames: Sequence[Frames], teacher_error: float) -> ScopeChoice:
    """Whether a network that replayed the core alone knows the data well enough to do without the other labels.

    Parameters
    ----------
    network
        Finetuned with the labels of :func:`beyond_data`.
    frames
        Of :func:`comparable_frames`, not empty. The network's relative error of the changes of force
        (:func:`mdl_physpretrain.teacher.changes.change_skill`) has to be below two thirds of the teacher's in each set.
    teacher_error
        See :func:`noted_error`.
    """
    skills = [change_skill(network, structures, pairs) for structures, pairs in frames]
    worst = max(skill.error / skill.trivial if skill.trivial > 0 else float("inf") for skill in skills)
    return ScopeChoice("core" if worst < BETTER * teacher_error else "all", worst, teacher_error)


def _limit(sizes: Sequence[np.ndarray]) -> float:
    """What nearly all of the data stay below; infinite where they say nothing."""
    return float(np.percentile(np.concatenate(sizes), PERCENTILE)) if sizes else float("inf")
