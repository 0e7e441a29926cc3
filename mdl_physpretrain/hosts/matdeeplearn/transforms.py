"""Algorithm 1 and the teacher's labels as a MatDeepLearn transform."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import torch
from matdeeplearn.common.registry import registry

from mdl_physpretrain.augmentation import augment_iter
from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.hosts.matdeeplearn.data import structure_of
from mdl_physpretrain.hosts.matdeeplearn.eam_start import read_eam
from mdl_physpretrain.structures.labels import get_labels
from mdl_physpretrain.teacher.engines import refuse_failed
from mdl_physpretrain.teacher.label import label

__all__ = ["AugmentAndLabel"]


@registry.register_transform("AugmentAndLabel")
class AugmentAndLabel:
    """Replaces a structure by an augmented one with the teacher's labels.

    As an ordinary transform it acts once, when the data are processed; with
    ``otf_transform: True`` at every access, so that every epoch sees a fresh
    draw. Access number ``k`` of a structure gives round ``(k + c) mod n_aug``
    of ``augment(..., seed=seed + (k + c) // n_aug)``, where ``c`` depends on
    the structure's id: ``n_aug`` epochs see all rounds, further ones new draws.

    MatDeepLearn applies a transform to all parts of a data set: use it in a
    configuration for pretraining, or the trainer ``physpretrain``, which
    augments the training part only.

    Parameters
    ----------
    teacher
        Checkpoint of an EAM, see
        :func:`mdl_physpretrain.hosts.matdeeplearn.eam_start.read_eam`.
    atom_types, cutoff
        Of a checkpoint of ``EAM_Interaction``.
    anchor
        Correct the labels with the structure's own, see
        :func:`mdl_physpretrain.teacher.label`.
    max_force
        A round with a larger force on an atom (eV/Å), or without a finite
        label, is replaced by the next weaker one; the structure stays as it is
        when none is left.
    index
        Which entry of ``y`` is the energy (-1: the only one).
    round
        Always this round of ``seed``, instead of one after the other.
    force
        Let a teacher label that failed its examination.
    **options
        Of :func:`mdl_physpretrain.augmentation.augment`.

    Raises
    ------
    ConfigError
        If the teacher or an option cannot be used, or edges were preprocessed.
    TeacherRefused
        If the teacher failed its examination.
    """

    def __init__(
        self,
        teacher: str,
        *,
        seed: int = 0,
        n_aug: int = 5,
        anchor: bool = False,
        max_force: float | None = None,
        index: int = -1,
        round: int | None = None,
        force: bool = False,
        atom_types: list[Any] | None = None,
        cutoff: float | None = None,
        **options: Any,
    ) -> None:
        if round is not None and not 0 <= round < n_aug:
            raise ConfigError(f"AugmentAndLabel: round must lie in [0, {n_aug}), not {round}")
        try:
            augment_iter([], seed=seed, n_aug=n_aug, **options)
        except TypeError as error:
            raise ConfigError(f"AugmentAndLabel: {error}") from error
        self.teacher = read_eam(teacher, atom_types, cutoff)
        refuse_failed(self.teacher, force)
        self.seed, self.n_aug, self.anchor, self.max_force = seed, n_aug, anchor, max_force
        self.index, self.round, self.options = index, round, options
        self.accesses: dict[str, int] = {}

    def draw(self, name: str) -> tuple[int, int]:
        """Seed and round of the next access of a structure."""
        if self.round is not None:
            return self.seed, self.round
        worker = torch.utils.data.get_worker_info()
        count = self.accesses.get(name, 0)
        self.accesses[name] = count + 1
        if worker is not None:  # a worker lives for one epoch and counts from zero: its seed tells epochs apart
            count += (worker.seed - worker.id) % 1_000_003 * self.n_aug
        count += zlib.crc32(name.encode()) % self.n_aug
        return self.seed + count // self.n_aug, count % self.n_aug

    def __call__(self, data: Any) -> Any:
        """The ``Data`` object with new positions and labels."""
        if getattr(data, "edge_index", None) is not None:
            raise ConfigError(
                "AugmentAndLabel moves atoms, but edges were preprocessed: set preprocess_edges and "
                "preprocess_edge_features to False, and otf_edge_index and otf_edge_attr to True"
            )
        parent = structure_of(data, self.index)
        if len(parent) < 2:
            return data
        seed, first = self.draw(parent.info["structure_id"])
        rounds = list(augment_iter([parent], seed=seed, n_aug=self.n_aug, **self.options))
        weaker = range(first, self.n_aug) if self.options.get("ladder", "down") == "down" else range(first, -1, -1)
        parents = [parent] if self.anchor else None
        for k in weaker:
            try:
                (labelled,) = label([rounds[k]], self.teacher, anchor=self.anchor, parents=parents, force=True)
            except StructureError:  # no finite label
                continue
            if self._fits(labelled.calc.results["forces"]):
                return self._changed(data, labelled)
        return data

    def _fits(self, forces: np.ndarray) -> bool:
        return self.max_force is None or float(np.linalg.norm(forces, axis=1).max()) <= self.max_force

    def _changed(self, data: Any, atoms: Any) -> Any:
        labels = get_labels(atoms)
        y = data.y.clone().reshape(-1)
        y[self.index if self.index >= 0 and len(y) > 1 else 0] = float(labels.energy or 0.0)
        new = {"pos": atoms.positions, "y": y, "forces": labels.forces, "stress": labels.stress}
        # while data are processed MatDeepLearn ignores what a transform returns and torch_geometric hands in a shallow
        # copy: only the tensors themselves can be changed. On access they belong to the stored data set.
        processing = isinstance(data.n_atoms, int)
        for key, value in new.items():
            old = getattr(data, key, None)
            if old is None:
                continue
            changed = (
                old.new_full(old.shape, float("nan")) if value is None else torch.as_tensor(value).reshape(old.shape)
            )
            if processing:
                old.copy_(changed)
            else:
                setattr(data, key, changed.to(old))
        return data
