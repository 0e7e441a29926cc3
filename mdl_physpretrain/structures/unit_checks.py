"""Whether labels are in eV, eV/Å and eV/Å³, with ASE's signs.

Between two similar structures the energy changes by the work of forces and
stress, whatever the potential::

    E2 - E1 = -1/2 sum_i (F1 + F2)_i . du_i + 1/2 (V1 s1 + V2 s2) : strain

A fit of both terms to the energies of pairs that lie close to each other gives
two factors, 1 if the units agree. Where they do not, the unit whose ratio is
nearest is named. What has no such pairs, or is off by the same factor
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
MAX_STRAIN, MAX_STEP = 0.08, 0.6  # of the cell; Å of one atom
AGREES = 0.3  # |factor - 1| that anharmonicity and noise can make
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
    return sentences + _by_work(pairs) + _by_size([labels for _, labels in labelled], pairs)


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
    """From the fit of the work to the changes of energy."""
    if len(pairs) < LEAST_PAIRS:
        return []
    energy, terms = pairs[:, 0], pairs[:, 1:3]
    kept = np.ones(len(pairs), dtype=bool)
    used = np.flatnonzero(np.abs(terms).max(axis=0) > 1e-9)
    if not len(used) or not np.abs(energy).max() > 1e-9:
        return []
    for _ in range(3):
        factors = np.linalg.lstsq(terms[kept][:, used], energy[kept], rcond=1e-9)[0]
        residual = np.abs(energy - terms[:, used] @ factors)
        kept = residual <= np.quantile(residual, 0.8) + 1e-12
    explained = 1 - np.square(residual[kept]).sum() / max(np.square(energy[kept]).sum(), 1e-30)
    if explained < 0.8 or kept.sum() < LEAST_PAIRS:
        return []
    parts = dict(zip(used.tolist(), factors.tolist(), strict=True))
    weight = np.square(terms[kept]).sum(axis=0) * np.square([parts.get(0, 0.0), parts.get(1, 0.0)])
    sentences, unit = [], 1.0
    if 0 in parts and weight[0] > 0.1 * weight.sum() and abs(parts[0] - 1) > AGREES:
        words, unit = _forces_words(parts[0])
        sentences.append(words)
    if 1 in parts and weight[1] > 0.1 * weight.sum() and abs(parts[1] * unit - 1) > AGREES:
        sentences.append(_stress_words(parts[1] * unit))
    return sentences


def _forces_words(factor: float) -> tuple[str, float]:
    """What is wrong between energies and forces, and the likely unit of energy in eV."""
    sign, size = ("-" if factor < 0 else ""), abs(factor)
    if abs(size - 1) < AGREES:
        return "the forces point uphill (they are gradients): forces: -eV/Å", 1.0
    candidates = [(e, f, FORCES[f] / ENERGIES[e]) for e in ENERGIES for f in FORCES]
    # one unit that differs is likelier than two
    energy, force, _ = min(
        candidates, key=lambda c: abs(np.log(size / c[2])) + 0.05 * (c[0] != "eV") + 0.05 * (c[1] != "eV/Å")
    )
    named = {"energy": energy} | {"forces": sign + force}
    likely = ", ".join(f"{label}: {unit}" for label, unit in named.items() if unit not in {"eV", "eV/Å"})
    return f"energies change by {factor:.3g} times the work of the forces; likely {likely}", ENERGIES[energy]


def _stress_words(factor: float) -> str:
    sign, size = ("-" if factor < 0 else ""), abs(factor)
    if abs(size - 1) < AGREES:
        return "the stress has the other sign than the energies say (ASE's is positive when stretched): stress: -eV/Å^3"
    unit = min(PRESSURES, key=lambda name: abs(np.log(size / PRESSURES[name])) + 0.3 * ("/" in name))
    return f"energies change by {factor:.3g} times the work of the stress; likely stress: {sign}{unit}"


def _by_size(labels: Sequence[Labels], pairs: np.ndarray) -> list[str]:
    """From values that no data have."""
    sentences = []
    forces = [float(np.sqrt(np.square(x.forces).sum(axis=1).mean())) for x in labels if x.forces is not None]
    stresses = [float(np.abs(x.stress).max()) for x in labels if x.stress is not None]
    if forces and np.median(forces) > LARGE_FORCE:
        mean = np.median(forces)
        sentences.append(f"forces of {mean:.3g} eV/Å on average are no common ones; likely kcal/mol/Å or kJ/mol/nm")
    if stresses and np.median(stresses) > LARGE_STRESS:
        sentences.append(
            f"stresses of {np.median(stresses):.3g} eV/Å³ ({np.median(stresses) * 160.2:.0f} GPa) are no common ones; "
            "likely stress: GPa or kbar"
        )
    still = pairs[(np.abs(pairs[:, 2]) < 1e-12) & (pairs[:, 3] > 1e-6)]
    if len(still) >= LEAST_PAIRS and not sentences:
        stiffness = float(np.median(still[:, 4] / still[:, 3]))
        if stiffness > STIFF or 0 < stiffness < SOFT:
            likely = "kcal/mol or kJ/mol" if stiffness > STIFF else "Hartree/Bohr"
            sentences.append(f"force constants of {stiffness:.3g} eV/Å² are no bond's; likely all in {likely}")
    return sentences
