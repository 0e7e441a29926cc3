"""MatDeepLearn's ``Data`` objects as structures and batches of ours, and back through its own processing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch.utils.data import Dataset, Subset

from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.graphs.batch import AtomicBatch, build_batch, collate
from mdl_physpretrain.structures import write_structures
from mdl_physpretrain.structures.labels import Labels, get_labels, set_labels

__all__ = [
    "Replay",
    "batch_of",
    "host_data",
    "label_index",
    "raw_items",
    "right_handed",
    "structure_of",
    "structures_of",
]


def batch_of(data: Any, cutoff: float) -> AtomicBatch:
    """A batch of MatDeepLearn's as one of ours, without labels, with our neighbour list (cutoff in Å).

    Cells are periodic in the directions that have a cell vector, as MatDeepLearn takes them.
    """
    positions, cells = data.pos.detach(), data.cell.detach().view(-1, 3, 3)
    single = getattr(data, "batch", None) is None
    structure = (data.z.new_zeros(len(data.z)) if single else data.batch).cpu().numpy()
    numbers, points, boxes = data.z.cpu().numpy(), positions.double().cpu().numpy(), cells.double().cpu().numpy()
    batches = []
    for k, box in enumerate(boxes):
        atoms = structure == k
        crystal = Atoms(numbers[atoms], points[atoms], cell=box, pbc=np.abs(box).sum(1) > 0)
        batches.append(build_batch(crystal, cutoff, positions.dtype))
    return collate(batches).to(positions.device)


def structure_of(data: Any, index: int = -1) -> Atoms:
    """One ``Data`` object as a structure with its labels and identifier.

    ``index``: which entry of ``y`` is the energy.
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
    """Structures as a data set that MatDeepLearn's own processing makes of them, without our augmentation.

    ``file`` is JSON in its format that is written on the way, and stays. Raises ConfigError if a label in
    ``additional_attributes`` is not there.
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


class Replay(Dataset):
    """A data set followed by random items of another, drawn at every access; ``fraction`` in [0, 1) is their share."""

    def __init__(self, data: Any, labelled: Any, fraction: float) -> None:
        self.data, self.labelled = data, labelled
        self.replayed = min(len(labelled), round(len(data) * fraction / (1 - fraction)))

    def __len__(self) -> int:
        return len(self.data) + self.replayed

    def __getitem__(self, index: int) -> Any:
        if index < len(self.data):
            return self.data[index]
        return self.labelled[int(torch.randint(len(self.labelled), ()))]
