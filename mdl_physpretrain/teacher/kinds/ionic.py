"""Pairs with charges as a teacher, for ionic materials: fitted to the changes between frames and to the data."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from ase import Atoms
from ase.data import atomic_numbers
from pydantic import Field
from scipy.optimize import minimize, nnls

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.graphs.batch import build_batch
from mdl_physpretrain.graphs.bonds import core_ends, nearest_distances
from mdl_physpretrain.option_types import Section
from mdl_physpretrain.potentials.ionic import LENGTHS, IonicPair, radial_terms
from mdl_physpretrain.structures import validate_structures
from mdl_physpretrain.structures.labels import get_labels
from mdl_physpretrain.teacher.base import NativeTeacher
from mdl_physpretrain.teacher.changes import FramePair, frame_pairs
from mdl_physpretrain.teacher.examine import Examination, PairCurve, curve_table, examine_curves

__all__ = ["IonicTeacher", "fit_ionic"]

FORCE_SCALE = 0.5  # eV/Å: rows of larger forces count less
STRESS_WEIGHT = 10.0  # of eV/Å³ against eV/Å
ENERGY_WEIGHT = 0.3  # of eV per square root of the number of atoms against eV/Å
ABSOLUTE_WEIGHT = 0.1  # of the data themselves against the changes between frames
STARTS = 8
LARGEST_CHARGE = 3.0
MOST_STRUCTURES = 300


class IonicTeacher(NativeTeacher):
    """See :func:`fit_ionic`. Bonds are made by the whole crystal here, so that no pair alone needs a well."""

    name = "ionic"
    potentials = ("ionic",)

    class Options(Section):
        """Of the fit."""

        cutoff: float = Field(default=8.0, gt=0, le=20, description="Å.")
        core: bool = Field(default=True, description="Add a ZBL core that ends before the data begin.")
        seed: int = Field(default=0, ge=0, description="Of the starts of the charges.")

    def fit(
        self, structures: Sequence[Atoms], *, val: Sequence[Atoms] | None, options: Options, progress: bool
    ) -> IonicPair:
        return fit_ionic(structures, **options.model_dump())

    def examine(self, model: IonicPair, structures: Sequence[Atoms]) -> Examination:
        return examine_curves(model, structures, _pair_curve(model), wells=False)

    def curves(self, model: IonicPair, structures: Sequence[Atoms]) -> pd.DataFrame:
        return curve_table(model, structures, _pair_curve(model))


def _pair_curve(model: IonicPair) -> PairCurve:
    double = copy.deepcopy(model).double().cpu()
    return lambda a, b, typical, r: double.pair_curve(a, b, r)


class _Rows(NamedTuple):
    """The linear functions of one structure, by term and pair (columns), and its labels."""

    energy: np.ndarray  # (C,)
    forces: np.ndarray  # (3n, C)
    stress: np.ndarray  # (6, C)
    composition: np.ndarray  # (elements,)
    labels: tuple[float | None, np.ndarray | None, np.ndarray | None]  # energy, (3n,), (6,)


def fit_ionic(structures: Sequence[Atoms], *, cutoff: float = 8.0, core: bool = True, seed: int = 0) -> IonicPair:
    """Fit an :class:`IonicPair` (float64, cutoff in Å) by non-negative least squares.

    Rows are the changes of forces and stress between frames of the same atoms
    (:func:`mdl_physpretrain.teacher.changes.frame_pairs`), which an anchored teacher is used for, and, with a tenth of
    the weight, energies, forces and stresses themselves. The charges are found by a simplex search around the linear
    problem, from several starts. At most 300 structures, spread evenly, are used. ``core``: add a ZBL core that ends
    before the closest distance of the data. Raises StructureError if no structure has forces.
    """
    structures = validate_structures(list(structures), require=())
    elements = sorted({s for a in structures for s in a.symbols}, key=atomic_numbers.__getitem__)
    step = max(1, -(-len(structures) // MOST_STRUCTURES))
    left_out = [a for k, a in enumerate(structures) if k % step]
    structures = structures[::step]
    for symbol in set(elements) - {s for a in structures for s in a.symbols}:  # a rare element
        structures.append(next(a for a in left_out if symbol in a.symbols))
    if not any(get_labels(a).forces is not None for a in structures):
        raise StructureError("no structure has forces to fit to", field="forces")
    ends = core_ends(nearest_distances(structures, min(cutoff, 6.0))) if core else None
    model = IonicPair(elements, cutoff=cutoff, core=ends).double()
    pairs = [p for p in frame_pairs(structures, seed=seed) if _has_forces(structures, p)]
    rows = [_rows(model, atoms) for atoms in structures]
    triangle = _triangle(rows, pairs, len(model.pairs) * (len(LENGTHS) + 2))
    charges, strengths = _solve(triangle, model, seed)
    with torch.no_grad():
        model.charges.copy_(torch.as_tensor(charges))
        count = len(model.pairs)
        model.strengths.copy_(torch.as_tensor(strengths[: count * (len(LENGTHS) + 1)].reshape(-1, count).T.copy()))
        model.base_energies.copy_(torch.as_tensor(strengths[count * (len(LENGTHS) + 1) :]))
    fit = {"charges": dict(zip(elements, charges.tolist(), strict=True)), "frame_pairs": len(pairs)}
    model.metadata = {"elements": elements, "fit": fit}
    return model.eval()


def _has_forces(structures: Sequence[Atoms], pair: FramePair) -> bool:
    return all(get_labels(structures[k]).forces is not None for k in (pair.first, pair.second))


def _rows(model: IonicPair, atoms: Atoms) -> _Rows:
    """Energy, forces and stress of unit strengths."""
    batch = build_batch(atoms, model.cutoff, torch.float64)
    vectors = batch.edge_vectors()
    r = torch.linalg.vector_norm(vectors, dim=1)
    values, slopes = radial_terms(r, model.cutoff, model.lengths)
    kinds, count, n = model.edge_kinds(batch), len(model.pairs), len(atoms)
    i, j = batch.edge_index
    columns = len(values) * count
    energy = torch.zeros(len(values), count, dtype=torch.float64).index_add(1, kinds, 0.5 * values)
    directions = vectors / r[:, None]
    forces = torch.zeros(len(values), n * count, 3, dtype=torch.float64)
    pull = slopes[:, :, None] * directions
    forces.index_add_(1, i * count + kinds, 0.5 * pull)
    forces.index_add_(1, j * count + kinds, -0.5 * pull)
    forces = forces.reshape(-1, n, count, 3).permute(1, 3, 0, 2).reshape(3 * n, columns)
    volume = max(abs(float(np.linalg.det(atoms.cell.array))), 1e-9)
    outer = (vectors[:, :, None] * directions[:, None, :]).reshape(-1, 9)[:, [0, 4, 8, 5, 2, 1]]
    virial = torch.zeros(len(values), count, 6, dtype=torch.float64)
    virial.index_add_(1, kinds, 0.5 * slopes[:, :, None] * outer)
    stress = virial.permute(2, 0, 1).reshape(6, columns) / volume
    labels = get_labels(atoms)
    targets = (
        labels.energy,
        None if labels.forces is None else labels.forces.ravel(),
        None if labels.stress is None else labels.stress.ravel()[[0, 4, 8, 5, 2, 1]],
    )
    composition = np.array([(atoms.symbols == e).sum() for e in model.elements], dtype=np.float64)
    return _Rows(energy.reshape(-1).numpy(), forces.numpy(), stress.numpy(), composition, targets)


def _triangle(rows: Sequence[_Rows], pairs: Sequence[FramePair], columns: int) -> np.ndarray:
    """Upper triangle with the same least-squares problem as all rows, columns: terms, elements, right-hand side."""
    n_elements = len(rows[0].composition)
    triangle = np.zeros((0, columns + n_elements + 1))

    def add(matrix: np.ndarray, right: np.ndarray, weight: np.ndarray | float, composition: np.ndarray | None) -> None:
        nonlocal triangle
        side = np.zeros((len(matrix), n_elements)) if composition is None else composition
        block = np.concatenate([matrix, side, right[:, None]], axis=1) * np.broadcast_to(weight, len(matrix))[:, None]
        triangle = np.asarray(np.linalg.qr(np.concatenate([triangle, block]), mode="r"))

    for row in rows:
        energy, forces, stress = row.labels
        if forces is not None:
            add(row.forces, forces, ABSOLUTE_WEIGHT / (1 + np.abs(forces) / FORCE_SCALE), None)
        if stress is not None:
            add(row.stress, stress, ABSOLUTE_WEIGHT * STRESS_WEIGHT, None)
        if energy is not None:
            weight = ABSOLUTE_WEIGHT * ENERGY_WEIGHT / np.sqrt(max(row.composition.sum(), 1))
            add(row.energy[None], np.array([energy]), weight, row.composition[None])
    for pair in pairs:
        before, after = rows[pair.first], rows[pair.second]
        assert before.labels[1] is not None
        assert after.labels[1] is not None
        change = after.labels[1] - before.labels[1]
        add(after.forces - before.forces, change, 1 / (1 + np.abs(change) / FORCE_SCALE), None)
        if before.labels[2] is not None and after.labels[2] is not None:
            add(after.stress - before.stress, after.labels[2] - before.labels[2], STRESS_WEIGHT, None)
    return triangle


def _solve(triangle: np.ndarray, model: IonicPair, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Charges, and the non-negative strengths with the energies of the elements behind them."""
    count, n_elements = len(model.pairs), len(model.elements)
    index = [
        (model.elements.index(a), model.elements.index(b))
        for a, b in itertools.combinations_with_replacement(model.elements, 2)
    ]
    first, second = np.array(index).T
    elements = triangle[:, -1 - n_elements : -1]
    terms = np.concatenate([triangle[:, count : -1 - n_elements], elements, -elements], axis=1)
    scale = np.linalg.norm(terms, axis=0) + 1e-12

    def strengths(charges: np.ndarray) -> tuple[np.ndarray, float]:
        right = triangle[:, -1] - triangle[:, :count] @ (charges[first] * charges[second])
        solution, residual = nnls(terms / scale, right, maxiter=50 * terms.shape[1])
        return solution / scale, float(residual)

    rng = np.random.default_rng([seed, 0x10C])
    best: tuple[float, np.ndarray] = (strengths(np.zeros(n_elements))[1], np.zeros(n_elements))
    for _ in range(STARTS if n_elements > 1 else 0):
        start = rng.uniform(-1.5, 1.5, n_elements)
        search = minimize(
            lambda q: strengths(np.clip(q, -LARGEST_CHARGE, LARGEST_CHARGE))[1],
            start,
            method="Nelder-Mead",
            options={"maxiter": 60 * n_elements, "xatol": 1e-2, "fatol": 1e-4},
        )
        if search.fun < best[0]:
            best = (float(search.fun), np.clip(search.x, -LARGEST_CHARGE, LARGEST_CHARGE))
    solution, _ = strengths(best[1])
    return best[1], np.concatenate(
        [solution[: -2 * n_elements], solution[-2 * n_elements : -n_elements] - solution[-n_elements:]]
    )
