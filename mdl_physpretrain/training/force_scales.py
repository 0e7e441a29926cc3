"""Force above which the loss of replayed structures is scaled down."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from mdl_physpretrain.structures.labels import get_labels

__all__ = ["force_scale_of"]

PERCENTILE = 95.0
SMALLEST = 0.5  # eV/Å: data at rest have no scale of their own
WITHOUT_FORCES = 5.0  # eV/Å, that of pretraining


def force_scale_of(structures: Sequence[Atoms]) -> float:
    """``force_scale`` for finetuning with replay, from the reference data, eV/Å.

    Force errors are divided by ``1 + |F| / force_scale`` (:class:`mdl_physpretrain.training.loss.EFSLoss`). With the
    95th percentile of the reference's forces as scale (0.5 eV/Å at least), nearly all reference atoms keep more than
    half of their weight, and a replayed atom with a label of 100 eV/Å cannot outweigh them: a share of structures is
    about a share of the loss.
    """
    sizes = [np.linalg.norm(f, axis=1) for a in structures if (f := get_labels(a).forces) is not None]
    if not sizes:
        return WITHOUT_FORCES
    return max(SMALLEST, float(np.percentile(np.concatenate(sizes), PERCENTILE)))
