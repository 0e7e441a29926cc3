"""A classical force field as a teacher: charges, pairs and angles fitted to the changes between frames."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from ase import Atoms
from pydantic import Field
from scipy.optimize import minimize, nnls
from torch import Tensor

from mdl_physpretrain.errors import ConfigError, PhysPretrainError, StructureError
from mdl_physpretrain.graphs.batch import AtomicBatch, build_batch
from mdl_physpretrain.graphs.bonds import PairDistances, core_ends, nearest_distances
from mdl_physpretrain.option_types import Section
from mdl_physpretrain.potentials.bond_angles import COSINES, REACHES, angle_gradients
from mdl_physpretrain.potentials.classical import LENGTHS, ClassicalForceField, radial_terms
from mdl_physpretrain.structures import validate_structures
from mdl_physpretrain.structures.elements import elements_of, spread_sample
from mdl_physpretrain.structures.labels import get_labels
from mdl_physpretrain.teacher.base import NativeTeacher
from mdl_physpretrain.teacher.changes import FramePair, frame_pairs
from mdl_physpretrain.teacher.engines import LABEL_BOUND, make_engine
from mdl_physpretrain.teacher.examine import (
    INNERMOST,
    REPULSIVE_BELOW,
    WALL_AT,
    WALL_ENERGY,
    Examination,
    PairCurve,
    curve_table,
    examine_curves,
    extrapolated_pairs,
)

__all__ = ["ClassicalTeacher", "fit_classical"]

FORCE_SCALE = 0.5  # eV/Å: rows of larger forces count less
REWEIGHTINGS = 2  # fits with the weights of the one before
STRESS_WEIGHT = 10.0  # of eV/Å³ against eV/Å
ENERGY_WEIGHT = 0.3  # of eV per square root of the number of atoms against eV/Å
ABSOLUTE_WEIGHT = 0.1  # of the data themselves against the changes between frames
STARTS = 8
LARGEST_CHARGE = 3.0
SAME_PRODUCT = 0.05  # e²: charges whose products differ by less are the same
MOST_CHARGES = 4
WORTH = 1.01  # charges must improve the fit by that factor
PRIOR = 0.02
MARGIN = 0.1  # eV/Å, of the repulsion that a pair has where the data are silent
LIMITS = 40  # distances at which a pair is asked to repel
LIMIT_WEIGHT = 1e3  # of limits against the data
MOST_STRUCTURES = 300
MOST_COLUMNS = 6000  # unknowns: memory is their square, time the cube


class ClassicalTeacher(NativeTeacher):
    """See :func:`fit_classical`. Bonds are made by the whole crystal here, so that no pair alone needs a well."""

    name = "classical"
    potentials = ("classical",)

    class Options(Section):
        """Of the fit."""

        cutoff: float = Field(default=8.0, gt=0, le=20, description="Å.")
        core: bool = Field(default=True, description="Add a ZBL core that ends before the data begin.")
        angles: bool = Field(default=True, description="Add angular terms.")
        seed: int = Field(default=0, ge=0, description="Of the starts of the charges.")

    def fit(
        self, structures: Sequence[Atoms], *, val: Sequence[Atoms] | None, options: Options, progress: bool
    ) -> ClassicalForceField:
        return fit_classical(structures, **options.model_dump())

    def examine(self, model: ClassicalForceField, structures: Sequence[Atoms]) -> Examination:
        bound = None if model.core is None else LABEL_BOUND
        return examine_curves(model, structures, _pair_curve(model), wells=False, max_force=bound)

    def curves(self, model: ClassicalForceField, structures: Sequence[Atoms]) -> pd.DataFrame:
        return curve_table(model, structures, _pair_curve(model))


def _pair_curve(model: ClassicalForceField) -> PairCurve:
    double = copy.deepcopy(model).double().cpu()
    return lambda a, b, typical, r: double.pair_curve(a, b, r)


class _Rows(NamedTuple):
    """The linear functions of one structure, by term and pair (columns), and its labels."""

    energy: np.ndarray  # (C,)
    forces: np.ndarray  # (3n, C)
    stress: np.ndarray  # (6, C)
    composition: np.ndarray  # (elements,)
    labels: tuple[float | None, np.ndarray | None, np.ndarray | None]  # energy, (3n,), (6,)


def fit_classical(
    structures: Sequence[Atoms], *, cutoff: float = 8.0, core: bool = True, angles: bool = True, seed: int = 0
) -> ClassicalForceField:
    """Fit an :class:`ClassicalForceField` (float64, cutoff in Å) by non-negative least squares.

    Rows are the changes of forces and stress between frames of the same atoms
    (:func:`mdl_physpretrain.teacher.changes.frame_pairs`), which an anchored teacher is used for, and, with a tenth of
    the weight, energies, forces and stresses themselves. Rows of large forces weigh less: of large labels in a first
    fit, of large forces of the fit before in two more. (A weight that falls with the label itself takes out the rows
    whose noise points outwards: too soft a force field.) Every pair of the data repels below 0.75 of its typical
    distance and has a wall of 3 eV at half of it: inequalities, each an equation with a non-negative slack. The charges
    are found by a simplex search around the linear problem, from several starts, and left out where they improve the
    fit by less than 1 %. At most 300 structures, spread evenly, are used. ``core``: add a ZBL core that ends
    before the closest distance of the data. Raises StructureError if no structure has forces, ConfigError if there are
    too many elements, PhysPretrainError if the fit does not converge.

    References
    ----------
    C. L. Lawson and R. J. Hanson, Solving Least Squares Problems (1974), chapter 23.
    """
    structures = validate_structures(list(structures), require=())
    elements = elements_of(structures)
    count = len(elements) * (len(elements) + 1) // 2
    columns = count * (len(LENGTHS) + 2 + (len(elements) * len(REACHES) * len(COSINES) if angles else 0))
    if columns > MOST_COLUMNS:
        raise ConfigError(
            f"a classical force field of {len(elements)} elements has {columns} strengths to fit, more than "
            f"{MOST_COLUMNS}: {'leave out its angles (angles: false), or ' if angles else ''}fit an EAM (kind eam)"
        )
    structures = spread_sample(structures, -(-len(structures) // MOST_STRUCTURES))
    if not any(get_labels(a).forces is not None for a in structures):
        raise StructureError("no structure has forces to fit to", field="forces")
    ends = core_ends(nearest_distances(structures, min(cutoff, 6.0))) if core else None
    model = ClassicalForceField(elements, cutoff=cutoff, core=ends, angles=angles).double()
    pairs = [p for p in frame_pairs(structures, seed=seed) if _has_forces(structures, p)]
    rows = [_rows(model, atoms) for atoms in structures]
    distances = nearest_distances(structures, cutoff)
    distances |= extrapolated_pairs(elements, distances)
    expected = [row.labels[1] for row in rows]  # forces whose size says what a row weighs
    for _ in range(1 + REWEIGHTINGS):
        _solve(_triangle(rows, pairs, len(rows[0].energy), expected), model, distances, seed)
        expected = _forces(model, structures)
    fit = {"charges": dict(zip(elements, model.charges.tolist(), strict=True)), "frame_pairs": len(pairs)}
    model.metadata = {"elements": elements, "fit": fit}
    return model.eval()


def _has_forces(structures: Sequence[Atoms], pair: FramePair) -> bool:
    return all(get_labels(structures[k]).forces is not None for k in (pair.first, pair.second))


def _rows(model: ClassicalForceField, atoms: Atoms) -> _Rows:
    """Energy, forces and stress of unit strengths."""
    batch = build_batch(atoms, model.cutoff, torch.float64)
    vectors = batch.edge_vectors()
    r = torch.linalg.vector_norm(vectors, dim=1)
    values, slopes = radial_terms(r, model.cutoff, model.lengths)
    kinds, count, n = model.edge_kinds(batch), len(model.pairs), len(atoms)
    i, j = batch.edge_index
    columns = len(values) * count
    energy = torch.zeros(len(values), count, dtype=torch.float64).index_add(1, kinds, 0.5 * values).reshape(-1)
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
    if model.angle_strengths is not None:
        further = _angle_rows(model, batch, vectors, volume)
        energy, forces, stress = (
            torch.cat(both, dim=-1) for both in zip((energy, forces, stress), further, strict=True)
        )
    labels = get_labels(atoms)
    targets = (
        labels.energy,
        None if labels.forces is None else labels.forces.ravel(),
        None if labels.stress is None else labels.stress.ravel()[[0, 4, 8, 5, 2, 1]],
    )
    composition = np.array([(atoms.symbols == e).sum() for e in model.elements], dtype=np.float64)
    return _Rows(energy.numpy(), forces.numpy(), stress.numpy(), composition, targets)


def _angle_rows(
    model: ClassicalForceField, batch: AtomicBatch, vectors: Tensor, volume: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Energy (C,), forces (3n, C) and stress (6, C) of unit strengths of the angular terms."""
    n_atoms, n_elements, n_pairs = len(batch.numbers), len(model.elements), len(model.pairs)
    elements = model.element_index(batch.numbers)
    per_place = len(REACHES) * len(COSINES)
    sums = model.angle_sums(batch, vectors).reshape(n_atoms, n_pairs * per_place)
    energy = torch.zeros(n_elements, n_pairs * per_place, dtype=torch.float64).index_add(0, elements, sums).reshape(-1)
    short, kinds, moments = model.bonds(batch, vectors)
    i, j = batch.edge_index[:, short]
    along, across = angle_gradients(i, kinds, moments)
    gradient = along[..., None] * moments.unit[:, None, None, None, :] + across  # (E, n, m, c, 3)
    gradient = gradient.reshape(len(i), n_elements, per_place, 3)
    place = elements[i][:, None] * n_pairs + model.pair_of[kinds]  # (E, n): centre's element and pair
    rows = n_elements * n_pairs
    forces = torch.zeros(n_atoms * rows, per_place, 3, dtype=torch.float64)
    for atom, sign in ((i, 1.0), (j, -1.0)):
        forces.index_add_(0, (atom[:, None] * rows + place).reshape(-1), sign * gradient.reshape(-1, per_place, 3))
    forces = forces.view(n_atoms, rows * per_place, 3).transpose(1, 2).reshape(3 * n_atoms, -1)
    outer = vectors[short][:, None, None, :, None] * gradient[..., None, :]  # (E, n, mc, 3, 3)
    outer = outer.reshape(len(i), n_elements, per_place, 9)[..., [0, 4, 8, 5, 2, 1]]
    virial = torch.zeros(rows, per_place, 6, dtype=torch.float64)
    virial.index_add_(0, place.reshape(-1), outer.reshape(-1, per_place, 6))
    return energy, forces, virial.reshape(-1, 6).T / volume


