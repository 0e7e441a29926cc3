"""How large the forces of the data are: above which the loss is scaled down, and what lies beyond the data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from mdl_physpretrain.structures.labels import get_labels

__all__ = ["force_percentile", "force_scale_of"]

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
    scale = force_percentile(structures, PERCENTILE)
    return WITHOUT_FORCES if scale is None else max(SMALLEST, scale)


def force_percentile(structures: Sequence[Atoms], percentile: float) -> float | None:
    """Percentile of the sizes of the forces on all atoms, eV/Å; ``None`` where no structure has forces."""
    sizes = [np.linalg.norm(f, axis=1) for a in structures if (f := get_labels(a).forces) is not None]
    return float(np.percentile(np.concatenate(sizes), percentile)) if sizes else None
