"""Thermal vibration amplitudes of atoms by the teacher."""

from __future__ import annotations

from collections.abc import Sequence

from ase import Atoms

from mdl_physpretrain.augmentation.thermal import disorder, thermal_amplitudes
from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.structures.elements import spread_sample
from mdl_physpretrain.structures.identifiers import require_unique_ids
from mdl_physpretrain.teacher.engines import Teacher
from mdl_physpretrain.teacher.label import label

__all__ = ["amplitudes_at"]

PROBE = 0.05  # Å: small enough for a harmonic answer
MOST_STRUCTURES = 50


def amplitudes_at(
    teacher: Teacher, structures: Sequence[Atoms], temperature: float, *, factor: float = 1.0, seed: int = 0
) -> dict[str, float]:
    """Thermal amplitudes (Å, by symbol) at a temperature (K), from the teacher's springs.

    All atoms of up to 50 structures are displaced by 0.05 Å in every direction; the teacher's change of force gives a
    spring per element (:func:`mdl_physpretrain.augmentation.thermal.thermal_amplitudes`). At most 0.5 Å times
    ``factor``, which stands for MD beyond the standard deviation and for real springs that soften.
    """
    if not (temperature > 0 and factor > 0):
        raise ConfigError(f"temperature and factor must be positive, not {temperature} and {factor}")
    structures = list(structures)
    require_unique_ids(structures, "structures")
    chosen = spread_sample(structures, -(-len(structures) // MOST_STRUCTURES))
    parents = label(chosen, teacher, stress=False, force=True)
    probes = label(disorder(chosen, n_aug=1, amplitude=PROBE, compression=0, shear=0, seed=seed), teacher, force=True)
    return {s: factor * a for s, a in thermal_amplitudes(probes, parents, temperature).items()}
