"""What MD engines of other packages need: a potential from a file, and predictions of bare tensors."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import Tensor

from mdl_physpretrain.dynamics.verlet_lists import EdgeBatch
from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.graphs.neighbour_lists import neighbour_list
from mdl_physpretrain.hosts.loading import load_potential
from mdl_physpretrain.potentials.base import EnergyModel, Prediction, predict

__all__ = ["check_elements", "engine_potential", "neighbour_lists", "predict_structures"]


def engine_potential(potential: EnergyModel | str | Path, device: str = "auto") -> EnergyModel:
    """The potential itself, in evaluation mode, or that of a file, on the device (``auto``: a GPU where there is one).

    Raises
    ------
    CheckpointError, ConfigError
        If the file, or what is in it, cannot be used; if an ASE calculator is named.
    """
    if not isinstance(potential, EnergyModel):
        loaded = load_potential(str(potential), device)
        if not isinstance(loaded, EnergyModel):
            raise ConfigError(f"{potential} is an ASE calculator: only potentials of this package run in other engines")
        potential = loaded
    return potential.eval()


def check_elements(potential: EnergyModel, numbers: Iterable[int]) -> None:
    """Refuse elements (by atomic number) that the potential has no parameters for, or was not trained on.

    Raises
    ------
    StructureError
        Names them.
    """
    symbols = [chemical_symbols[z] if 0 < z < len(chemical_symbols) else f"number {z}" for z in sorted(set(numbers))]
    trained = potential.metadata.get("elements")
    for allowed, words in ((potential.known_elements(), "has no parameters for"), (trained, "was not trained on")):
        unknown = [s for s in symbols if allowed and s not in allowed]
        if unknown:
            known = ", ".join(sorted(allowed or ()))
            raise StructureError(f"the potential {words} {', '.join(unknown)} (it knows {known})", field="elements")


def neighbour_lists(
    positions: Tensor, cells: Tensor, pbc: Tensor, structure: Tensor, cutoff: float
) -> tuple[Tensor, Tensor]:
    """Edges of several structures with vesin, made on the CPU; shapes as in :class:`AtomicBatch`.

    Returns
    -------
    edge_index, edge_shifts
        Shapes (2, E) and (E, 3), sorted by centre, on the device of the positions and of their dtype.

    Raises
    ------
    StructureError
        See :func:`mdl_physpretrain.graphs.neighbour_lists.neighbour_list`.
    """
    counts = torch.bincount(structure, minlength=len(cells)).tolist()
    starts = np.cumsum([0, *counts])
    points, boxes, periodic = (x.detach().cpu().double().numpy() for x in (positions, cells, pbc))
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for k, (start, end) in enumerate(itertools.pairwise(starts)):
        try:
            edges, shifts = neighbour_list(points[start:end], boxes[k], periodic[k] > 0, cutoff)
        except StructureError as error:
            raise error.at(structure=k) from error
        parts.append((edges + start, shifts))
    index = torch.as_tensor(np.concatenate([edges for edges, _ in parts], axis=1))
    shifts_of_all = torch.as_tensor(np.concatenate([shifts for _, shifts in parts]))
    return index.to(positions.device), shifts_of_all.to(positions)


def predict_structures(
    potential: EnergyModel,
    *,
    numbers: Tensor,
    positions: Tensor,
    cells: Tensor,
    pbc: Tensor,
    structure: Tensor,
    edges: tuple[Tensor, Tensor] | None = None,
) -> Prediction:
    """Energies, forces and stress, in the dtype of the positions; the potential computes in its own.

    Parameters
    ----------
    potential
        On the device of the tensors.
    numbers, positions, cells, pbc, structure
        As in :class:`~mdl_physpretrain.graphs.batch.AtomicBatch`: cell vectors are rows.
    edges
        Index (2, E) and cell shifts (E, 3) of all pairs within the cutoff, in both directions and any order; longer
        ones are left out. Without, :func:`neighbour_lists` makes them.

    Returns
    -------
    Prediction

    Raises
    ------
    StructureError
        If no list can be made, or the potential does not know an element.
    """
    positions, cells = positions.detach(), cells.detach()
    if edges is None:
        index, shifts = neighbour_lists(positions, cells, pbc, structure, potential.cutoff)
    else:
        order = torch.argsort(edges[0][0], stable=True)  # kernels go through the edges of one atom after the other
        index, shifts = edges[0].detach()[:, order].long(), edges[1].detach()[order].to(positions)
    i, j = index
    vectors = positions[j] - positions[i] + torch.bmm(shifts.unsqueeze(1), cells[structure[i]]).squeeze(1)
    inside = torch.nonzero(vectors.square().sum(1) < potential.cutoff**2).squeeze(1)
    dtype = potential.dtype
    batch = EdgeBatch.without_labels(
        numbers=numbers.long(),
        positions=positions.to(dtype),
        cells=cells.to(dtype),
        pbc=pbc,
        structure=structure,
        edge_index=index[:, inside].contiguous(),
        edge_shifts=shifts[inside].to(dtype),
        list_cutoff=potential.cutoff,
        vectors=vectors[inside].to(dtype),
    )
    out = predict(potential, batch)
    return Prediction(*(x.detach().to(positions) for x in (out.energy, out.forces, out.stress)))