def _forces(model: ClassicalForceField, structures: Sequence[Atoms]) -> list[np.ndarray | None]:
    """Forces of the force field, (3n,) each, eV/Å; ``None`` where it fails."""
    outcomes = chain.from_iterable(make_engine(model, 64, False, True).outcomes(structures))
    return [None if isinstance(o, str) or o.forces is None else o.forces.ravel() for o in outcomes]


def _triangle(
    rows: Sequence[_Rows], pairs: Sequence[FramePair], columns: int, expected: Sequence[np.ndarray | None]
) -> np.ndarray:
    """Upper triangle with the same least-squares problem as all rows, columns: terms, elements, right-hand side.

    The sizes of the ``expected`` forces, (3n,) of each structure, weigh the rows of forces and their changes.
    """
    n_elements = len(rows[0].composition)
    triangle = np.zeros((0, columns + n_elements + 1))

    def add(matrix: np.ndarray, right: np.ndarray, weight: np.ndarray | float, composition: np.ndarray | None) -> None:
        nonlocal triangle
        side = np.zeros((len(matrix), n_elements)) if composition is None else composition
        block = np.concatenate([matrix, side, right[:, None]], axis=1) * np.broadcast_to(weight, len(matrix))[:, None]
        triangle = np.asarray(np.linalg.qr(np.concatenate([triangle, block]), mode="r"))

    sizes = [row.labels[1] if known is None else known for row, known in zip(rows, expected, strict=True)]
    for row, size in zip(rows, sizes, strict=True):
        energy, forces, stress = row.labels
        if forces is not None:
            assert size is not None
            add(row.forces, forces, ABSOLUTE_WEIGHT / (1 + np.abs(size) / FORCE_SCALE), None)
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
        size_after, size_before = sizes[pair.second], sizes[pair.first]
        assert size_after is not None
        assert size_before is not None
        add(after.forces - before.forces, change, 1 / (1 + np.abs(size_after - size_before) / FORCE_SCALE), None)
        if before.labels[2] is not None and after.labels[2] is not None:
            add(after.stress - before.stress, after.labels[2] - before.labels[2], STRESS_WEIGHT, None)
    return triangle


