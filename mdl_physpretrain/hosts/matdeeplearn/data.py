"""MatDeepLearn's ``Data`` objects as structures and batches of ours, and back through its own processing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch.utils.data import Subset

from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.graphs.batch import AtomicBatch, neighbour_list
from mdl_physpretrain.structures import write_structures
from mdl_physpretrain.structures.labels import Labels, get_labels, set_labels

__all__ = ["batch_of", "host_data", "label_index", "raw_items", "right_handed", "structure_of", "structures_of"]


def batch_of(data: Any, cutoff: float) -> AtomicBatch:
    """A batch of MatDeepLearn's as one of ours, with our neighbour list.

    Cells are periodic in the directions that have a cell vector, as
    MatDeepLearn takes them. Labels are left out.

    Parameters
    ----------
    data
        With ``pos`` (N, 3), ``cell`` (B, 3, 3), ``z`` (N,), ``batch`` (N,).
    cutoff
        In Å.
    """
    positions, cells = data.pos.detach(), data.cell.detach().view(-1, 3, 3)
    n = len(cells)
    structure = data.batch if getattr(data, "batch", None) is not None else data.z.new_zeros(len(data.z))
    pbc = cells.abs().sum(2) > 0
    counts = torch.bincount(structure, minlength=n).tolist()
    edges, shifts, first = [], [], 0
    on_cpu, boxes, periodic = positions.double().cpu().numpy(), cells.double().cpu().numpy(), pbc.cpu().numpy()
    for k, count in enumerate(counts):
        index, shift = neighbour_list(on_cpu[first : first + count], boxes[k], periodic[k], cutoff)
        edges.append(index + first)
        shifts.append(shift)
        first += count
    dtype, device = positions.dtype, positions.device
    nothing = torch.zeros(n, dtype=torch.bool, device=device)
    return AtomicBatch(
        numbers=data.z.long(),
        positions=positions,
        cells=cells,
        pbc=pbc,
        structure=structure,
        edge_index=torch.as_tensor(np.concatenate(edges, axis=1), device=device),
        edge_shifts=torch.as_tensor(np.concatenate(shifts), dtype=dtype, device=device),
        energy=positions.new_zeros(n),
        forces=torch.zeros_like(positions),
        stress=positions.new_zeros(n, 3, 3),
        has_energy=nothing,
        has_forces=nothing,
        has_stress=nothing,
        list_cutoff=float(cutoff),
    )


def structure_of(data: Any, index: int = -1) -> Atoms:
    """One ``Data`` object as a structure with its labels and identifier.

    Parameters
    ----------
    data
        ``y`` is the energy in eV, ``forces`` in eV/Å, ``stress`` in eV/Å³.
    index
        Which entry of ``y`` is the energy; -1: there is only one.

    Raises
    ------
    StructureError
        If ``y`` has several entries and none is named, or is not of the structure.
    """
    name: Any = data.structure_id
    while isinstance(name, (list, tuple)):
        name = name[0]
    cell = data.cell.detach().cpu().double().numpy().reshape(3, 3)
    positions = data.pos.detach().cpu().double().numpy()
    atoms = Atoms(data.z.cpu().numpy(), positions, cell=cell, pbc=np.abs(cell).sum(1) > 0)
    atoms.info["structure_id"] = str(name)
    y = data.y.detach().cpu().double().numpy().reshape(-1)
    if len(y) != 1 and (index < 0 or index >= len(y)):
        raise StructureError(
            f"y has {len(y)} entries; the energy must be one of them, named by GetY's index", structure=str(name)
        )
    energy = float(y[0] if len(y) == 1 else y[index])
    forces, stress = (_label(data, key) for key in ("forces", "stress"))
    labels = Labels(
        energy if np.isfinite(energy) else None,
        None if forces is None else forces.reshape(len(atoms), 3),
        None if stress is None else stress.reshape(3, 3),
    )
    return set_labels(atoms, labels)


def _label(data: Any, key: str) -> np.ndarray | None:
    value = getattr(data, key, None)
    if value is None:
        return None
    value = value.detach().cpu().double().numpy()
    return value if np.isfinite(value).all() else None


def right_handed(atoms: Atoms) -> Atoms:
    """The same crystal with a cell of positive determinant (two vectors change places).

    MatDeepLearn divides by the signed volume: in a left-handed cell its
    networks predict the stress with the wrong sign.
    """
    if np.linalg.det(atoms.cell.array) >= 0:
        return atoms
    swapped = atoms.copy()
    swapped.cell, swapped.pbc = atoms.cell.array[[1, 0, 2]], atoms.pbc[[1, 0, 2]]
    return set_labels(swapped, get_labels(atoms))


def raw_items(dataset: Any) -> list[Any]:
    """The items of one of MatDeepLearn's data sets, or of a part of one, before on-the-fly transforms."""
    if isinstance(dataset, Subset):
        whole = dataset.dataset
        if hasattr(whole, "get"):
            positions = list(whole.indices()) if hasattr(whole, "indices") else None
            return [whole.get(positions[k] if positions is not None else k) for k in dataset.indices]
        return [whole[k] for k in dataset.indices]
    if hasattr(dataset, "get") and hasattr(dataset, "indices"):
        return [dataset.get(k) for k in dataset.indices()]
    return [dataset[k] for k in range(len(dataset))]


def structures_of(dataset: Any, index: int = -1) -> list[Atoms]:
    """All structures of one of MatDeepLearn's data sets, with their labels."""
    return [structure_of(item, index) for item in raw_items(dataset)]


def label_index(dataset_config: Mapping[str, Any]) -> int:
    """``index`` of the ``GetY`` transform."""
    for transform in dataset_config.get("transforms") or []:
        if transform.get("name") == "GetY":
            return int((transform.get("args") or {}).get("index", 0))
    return -1


def host_data(structures: Sequence[Atoms], dataset_config: Mapping[str, Any], file: Path) -> Any:
    """Structures as a data set that MatDeepLearn's own processing makes of them.

    Parameters
    ----------
    structures
        Labelled.
    dataset_config
        Section ``dataset`` of its configuration; our own augmentation among
        its transforms is left out.
    file
        JSON in its format that is written on the way, and stays.

    Raises
    ------
    ConfigError
        If a label in ``additional_attributes`` is not there.
    """
    from matdeeplearn.common.data import get_otf_transforms
    from matdeeplearn.preprocessor.processor import from_config
    from torch_geometric.data import InMemoryDataset
    from torch_geometric.transforms import Compose

    file.parent.mkdir(parents=True, exist_ok=True)
    write_structures(file, [right_handed(a) for a in structures])
    ours = ("AugmentAndLabel",)
    transforms = [t for t in dataset_config["transforms"] if t["name"].rsplit(".", 1)[-1] not in ours]
    config = {**dataset_config, "src": str(file), "target_path": None, "pt_path": None, "transforms": transforms}
    try:
        items = from_config(config).process(save=False)["full"]
    except KeyError as error:
        raise ConfigError(
            f"dataset.additional_attributes: {error} is not among the labels of the pretraining structures ({file})"
        ) from error
    otf = get_otf_transforms(transforms)
    dataset = InMemoryDataset(transform=Compose(otf) if otf else None)
    dataset.data, dataset.slices = InMemoryDataset.collate(items)  # turns counts into tensors, as reading a file does
    return dataset
