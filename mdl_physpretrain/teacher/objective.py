"""The loss of the EAM fit on a dataset: neighbours once, exact gradients from a kernel."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.graphs.batch import build_batch
from mdl_physpretrain.potentials.eam.labels import EAMKernel
from mdl_physpretrain.potentials.eam.model import EAM
from mdl_physpretrain.potentials.eam.parameters import ELEMENT_PARAMETERS, PAIR_PARAMETERS
from mdl_physpretrain.potentials.error_metrics import ErrorSums
from mdl_physpretrain.structures.labels import get_labels, structure_id
from mdl_physpretrain.teacher.objective_kernel import measure

__all__ = ["EAMObjective"]


class EAMObjective:
    """Mean absolute errors of an EAM on labelled structures, and their gradient.

    The numbers are those of :class:`mdl_physpretrain.training.loss.EFSLoss` on
    :func:`mdl_physpretrain.potentials.predict`, to rounding. They do not depend on the number of threads: every
    structure is one thread's, and sums over structures are taken in order. Missing labels are left out.
    """

    def __init__(
        self,
        model: EAM,
        structures: Sequence[Atoms],
        weights: tuple[float, float, float],
        threads: int | None = None,
    ) -> None:
        self.kernel = kernel = model.label_kernel()
        self.weights = np.array(weights, dtype=np.float64)
        self.threads = threads or torch.get_num_threads()
        self._pool = ThreadPoolExecutor(self.threads - 1, "eam-fit") if self.threads > 1 else None
        self.counts = np.array([len(a) for a in structures])
        self.starts = np.concatenate([[0], np.cumsum(self.counts)])
        pairs = [kernel.pairs(a, _cell_of(a, model, kernel)) for a in structures]
        self.element = kernel.element_of[np.concatenate([a.numbers for a in structures])]
        self.edges = np.concatenate([edges for edges, _, _ in pairs], axis=1)
        self.vectors = np.concatenate([vectors for _, vectors, _ in pairs], axis=1)
        sizes = np.array([segments[-1] for _, _, segments in pairs])
        # of every structure only the kinds that it has: with many elements nearly all segments are empty
        kinds = [np.flatnonzero(np.diff(segments)) for _, _, segments in pairs]
        ends = [
            np.append(s[k], s[-1]) + first
            for k, (_, _, s), first in zip(kinds, pairs, np.cumsum(sizes) - sizes, strict=True)
        ]
        self.kinds, self.segments = np.concatenate(kinds), np.concatenate(ends)
        self.kind_starts = np.concatenate([[0], np.cumsum([len(k) for k in kinds])])
        self.pair_counts = sizes
        labels = [get_labels(a) for a in structures]
        self.has = np.array([[x is not None for x in (label.energy, label.forces, label.stress)] for label in labels])
        self.energies = np.array([label.energy or 0.0 for label in labels])
        self.forces = np.concatenate(
            [
                np.zeros((n, 3)) if label.forces is None else label.forces
                for n, label in zip(self.counts, labels, strict=True)
            ]
        )
        self.stresses = np.array([np.zeros((3, 3)) if label.stress is None else label.stress for label in labels])
        volumes = np.abs(np.linalg.det(np.array([a.cell.array for a in structures])))
        self.volumes = np.where(volumes > 1e-9, volumes, 0.0)
        # components behind every label; without a label none
        self.sizes = self.has * np.stack([np.ones(len(labels)), 3.0 * self.counts, np.full(len(labels), 9.0)], axis=1)

    def __len__(self) -> int:
        return len(self.counts)

    def loss(self, parameters: Mapping[str, Tensor], chosen: Sequence[int]) -> tuple[float, dict[str, Tensor]]:
        """Loss of some structures (indices) at some parameters of :class:`EAM`, and its gradient by name."""
        indices = np.array(chosen, dtype=np.int64)
        weights = self.weights * self.has[indices] / np.maximum(self.sizes[indices].sum(0), 1.0)
        errors, (morse, amplitudes, decays, of_elements) = self._measure(parameters, indices, weights, True)
        back = np.argsort(self.kernel.pair_number)
        columns = [*morse[back].T, amplitudes[back], decays[back], *of_elements.T]
        gradient = {
            name: torch.as_tensor(np.ascontiguousarray(g), dtype=parameters[name].dtype)
            for name, g in zip(PAIR_PARAMETERS + ELEMENT_PARAMETERS, columns, strict=True)
        }
        return float((weights * errors).sum()), gradient

    def errors(self, parameters: Mapping[str, Tensor]) -> dict[str, float]:
        """Mean absolute errors on all structures, as :meth:`ErrorSums.means` names them, with ``n_structures``."""
        indices = np.arange(len(self))
        errors, _ = self._measure(parameters, indices, np.zeros((len(self), 3)), False)
        errors = errors * self.has
        sums = ErrorSums()
        columns = (errors[:, 0], errors[:, 0] / self.counts, errors[:, 1], errors[:, 2])
        sums.sums[0] = torch.tensor([float(c.sum()) for c in columns], dtype=torch.float64)
        sums.sums[1] = torch.tensor(self.sizes.sum(0)[[0, 0, 1, 2]])
        return {**sums.means(tuple(self.weights.tolist())), "n_structures": len(self)}

    def _measure(
        self, parameters: Mapping[str, Tensor], indices: np.ndarray, weights: np.ndarray, with_gradient: bool
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Absolute errors by structure, and gradients in the order of the kernel."""
        self.kernel.set_parameters({k: v.detach().cpu().double().numpy() for k, v in parameters.items()})
        (*of_pairs, _), of_elements, *_ = potential = self.kernel.parameters()
        errors = np.empty((len(indices), 3))
        counts = self.kind_starts[indices + 1] - self.kind_starts[indices]
        first = np.concatenate([[0], np.cumsum(counts)])  # row of every structure's first kind
        rows = (int(first[-1]), len(indices)) if with_gradient else (0, 0)
        gradients = [np.empty((rows[0], like.shape[1])) for like in of_pairs]
        gradients.append(np.empty((rows[1], *of_elements.shape)))

        labels = (self.energies, self.forces, self.stresses, self.volumes)
        graph = (self.starts, self.element, self.edges, self.vectors, self.segments, self.kind_starts, self.kinds)

        def work(part: slice) -> None:
            kinds = slice(first[part.start], first[part.stop]) if with_gradient else slice(0)
            of_part = (*(g[kinds] for g in gradients[:-1]), gradients[-1][part])
            measure(indices[part], *graph, potential, labels, weights[part], errors[part], with_gradient, of_part)

        share, *rest_of_shares = self._shares(indices)
        futures = [self._pool.submit(work, part) for part in rest_of_shares] if self._pool is not None else []
        work(share)
        for future in futures:
            future.result()
        if not with_gradient:
            return errors, gradients
        kinds = np.concatenate([self.kinds[self.kind_starts[k] : self.kind_starts[k + 1]] for k in indices])
        sums = [np.zeros_like(like) for like in of_pairs]
        for total, g in zip(sums, gradients, strict=False):
            np.add.at(total, kinds, g)
        return errors, [*sums, gradients[-1].sum(axis=0)]

    def _shares(self, indices: np.ndarray) -> list[slice]:
        """One run of structures for every thread, with about as many pairs in each."""
        pairs = np.cumsum(self.pair_counts[indices])
        targets = pairs[-1] * np.arange(1, self.threads) / self.threads
        ends = [0, *np.searchsorted(pairs, targets).tolist(), len(indices)]
        return [slice(low, high) for low, high in itertools.pairwise(ends) if high > low] or [slice(0, 0)]


def _cell_of(atoms: Atoms, model: EAM, kernel: EAMKernel) -> np.ndarray:
    cell = kernel.cell(atoms)
    if cell is None:  # the reference knows what is wrong
        model.element_index(build_batch(atoms, model.cutoff).numbers)
        raise StructureError("not a structure that a potential can be fitted to", structure=structure_id(atoms))
    return cell