class _LeastSquares:
    """Strengths and charges for one triangle of rows, within limits of the pairs' curves."""

    def __init__(self, triangle: np.ndarray, model: ClassicalForceField) -> None:
        self.count, self.n_elements = len(model.pairs), len(model.elements)
        index = itertools.combinations_with_replacement(range(self.n_elements), 2)
        self.first, self.second = np.array(list(index)).T
        elements = triangle[:, -1 - self.n_elements : -1]
        self.triangle = triangle
        self.terms = np.concatenate([triangle[:, self.count : -1 - self.n_elements], elements, -elements], axis=1)
        self.n_terms = self.terms.shape[1]
        # what the data hardly see must not become large: strengths count as errors of PRIOR eV/Å per eV
        weight = np.r_[np.full(self.n_terms - 2 * self.n_elements, PRIOR), np.zeros(2 * self.n_elements)]
        self.scale = np.linalg.norm(self.terms, axis=0) + PRIOR
        self.scaled = np.concatenate([self.terms, np.diag(weight)]) / self.scale
        self.limits = np.zeros((0, self.count + self.n_terms + 1))  # of products of charges, terms: at most the last

    def strengths(
        self, charges: np.ndarray, used: np.ndarray | None = None, *, limited: bool = False
    ) -> tuple[np.ndarray, float]:
        """Strengths of all terms for given charges, and the residual; ``limited``: within the limits."""
        used = np.ones(self.n_terms, dtype=bool) if used is None else used
        products = charges[self.first] * charges[self.second]
        right = self.triangle[:, -1] - self.triangle[:, : self.count] @ products
        matrix = self.scaled[:, used]
        right = np.concatenate([right, np.zeros(self.n_terms)])
        if limited:  # a limit is an equation with a slack of its own that is not negative
            limits = self.limits[:, self.count : -1] / self.scale
            size = np.linalg.norm(limits, axis=1, keepdims=True)
            slack = np.eye(len(limits))
            matrix = np.block(
                [
                    [matrix, np.zeros((len(matrix), len(limits)))],
                    [LIMIT_WEIGHT * limits[:, used] / size, LIMIT_WEIGHT * slack],
                ]
            )
            bound = self.limits[:, -1] - self.limits[:, : self.count] @ products
            right = np.concatenate([right, LIMIT_WEIGHT * bound / size[:, 0]])
        try:
            solution, residual = nnls(matrix, right, maxiter=50 * matrix.shape[1])
        except RuntimeError as error:
            raise PhysPretrainError(f"the fit of the classical force field does not converge: {error}") from error
        strengths = np.zeros(self.n_terms)
        strengths[used] = solution[: used.sum()] / self.scale[used]
        return strengths, float(residual)

    def limit(self, place: int, change: np.ndarray, bound: float) -> None:
        """Ask that ``change`` (terms of a pair as :func:`radial_terms` has them) is at most ``bound``."""
        row = np.zeros(self.limits.shape[1])
        row[np.arange(len(change)) * self.count + place] = change
        row[-1] = bound
        self.limits = np.vstack([self.limits, row])

    def charges(self, seed: int) -> list[np.ndarray]:
        """No charges, and where simplex searches with the pairs alone end from several starts, best first."""
        pairs_alone = np.ones(self.n_terms, dtype=bool)
        pairs_alone[self.count * (len(LENGTHS) + 1) : self.n_terms - 2 * self.n_elements] = False

        def search(start: np.ndarray) -> tuple[float, np.ndarray]:
            result = minimize(
                lambda q: self.strengths(np.clip(q, -LARGEST_CHARGE, LARGEST_CHARGE), pairs_alone)[1],
                start,
                method="Nelder-Mead",
                options={"maxiter": 60 * self.n_elements, "xatol": 1e-2, "fatol": 1e-4},
            )
            return float(result.fun), np.clip(result.x, -LARGEST_CHARGE, LARGEST_CHARGE)

        rng = np.random.default_rng([seed, 0x10C])
        starts = rng.uniform(-1.5, 1.5, (STARTS if self.n_elements > 1 else 0, self.n_elements))
        chosen = [np.zeros(self.n_elements)]
        for _, charges in sorted(map(search, starts), key=lambda one: one[0]):
            if all(np.abs(np.outer(charges, charges) - np.outer(q, q)).max() > SAME_PRODUCT for q in chosen):
                chosen.append(charges)
        return chosen[:MOST_CHARGES]


