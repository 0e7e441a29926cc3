"""Which of a teacher's labels finetuning replays: all, or only what lies beyond the data.

Not of the paper. Near the data a network that was trained on them may know forces far better than its teacher: the
teacher's labels there only cost accuracy. Beyond the data, where atoms come close above all, nobody but the teacher
knows anything.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from ase import Atoms

from mdl_physpretrain.errors import CheckpointError, StructureError
from mdl_physpretrain.files import write_atomic
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.structures.labels import forces_counted, get_labels, set_labels, structure_id
from mdl_physpretrain.teacher.changes import FramePair, change_skill, frame_pairs
from mdl_physpretrain.training.force_scales import force_percentile

__all__ = [
    "BEYOND_DATA",
    "CLOSER",
    "REPLAYED",
    "SCOPE",
    "ScopeChoice",
    "beyond_data",
    "chosen_scope",
    "comparable_frames",
    "error_growth",
    "noted_error",
    "refuse_finished_choice",
    "refuse_other_scope",
]

#: File of a training that says what was replayed.
SCOPE = "replay.json"
#: Folder, in that of a finetuning, of the training that replays only what lies beyond the data.
BEYOND_DATA = "beyond-data"
#: The same of one that held to them more closely.
CLOSER = "beyond-data-closer"
#: What a network's metadata say of its replay; a closed loop goes on with it.
REPLAYED = ("replay_scope", "replay_tolerance")
#: "Beyond the data" is above this percentile of the data's forces (and largest stress components).
PERCENTILE = 99.0
#: A label's expected error is measured within the data and grows beyond them: on frames of hotter MD (beryllium,
#: silicon, molybdenum) the relative error of the teacher's changes of force is 1.6 to 2.6 times that on training ones.
ERROR_GROWTH = 3.0
#: Largest share of a change of force that a label beyond the data may be wrong by: with all of it, it says nothing.
LARGEST_ERROR = 0.75
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
        ``"all"`` or ``"beyond_data"``.
    n_labels
        Labelled structures that were there to draw from.
    network_error
        Relative error of the changes of force of a network that replayed only what lies beyond the data: in training
        or in validation frames, where it is larger. ``None``: nothing was compared.
    teacher_error
        That which the labels carry (``info["change_error"]``). ``None``: they carry none.
    tolerance
        Of the labels beyond the data, in units of their expected error. ``None``: as for all labels.
    lost, lost_closer, simulated
        Trajectories of training structures that were lost by a network that held to these labels less closely and, if
        there are any, by one that held to them as closely as usual, and how many were simulated. ``None``: there was
        no such trial.
    """

    scope: str
    n_labels: int
    network_error: float | None = None
    teacher_error: float | None = None
    tolerance: float | None = None
    lost: int | None = None
    lost_closer: int | None = None
    simulated: int | None = None

    @property
    def closer_is_better(self) -> bool:
        """Whether the network that held to the labels more closely is taken: it loses fewer, or the other one all."""
        lost, closer = self.lost or 0, self.lost_closer
        return closer is not None and (closer < lost or lost == self.simulated)

    def write(self, folder: Path) -> None:
        """Write it into the folder of the training."""
        write_atomic(folder / SCOPE, json.dumps(asdict(self), indent=1))

    def agreed(self) -> ScopeChoice:
        """That of the first process of a training on several devices."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return self
        box = [self]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]


def noted_error(replay: Sequence[Atoms]) -> float | None:
    """Relative error of the teacher's changes of force as the labels say it (their median); ``None``: they do not.

    Raises
    ------
    StructureError
        If a label says no positive number.
    """
    errors = []
    for atoms in replay:
        value = atoms.info.get("change_error")
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 < value < np.inf:
            raise StructureError("must be a positive number", structure=structure_id(atoms), field="change_error")
        errors.append(float(value))
    return float(np.median(errors)) if errors else None


def error_growth(teacher_error: float) -> float:
    """How many times its measured error a label beyond the data may be wrong by: three, if that leaves something."""
    return float(np.clip(LARGEST_ERROR / teacher_error, 1.0, ERROR_GROWTH))


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
        Copies. ``arrays["forces_counted"]`` says which atoms' forces count; a stress within the data's is taken away
        (all are where the data have none); the energy stays. Structures with neither force nor stress are left out.
    """
    force_limit = force_percentile(structures, PERCENTILE)
    stresses = [float(np.abs(s).max()) for a in structures if (s := get_labels(a).stress) is not None]
    stress_limit = float(np.percentile(stresses, PERCENTILE)) if stresses else np.inf
    kept = []
    for atoms in replay:
        labels = get_labels(atoms)
        counted = np.zeros(len(atoms), dtype=bool)
        if labels.forces is not None and force_limit is not None:
            counted = forces_counted(atoms) & (np.linalg.norm(labels.forces, axis=1) > force_limit)
        strained = labels.stress is not None and np.abs(labels.stress).max() > stress_limit
        if not counted.any() and not strained:
            continue
        copy = set_labels(atoms.copy(), labels if strained else replace(labels, stress=None))
        copy.set_array("forces_counted", counted)
        kept.append(copy)
    return kept


