"""Labels of a committee of networks, where its members agree better than the teacher is expected to be right.

Not of the paper. Near the data a network that was trained on them can be more accurate than the potential that
teaches, whose labels then cost accuracy in finetuning (replay). Far from the data it knows nothing, and networks that
started from different weights disagree there (query by committee: Seung, Opper and Sompolinsky, Proc. COLT 287 (1992);
as an expected error of forces: Schran, Brezina and Marsalek, J. Chem. Phys. 153, 104105 (2020)). Of every atom the
forces are those of whom a smaller error is expected: of the mean of the networks their spread, calibrated on reference
labels that they were not trained on; of the teacher what its label says (``augment.change_error``). Beyond the forces
that the data know neither estimate holds, and two networks may miss the same repulsion: there the teacher is believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
from ase import Atoms

from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.potentials import load_model
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.structures.labels import Labels, get_labels, set_labels
from mdl_physpretrain.teacher.engines import make_engine
from mdl_physpretrain.teacher.journal import Outcome

__all__ = ["Agreement", "committee_labels"]

BATCH_SIZE = 64
KNOWN = 0.99  # quantile of the reference forces up to which a committee is believed


@dataclass(frozen=True)
class Agreement:
    """What a committee knew.

    Attributes
    ----------
    atoms, stresses
        Shares of atoms and of structures whose forces and stress became the committee's.
    largest_force
        Up to which a committee is believed, eV/Å.
    forces_error
        Of the mean of the networks on validation structures, mean absolute component, eV/Å.
    forces_factor, stress_factor
        Expected errors in units of the spread, at least 1.
    """

    atoms: float
    stresses: float
    largest_force: float
    forces_error: float
    forces_factor: float
    stress_factor: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Opinion:
    """Mean of the networks on one structure, and their spread: of every atom, and of the stress."""

    forces: np.ndarray
    forces_spread: np.ndarray
    stress: np.ndarray | None
    stress_spread: float


def committee_labels(
    labelled: Sequence[Atoms],
    networks: Sequence[EnergyModel | str | Path],
    structures: Sequence[Atoms],
    val: Sequence[Atoms],
) -> tuple[list[Atoms], Agreement]:
    """Labels of a teacher, with those of networks where these are expected to be nearer to the reference.

    Parameters
    ----------
    labelled
        With the teacher's labels and their expected errors (``arrays["forces_tolerance"]``, eV/Å, and
        ``info["stress_tolerance"]``, eV/Å³, which :func:`mdl_physpretrain.teacher.label` writes).
    networks
        Two potentials or more, or their checkpoints, trained on reference labels from different initial weights.
    structures
        With reference forces, which the networks were trained on: where the teacher's label is larger than 99 % of
        them, it stays.
    val
        With reference forces, of which no network has seen any.

    Returns
    -------
    list of Atoms
        Copies. Energies remain the teacher's; expected errors are those of the labels that were taken.
    Agreement
        How much was taken.

    Raises
    ------
    ConfigError
        If there are fewer than two networks, or these are all the same.
    StructureError
        If no label has an expected error, the data have no forces, or a network fails on a validation structure.
    """
    members = [network if isinstance(network, EnergyModel) else load_model(network) for network in networks]
    if len(members) < 2:
        raise ConfigError("a committee needs two networks or more, that can disagree")
    if not any("forces_tolerance" in atoms.arrays for atoms in labelled):
        raise StructureError(
            "no label has an expected error (augment.change_error: auto), which a committee is compared with",
            field="forces_tolerance",
        )
    judged = [atoms for atoms in val if get_labels(atoms).forces is not None]
    if not judged:
        raise StructureError("a committee is judged by validation structures with forces: there are none", field="val")
    known = [_opinion(answers) for answers in _answers(members, judged)]
    for atoms, opinion in zip(judged, known, strict=True):
        if opinion is None:
            raise StructureError("a network of the committee fails", structure=str(atoms.info.get("structure_id")))
    sizes = [np.linalg.norm(f, axis=1) for a in structures if (f := get_labels(a).forces) is not None]
    if not sizes:
        raise StructureError("a committee is believed where the data know forces: there are none", field="forces")
    largest = float(np.quantile(np.concatenate(sizes), KNOWN))
    forces_error, forces_factor, stress_factor = _calibrated(judged, cast("list[_Opinion]", known))
    taken, atoms_asked, stresses, stresses_asked = 0, 0, 0, 0
    result = []
    for atoms, answers in zip(labelled, _answers(members, labelled), strict=True):
        copy, opinion, labels = atoms.copy(), _opinion(answers), get_labels(atoms)
        forces, stress = labels.forces, labels.stress
        if "forces_tolerance" in atoms.arrays and forces is not None:
            atoms_asked += len(atoms)
            if opinion is not None:
                expected = forces_factor * opinion.forces_spread
                better = (expected < atoms.arrays["forces_tolerance"]) & (np.linalg.norm(forces, axis=1) <= largest)
                taken += int(better.sum())
                forces = np.where(better[:, None], opinion.forces, forces)
                copy.arrays["forces_tolerance"] = np.where(better, expected, atoms.arrays["forces_tolerance"])
        if "stress_tolerance" in atoms.info and stress is not None:
            stresses_asked += 1
            if opinion is not None and opinion.stress is not None:
                error = stress_factor * opinion.stress_spread
                small = labels.forces is None or np.linalg.norm(labels.forces, axis=1).max() <= largest
                if small and error < atoms.info["stress_tolerance"]:
                    stress, copy.info["stress_tolerance"] = opinion.stress, error
                    stresses += 1
        set_labels(copy, Labels(labels.energy, forces, stress))
        result.append(copy)
    shares = (taken / max(atoms_asked, 1), stresses / max(stresses_asked, 1))
    return result, Agreement(*shares, largest, forces_error, forces_factor, stress_factor)


def _answers(members: Sequence[EnergyModel], structures: Sequence[Atoms]) -> list[tuple[Outcome, ...]]:
    """What every network says of every structure."""
    engines = [make_engine(member, BATCH_SIZE, True, True, bounded=False) for member in members]
    every = [list(chain.from_iterable(engine.outcomes(structures))) for engine in engines]
    return list(zip(*every, strict=True))


def _opinion(answers: Sequence[Outcome]) -> _Opinion | None:
    """Mean and spread; ``None`` where a network fails."""
    labels = [answer for answer in answers if not isinstance(answer, str)]
    if len(labels) < len(answers):
        return None
    forces = np.stack([np.asarray(label.forces) for label in labels])
    if not np.isfinite(forces).all():
        return None
    spread = np.sqrt(((forces - forces.mean(axis=0)) ** 2).mean(axis=(0, 2)))
    stresses = [label.stress for label in labels if label.stress is not None]
    if len(stresses) < len(labels):
        return _Opinion(forces.mean(axis=0), spread, None, 0.0)
    stress = np.stack(stresses)
    of_stress = float(np.abs(stress - stress.mean(axis=0)).mean())
    return _Opinion(forces.mean(axis=0), spread, stress.mean(axis=0), of_stress)


def _calibrated(val: Sequence[Atoms], opinions: Sequence[_Opinion]) -> tuple[float, float, float]:
    """Error of the mean's forces, and errors of forces and stress in units of the spread, at least 1.

    Without reference stresses the factor of the forces is that of the stress, too. Raises ConfigError where no network
    differs from another.
    """
    errors, spreads, stress_errors, stress_spreads = [], [], [], []
    for atoms, opinion in zip(val, opinions, strict=True):
        labels = get_labels(atoms)
        errors.append(np.abs(opinion.forces - labels.forces).ravel())
        spreads.append(opinion.forces_spread)
        if labels.stress is not None and opinion.stress is not None:
            stress_errors.append(float(np.abs(opinion.stress - labels.stress).mean()))
            stress_spreads.append(opinion.stress_spread)
    error = float(np.concatenate(errors).mean())
    spread = float(np.concatenate(spreads).mean())
    if spread == 0:
        raise ConfigError("the networks of the committee are the same: they must start from different weights")
    factor = max(1.0, error / spread)
    if not stress_errors or not any(stress_spreads):
        return error, factor, factor
    return error, factor, max(1.0, float(np.mean(stress_errors) / np.mean(stress_spreads)))