def _solve(
    triangle: np.ndarray, model: ClassicalForceField, distances: Mapping[tuple[str, str], PairDistances], seed: int
) -> None:
    """Set the model's parameters such that every pair of the data has a wall, and repels up to where the data begin."""
    problem = _LeastSquares(triangle, model)
    places = {tuple(sorted(pair)): k for k, pair in enumerate(model.pairs)}
    for pair, measured in distances.items():
        place = places[tuple(sorted(pair))]
        r = torch.linspace(INNERMOST, REPULSIVE_BELOW * measured.typical, LIMITS, dtype=torch.float64)
        for slope in radial_terms(r, model.cutoff, model.lengths)[1].T.numpy():
            problem.limit(place, slope, -MARGIN)
        ends = torch.tensor([WALL_AT * measured.typical, measured.typical], dtype=torch.float64)
        values = radial_terms(ends, model.cutoff, model.lengths)[0].numpy()
        problem.limit(place, values[:, 1] - values[:, 0], -1.1 * WALL_ENERGY)
    solutions = []
    for charges in problem.charges(seed):
        strengths, residual = problem.strengths(charges, limited=True)
        solutions.append((residual * (WORTH if charges.any() else 1.0), strengths, charges))
    _, strengths, charges = min(solutions, key=lambda one: one[0])
    _set_parameters(model, charges, strengths)


def _set_parameters(model: ClassicalForceField, charges: np.ndarray, strengths: np.ndarray) -> None:
    count, n_pair, n_elements = len(model.pairs), len(model.pairs) * (len(LENGTHS) + 1), len(model.elements)
    with torch.no_grad():
        model.charges.copy_(torch.as_tensor(charges))
        model.strengths.copy_(torch.as_tensor(strengths[:n_pair].reshape(-1, count).T.copy()))
        if model.angle_strengths is not None:
            of_angles = strengths[n_pair : -2 * n_elements]
            model.angle_strengths.copy_(torch.as_tensor(of_angles.reshape(model.angle_strengths.shape)))
        base_energies = strengths[-2 * n_elements : -n_elements] - strengths[-n_elements:]
        model.base_energies.copy_(torch.as_tensor(base_energies))
