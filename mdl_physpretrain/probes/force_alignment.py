"""Probe of force alignment: angles between the forces of two potentials (Fig. B.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from ase import Atoms

from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.sum import Sum
from mdl_physpretrain.probes.base import Probe, Subject
from mdl_physpretrain.structures.labels import get_labels, structure_id
from mdl_physpretrain.teacher.label import label

if TYPE_CHECKING:
    from mdl_physpretrain.teacher.engines import Teacher as Potential

__all__ = [
    "RANDOM",
    "ForceAlignment",
    "alignment_summary",
    "alignment_table",
    "force_angles",
    "hybrid_angles",
    "hybrid_parts",
    "null_density",
]

MIN_FORCE = 1e-3
MAX_STRUCTURES = 100  # of the probe
SHARES = (30, 60, 90)
RANDOM = "random directions"


def force_angles(
    model: Potential, reference: Potential, structures: Sequence[Atoms], *, min_force: float = MIN_FORCE
) -> pd.DataFrame:
    """Angle between the forces of two potentials on every atom.

    Parameters
    ----------
    model, reference
        Any :class:`EnergyModel`, ASE calculator, or function that makes one.
    structures
        Their labels do not matter.
    min_force
        An atom on which either force is smaller, in eV/Å, has no direction to
        speak of: its angle is NaN. :func:`alignment_summary` counts these.

    Returns
    -------
    DataFrame
        One row per atom: ``structure_id``, ``atom`` (index in the structure),
        ``element``, ``angle`` (degrees, 0 to 180), ``force`` and
        ``reference_force`` (magnitudes, eV/Å).

    Raises
    ------
    ConfigError
        If ``min_force`` is not positive.
    StructureError
        If there are no structures, or a potential fails on one.

    References
    ----------
    Appendix B: for a pretrained network, its forces and those of the EAM that
    taught it, each from the potential alone.
    """
    _check(structures, min_force)
    return _compare(_forces(model, structures), _forces(reference, structures), structures, min_force)


def hybrid_parts(model: EnergyModel) -> tuple[EnergyModel, EnergyModel] | None:
    """The network and the EAM inside ``E = E_MLIP + E_EAM``; ``None`` where there are not both.

    A ZBL core added to the sum belongs to neither.
    """
    parts = list(model.leaves())
    eams = [part for part in parts if part.role == "teacher"]
    networks = [part for part in parts if part.role == "network"]
    return (_one(networks), _one(eams)) if networks and eams else None


def hybrid_angles(hybrid: EnergyModel, structures: Sequence[Atoms], *, min_force: float = MIN_FORCE) -> pd.DataFrame:
    """Angle between the two forces that a hybrid adds up: its network's and its EAM's.

    The EAM is the one in the hybrid; when it was trained with the network, it
    is no longer the teacher.

    Parameters
    ----------
    hybrid
        See :func:`hybrid_parts`.
    structures, min_force
        As for :func:`force_angles`.

    Returns
    -------
    DataFrame
        As of :func:`force_angles`; ``force`` is the network's part.

    Raises
    ------
    ConfigError
        If the model is not such a sum.

    References
    ----------
    Appendix B, "direct combination".
    """
    parts = hybrid_parts(hybrid)
    if parts is None:
        raise ConfigError("this model is not the sum of a network and an EAM: there are no two parts to compare")
    return force_angles(*parts, structures, min_force=min_force)


def alignment_table(
    models: Mapping[str, EnergyModel], teacher: Potential, structures: Sequence[Atoms], *, min_force: float = MIN_FORCE
) -> pd.DataFrame:
    """Fig. B.1 for several arms: hybrids by their own parts, all others against the teacher.

    Parameters
    ----------
    models
        A model for each arm.
    teacher
        The potential that labelled the pretraining data.
    structures, min_force
        As for :func:`force_angles`.

    Returns
    -------
    DataFrame
        As of :func:`force_angles`, with ``arm`` and ``against`` (``"own EAM"``
        or ``"teacher"``) in front.
    """
    _check(structures, min_force)
    taught: list[np.ndarray] | None = None
    tables = []
    for arm, model in models.items():
        parts = hybrid_parts(model)
        if parts is not None:
            angles = hybrid_angles(model, structures, min_force=min_force)
        else:
            taught = taught or _forces(teacher, structures)
            angles = _compare(_forces(model, structures), taught, structures, min_force)
        angles.insert(0, "arm", arm)
        angles.insert(1, "against", "teacher" if parts is None else "own EAM")
        tables.append(angles)
    if not tables:
        raise ConfigError("there are no models whose forces could be compared")
    return pd.concat(tables, ignore_index=True)


class ForceAlignment(Probe):
    """Angles of a network's forces to the teacher's, or of a hybrid's two parts, on structures that are not trained."""

    name = "alignment"
    question = "forces as the teacher's"
    applies_to = "potential"
    needs = frozenset({"teacher"})
    files = {"alignment": ("structure_id", "element", "angle")}  # noqa: RUF012
    texts = ("against",)
    expected = frozenset({"alignment"})
    answer_place = 70

    def tables(self, subject: Subject) -> dict[str, pd.DataFrame]:
        assert subject.teacher is not None
        structures = subject.choose(subject.first_split("test", "val", "train"), MAX_STRUCTURES)
        angles = alignment_table({subject.name: subject.potential}, subject.teacher, structures)  # type: ignore[dict-item]
        return {"alignment": angles.drop(columns="arm").round(4)}