def comparable_frames(structures: Sequence[Atoms], val: Sequence[Atoms] | None) -> list[Frames]:
    """Training and validation structures with forces, as far as they are frames of the same atoms.

    Returns
    -------
    list of (structures, pairs)
        Of each of the two sets that has a pair (:func:`mdl_physpretrain.teacher.changes.frame_pairs`); of a large set
        about 2,000 structures, whole groups of the same atoms, chosen at random.
    """
    found = []
    for part in (structures, val or ()):
        usable = _some_groups([atoms for atoms in part if get_labels(atoms).forces is not None])
        if pairs := frame_pairs(usable):
            found.append((usable, pairs))
    return found


def chosen_scope(
    network: EnergyModel, frames: Sequence[Frames], teacher_error: float, *, n_beyond: int, n_all: int
) -> ScopeChoice:
    """Whether a network that replayed only what lies beyond the data can do without the other labels.

    Parameters
    ----------
    network
        Finetuned with the labels of :func:`beyond_data`.
    frames
        Of :func:`comparable_frames`, not empty. The network's relative error of the changes of force
        (:func:`mdl_physpretrain.teacher.changes.change_skill`) has to be below two thirds of the teacher's in each set.
    teacher_error
        See :func:`noted_error`.
    n_beyond, n_all
        Numbers of labelled structures.
    """
    skills = [change_skill(network, structures, pairs) for structures, pairs in frames]
    errors = [skill.error / skill.trivial for skill in skills if skill.pairs]
    worst = max(errors, default=None)
    beyond = worst is not None and worst < BETTER * teacher_error
    choice = ScopeChoice("beyond_data" if beyond else "all", n_beyond if beyond else n_all, worst, teacher_error)
    return choice.agreed()


def refuse_other_scope(folder: Path, *, auto: bool) -> None:
    """Raise CheckpointError where a folder holds a finetuning whose labels were chosen in another way."""
    whole, first = ((place / "last.ckpt").is_file() for place in (folder, folder / BEYOND_DATA))
    if auto and whole and not (folder / BEYOND_DATA).is_dir():  # its last.ckpt may have been damaged and put aside
        raise CheckpointError(f"{folder} holds a training that chose no labels: choose another directory, or delete it")
    if not auto and first:
        raise CheckpointError(
            f"{folder} holds a finetuning with replay_scope 'auto', this is another one: choose another directory, or "
            "delete it"
        )


def refuse_finished_choice(folder: Path) -> None:
    """Raise CheckpointError where a folder holds a finished finetuning that another training would overwrite."""
    if (folder / SCOPE).is_file() and not (folder / "last.ckpt").is_file() and (folder / BEYOND_DATA).is_dir():
        raise CheckpointError(f"{folder} holds a finetuning with replay_scope 'auto': choose another directory")


def _some_groups(structures: list[Atoms]) -> list[Atoms]:
    """All structures; of many, whole groups of the same atoms up to a number."""
    if len(structures) <= MOST_STRUCTURES:
        return structures
    groups: dict[bytes, list[int]] = {}
    for k, atoms in enumerate(structures):
        groups.setdefault(atoms.numbers.tobytes(), []).append(k)
    rng = np.random.default_rng(0)
    members, chosen = list(groups.values()), list[int]()
    for k in rng.permutation(len(members)):
        left = MOST_STRUCTURES - len(chosen)
        if left < 2:
            break
        chosen += rng.permutation(members[k])[:left].tolist() if len(members[k]) > 1 else []
    return [structures[k] for k in sorted(chosen)]
