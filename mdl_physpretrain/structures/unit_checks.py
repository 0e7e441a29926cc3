"""Whether labels are in eV, eV/Å and eV/Å³, with ASE's signs.

Between two similar structures the energy changes by the work of forces and
stress, whatever the potential::

    E2 - E1 = -1/2 sum_i (F1 + F2)_i . du_i + 1/2 (V1 s1 + V2 s2) : strain

Where that does not explain the changes in the units of ASE, the combination of
common units that does is named. What has no such pairs, or is off by one factor
everywhere, is judged by its size.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from ase import Atoms

from mdl_physpretrain.structures.labels import Labels, get_labels
from mdl_physpretrain.structures.units import ENERGIES, FORCES, PRESSURES

__all__ = ["unit_warnings"]

MAX_PAIRS, LEAST_PAIRS = 400, 6
MAX_STRAIN, MAX_STEP = 0.06, 0.4  # of the cell; Å of one atom
DOUBTFUL = 0.12  # share of the energy changes that anharmonicity and noise leave unexplained
LARGE_STRESS, LARGE_FORCE = 1.0, 30.0  # eV/Å³ and eV/Å: medians that no data of solids or molecules have
STIFF, SOFT = 150.0, 0.03  # eV/Å²: force constants beyond diamond's and molecules', and below any


def unit_warnings(structures: Sequence[Atoms]) -> list[str]:
    """Sentences about labels whose unit or sign is likely another; empty when nothing speaks against them.

    Raises
    ------
    StructureError
        If a label has a NaN, an infinite value or a wrong shape.
    """
    labelled = [(atoms, get_labels(atoms)) for atoms in structures]
    per_atom = _per_atom(labelled)
    pairs = np.array(list(itertools.islice(_pairs(labelled, per_atom), MAX_PAIRS))).reshape(-1, 5)
    sentences = ["the energies are as those of one atom in structures of any size: energy: eV/atom"] if per_atom else []
    sentences += _by_work(pairs)
    reported = {label for label in ("forces", "stress") if any(label in sentence for sentence in sentences)}
    return sentences + _by_size([labels for _, labels in labelled], pairs, reported)


def _per_atom(labelled: Sequence[tuple[Atoms, Labels]]) -> bool:
    """Whether structures of one composition and different sizes have one energy."""
    groups = defaultdict(list)
    for atoms, labels in labelled:
        if labels.energy is not None:
            formula = atoms.symbols.formula.reduce()[0]
            groups[str(formula)].append((len(atoms), labels.energy))
    total, each = 0.0, 0.0
    for members in groups.values():
        sizes, energies = np.array(members).T
        if sizes.max() < 1.5 * sizes.min():
            continue
        total += float(np.square(energies - sizes * (energies @ sizes) / (sizes @ sizes)).sum())
        each += float(np.square(energies - energies.mean()).sum())
    return total > 0 and each < 0.02 * total


def _pairs(labelled: Sequence[tuple[Atoms, Labels]], per_atom: bool) -> Iterator[tuple[float, ...]]:
    """Of similar structures: energy change, work of forces and of stress, squared step, work of the force change."""
    groups = defaultdict(list)
    for atoms, labels in labelled:
        if labels.energy is not None and labels.forces is not None:
            groups[atoms.numbers.tobytes(), atoms.pbc.tobytes()].append((atoms, labels))
    for members in groups.values():
        # neighbours in the file, and those a few places further: frames of one run, or perturbations of one cell
        for gap in (1, 2, 5):
            for (a, x), (b, y) in zip(members, members[gap:], strict=False):
                pair = _work(a, x, b, y)
                if pair is not None:
                    yield (pair[0] * (len(a) if per_atom else 1), *pair[1:])


def _work(a: Atoms, x: Labels, b: Atoms, y: Labels) -> tuple[float, ...] | None:
    if x.energy is None or y.energy is None or x.forces is None or y.forces is None:
        return None
    strain, stress_work = np.zeros((3, 3)), 0.0
    if a.pbc.any():
        cells = a.cell.complete().array, b.cell.complete().array
        deformation = np.linalg.solve(*cells)
        strain = (deformation + deformation.T) / 2 - np.eye(3)
        if np.abs(deformation - np.eye(3)).max() > MAX_STRAIN:
            return None
        fractions = np.linalg.solve(cells[1].T, b.positions.T).T - np.linalg.solve(cells[0].T, a.positions.T).T
        fractions -= np.round(fractions) * a.pbc
        steps = fractions @ (cells[0] + cells[1]) / 2
    else:
        steps = b.positions - a.positions
    if np.abs(steps).max() > MAX_STEP:
        return None
    if np.abs(strain).max() > 1e-6:
        if x.stress is None or y.stress is None:
            return None
        virials = a.get_volume() * x.stress + b.get_volume() * y.stress
        stress_work = float((virials * strain).sum()) / 2
    forces_work = -float(((x.forces + y.forces) * steps).sum()) / 2
    change = -float(((y.forces - x.forces) * steps).sum())
    return y.energy - x.energy, forces_work, stress_work, float(np.square(steps).sum()), change


def _by_work(pairs: np.ndarray) -> list[str]:
    """The units in which the work of forces and stress explains the changes of energy, if those of ASE do not."""
    if len(pairs) < LEAST_PAIRS or not np.abs(pairs[:, 0]).max() > 1e-9:
        return []
    unexplained = {names: _unexplained(pairs, *factors) for names, factors in _CANDIDATES.items()}
    plain = unexplained["", "", ""]
    # every unit that is another one has to explain a good deal more
    best = min(_CANDIDATES, key=lambda names: np.log(unexplained[names] + 1e-3) + 0.5 * sum(map(bool, names)))
    if plain < DOUBTFUL or unexplained[best] > min(0.1, plain / 4):
        return []
    units = {label: unit for label, unit in zip(("energy", "forces", "stress"), best, strict=True) if unit}
    likely = ", ".join(f"{label}: {unit}" for label, unit in units.items())
    return [
        f"the work of forces and stress explains {max(1 - plain, 0):.0%} of the changes of energy between similar "
        f"structures, and {1 - unexplained[best]:.0%} if the units are {likely}"
    ]


def _unexplained(pairs: np.ndarray, energy: float, forces: float, stress: float) -> float:
    """Share of the squared changes of energy, without the fifth of the pairs that fit worst."""
    change = energy * pairs[:, 0]
    squares = np.square(change - forces * pairs[:, 1] - stress * pairs[:, 2])
    kept = squares <= np.quantile(squares, 0.8)
    return min(float(squares[kept].sum() / max(np.square(change[kept]).sum(), 1e-30)), 1e6)


def _candidates() -> dict[tuple[str, str, str], tuple[float, float, float]]:
    """Combinations of units of energy, forces and stress that are in use; the usual ones have no name."""
    energies = {"": 1.0} | {name: ENERGIES[name] for name in ("Hartree", "Rydberg", "kcal/mol", "kJ/mol", "meV")}
    common = ("Hartree/Bohr", "Rydberg/Bohr", "kcal/mol/Å", "kJ/mol/Å", "kJ/mol/nm", "meV/Å")
    forces = {"": 1.0, "-eV/Å": -1.0}
    stress = {"": 1.0, "-eV/Å^3": -1.0}
    for sign in ("", "-"):
        forces |= {sign + name: float(f"{sign}1") * FORCES[name] for name in common}
        pressures = (
            "GPa",
            "kbar",
            "bar",
            "MPa",
            "Pa",
            "Hartree/Bohr^3",
            "Rydberg/Bohr^3",
            "kcal/mol/Å^3",
            "kJ/mol/Å^3",
        )
        stress |= {sign + name: float(f"{sign}1") * PRESSURES[name] for name in pressures}
    return {(e, f, s): (energies[e], forces[f], stress[s]) for e, f, s in itertools.product(energies, forces, stress)}


_CANDIDATES = _candidates()


def _by_size(labels: Sequence[Labels], pairs: np.ndarray, reported: set[str]) -> list[str]:
    """From values that no data have, of labels that nothing is reported of yet."""
    sentences = []
    forces = [float(np.sqrt(np.square(x.forces).sum(axis=1).mean())) for x in labels if x.forces is not None]
    stresses = [float(np.abs(x.stress).max()) for x in labels if x.stress is not None]
    if forces and np.median(forces) > LARGE_FORCE and "forces" not in reported:
        mean = np.median(forces)
        sentences.append(f"forces of {mean:.3g} eV/Å on average are no common ones; likely kcal/mol/Å or kJ/mol/nm")
    if stresses and np.median(stresses) > LARGE_STRESS and "stress" not in reported:
        sentences.append(
            f"stresses of {np.median(stresses):.3g} eV/Å³ ({np.median(stresses) * 160.2:.0f} GPa) are no common ones; "
            "likely stress: GPa or kbar"
        )
    still = pairs[(np.abs(pairs[:, 2]) < 1e-12) & (pairs[:, 3] > 1e-6)]
    if len(still) >= LEAST_PAIRS and not sentences and not reported:
        stiffness = float(np.median(still[:, 4] / still[:, 3]))
        if stiffness > STIFF or 0 < stiffness < SOFT:
            likely = "kcal/mol or kJ/mol" if stiffness > STIFF else "Hartree/Bohr"
            sentences.append(f"force constants of {stiffness:.3g} eV/Å² are no bond's; likely all in {likely}")
    return sentences