def alignment_summary(angles: pd.DataFrame) -> pd.DataFrame:
    """Distribution of the angles in numbers, beside that of random directions.

    Parameters
    ----------
    angles
        Of :func:`force_angles` or :func:`alignment_table`.

    Returns
    -------
    DataFrame
        Indexed by ``arm`` (``"all"`` without such a column): ``n_atoms`` with
        an angle, ``left_out`` without one, ``mean, mean_error, median``
        (degrees), ``below_30, below_60, below_90`` (shares of ``n_atoms``).
        ``mean_error`` is the standard error of the mean between structures,
        since atoms of one structure are not independent. The last row,
        :data:`RANDOM`, is what directions without any relation would give.
    """
    groups = angles.groupby("arm", sort=False) if "arm" in angles else [("all", angles)]
    rows = {str(arm): _numbers(group) for arm, group in groups}
    rows[RANDOM] = {"n_atoms": 0, "left_out": 0, "mean": 90.0, "median": 90.0} | {
        f"below_{limit}": (1 - float(np.cos(np.radians(limit)))) / 2 for limit in SHARES
    }
    names = ["n_atoms", "left_out", "mean", "mean_error", "median", *(f"below_{limit}" for limit in SHARES)]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=names).rename_axis("arm")
    return table.astype({"n_atoms": int, "left_out": int, "mean": float, "mean_error": float, "median": float})


def null_density(angle: np.ndarray | float) -> np.ndarray:
    """Density (per degree) of the angle between independent, isotropic directions.

    It is ``sin(angle) / 2`` per radian: there is more room around the equator
    than at the poles, so even unrelated forces rarely align or oppose.
    """
    radians = np.radians(np.asarray(angle, dtype=np.float64))
    return np.where((radians >= 0) & (radians <= np.pi), np.sin(radians) * np.pi / 360, 0.0)


def _numbers(group: pd.DataFrame) -> dict[str, Any]:
    defined = group[group["angle"].notna()]
    numbers: dict[str, Any] = {"n_atoms": len(defined), "left_out": len(group) - len(defined)}
    if defined.empty:
        return numbers
    mean = float(defined["angle"].mean())
    deviations = (defined["angle"] - mean).groupby(defined["structure_id"]).sum()
    n = len(deviations)
    error = float(np.sqrt(n / (n - 1) * (deviations**2).sum())) / len(defined) if n > 1 else float("nan")
    shares = {f"below_{limit}": float((defined["angle"] < limit).mean()) for limit in SHARES}
    return numbers | {"mean": mean, "mean_error": error, "median": float(defined["angle"].median())} | shares


def _check(structures: Sequence[Atoms], min_force: float) -> None:
    if not 0 < min_force < float("inf"):
        raise ConfigError(f"min_force must be positive and finite (eV/Å), not {min_force}")
    if not len(structures):
        raise StructureError("there are no structures to compare forces on")


def _forces(potential: Potential, structures: Sequence[Atoms]) -> list[np.ndarray]:
    """Forces of a potential in eV/Å, shape (n, 3) for each structure."""
    calculated = label(structures, potential, stress=False, force=True, on_error="raise")
    return [np.asarray(get_labels(atoms).forces, dtype=np.float64) for atoms in calculated]


def _compare(
    forces: Sequence[np.ndarray], reference: Sequence[np.ndarray], structures: Sequence[Atoms], min_force: float
) -> pd.DataFrame:
    tables = []
    for atoms, a, b in zip(structures, forces, reference, strict=True):
        size_a, size_b = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
        # arccos would lose half the digits near 0 and 180 degrees
        angle = np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b), axis=1), (a * b).sum(axis=1)))
        angle[(size_a < min_force) | (size_b < min_force)] = np.nan
        tables.append(
            pd.DataFrame(
                {
                    "structure_id": structure_id(atoms),
                    "atom": np.arange(len(atoms)),
                    "element": atoms.get_chemical_symbols(),
                    "angle": angle,
                    "force": size_a,
                    "reference_force": size_b,
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def _one(models: Sequence[EnergyModel]) -> EnergyModel:
    return models[0] if len(models) == 1 else Sum(models)
