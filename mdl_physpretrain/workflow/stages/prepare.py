"""Stage prepare: read the structures, check and split them, and say what they are."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase import Atoms

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.files import write_atomic
from mdl_physpretrain.potentials.error_metrics import trivial_errors
from mdl_physpretrain.structures import (
    chosen_references,
    label_counts,
    read_structures,
    split_structures,
    validate_structures,
    write_structures,
)
from mdl_physpretrain.structures.elements import elements_of, strange_elements
from mdl_physpretrain.structures.fingerprint import structure_hash
from mdl_physpretrain.structures.groups import EACH, group_names, share_of_repeated
from mdl_physpretrain.structures.outliers import warn_of_outliers
from mdl_physpretrain.structures.reference_energies import references_if_labelled
from mdl_physpretrain.structures.validation import refuse_no_anchors
from mdl_physpretrain.workflow.data import random_subset, without_nan
from mdl_physpretrain.workflow.records import remove_written

if TYPE_CHECKING:
    from mdl_physpretrain.workflow.config import Data, RunConfig

__all__ = ["prepare"]

PARTS = ("train", "val", "test")


def prepare(config: RunConfig, folder: Path, show: bool) -> list[str]:
    """Write ``data/{train,val,test}.extxyz`` and ``data/summary.json``."""
    data = config.data
    parts = _read(data)
    missing = [name for name in ("val", "test") if name not in parts]
    shares = [data.fractions[0], *(data.fractions[k] if n in missing else 0.0 for k, n in ((1, "val"), (2, "test")))]
    cut = split_structures(
        parts["train"],
        fractions=[s / sum(shares) for s in shares],
        usage=data.usage,
        seed=data.seed,
        stratify=data.stratify,
        group_by=data.split_by,
    )
    parts["train"] = cut.train
    parts.update({name: getattr(cut, name) for name in missing})
    for name in PARTS:
        limit = getattr(data, f"n_{name}")
        if limit is not None:
            parts[name] = random_subset(parts[name], limit, data.seed)
    validate_structures(parts["train"], require=("energy",), partial="allow")  # what is missing was said of all
    _warn_of_strange_elements(parts)
    _warn_of_shared_ids(parts)
    _warn_of_shared_groups(parts, data.split_by)
    chosen_references(parts["train"], data.references)  # before any work, if an element has none
    if config.uses_labels and config.augment.anchor:
        refuse_no_anchors(parts["train"])

    outputs = []
    for name in PARTS:
        path = folder / "data" / f"{name}.extxyz"
        if parts[name]:
            write_structures(path, parts[name])
            outputs.append(f"data/{name}.extxyz")
        else:
            remove_written(folder, f"data/{name}.extxyz")
    evaluated = parts["test"] or parts["val"] or parts["train"]
    summary = _summary(config, parts)
    summary["trivial"] = trivial_errors(evaluated, references_if_labelled(parts["train"]))
    write_atomic(folder / "data" / "summary.json", json.dumps(without_nan(summary), indent=1))
    return [*outputs, "data/summary.json"]


def _read(data: Data) -> dict[str, list[Atoms]]:
    keys: dict[str, Any] = {"energy_key": data.energy_key, "forces_key": data.forces_key, "stress_key": data.stress_key}
    keys |= {"units": data.units, "nan_labels": data.nan_labels}
    parts = {}
    files: dict[str, str] = {}
    for name in PARTS:
        source = (data.source or data.train) if name == "train" else getattr(data, name)
        if source is None:
            continue
        structures = read_structures(source, duplicates=data.duplicates, files=files, **keys)
        if data.elements is not None:
            structures = [a for a in structures if set(a.symbols) <= set(data.elements)]
            if not structures:
                elements = ", ".join(data.elements)
                raise StructureError(f"no structure is made of {elements} alone", field="data.elements")
        if data.max_atoms is not None:
            structures = [a for a in structures if len(a) <= data.max_atoms]
            if not structures:
                raise StructureError(f"no structure has at most {data.max_atoms} atoms", field="data.max_atoms")
        if name == "train":
            structures = random_subset(structures, data.max_structures, data.seed)
        parts[name] = validate_structures(structures, require=("energy",), files=files)
        warn_of_outliers(parts[name])
    found = set(elements_of([a for part in parts.values() for a in part]))
    if absent := [s for s in data.elements or () if s not in found]:
        warnings.warn(f"data.elements: no structure that is used holds {', '.join(absent)}", stacklevel=2)
    return parts


def _warn_of_strange_elements(parts: dict[str, list[Atoms]]) -> None:
    """Nothing can be learned of elements that are not in the training structures."""
    for name in ("val", "test"):
        strange = strange_elements(parts[name], elements_of(parts["train"]), name)
        if strange is not None:
            warnings.warn(
                f"{strange}: nothing is learned of these elements; leave the structures out (data.elements) or split "
                "the data otherwise (data.seed, data.split_by)",
                stacklevel=2,
            )


def _warn_of_shared_ids(parts: dict[str, list[Atoms]]) -> None:
    train_ids = {a.info["structure_id"] for a in parts["train"]}
    for name in ("val", "test"):
        shared = [a.info["structure_id"] for a in parts[name] if a.info["structure_id"] in train_ids]
        if shared:
            warnings.warn(
                f"{len(shared)} structures of {name} have the id of a training structure (first: {shared[0]}): "
                "if they are the same, the errors are not those of unseen data",
                stacklevel=2,
            )
        names = {structure_hash(a): a.info["structure_id"] for a in parts["train"]}
        equal = [(names[h], a.info["structure_id"]) for a in parts[name] if (h := structure_hash(a)) in names]
        if equal:
            warnings.warn(
                f"{len(equal)} structures of {name} are training structures under another name or twice in the data "
                f"(first: {equal[0][1]} is {equal[0][0]}): the errors are not those of unseen data",
                stacklevel=2,
            )


def _warn_of_shared_groups(parts: dict[str, list[Atoms]], split_by: str) -> None:
    """Files that were given for a part may hold what a split would have kept apart."""
    for name in ("val", "test") if split_by != EACH else ():
        share = share_of_repeated(parts[name], parts["train"], split_by)
        if share > 0:
            warnings.warn(
                f"data.split_by is {split_by!r}, but {share:.0%} of the {name} structures given have the {split_by} "
                "of a training structure",
                stacklevel=2,
            )


def _summary(config: RunConfig, parts: dict[str, list[Atoms]]) -> dict[str, Any]:
    everything = [a for part in parts.values() for a in part]
    sizes = [len(a) for a in everything]
    sources = sorted({str(a.info["label_source"]) for a in everything if "label_source" in a.info})
    sources_read = config.data.source or config.data.train or []
    return {
        **{f"n_{name}": len(part) for name, part in parts.items()},
        "usage": config.data.usage,
        "split_by": config.data.split_by,
        "n_groups": {name: len(set(group_names(part, config.data.split_by))) for name, part in parts.items() if part},
        "test_composition_in_train": share_of_repeated(parts["test"], parts["train"]),
        "elements": sorted({s for a in everything for s in a.get_chemical_symbols()}),
        "n_atoms": {"min": min(sizes), "mean": sum(sizes) / len(sizes), "max": max(sizes)},
        "source": ", ".join(Path(s).name for s in sources_read),
        "label_note": "; ".join(sources) or None,
        "labels": {name: label_counts(part) for name, part in parts.items() if part},
    }
