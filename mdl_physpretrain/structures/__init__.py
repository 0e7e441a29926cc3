"""Structures and their labels: reading, writing, checking, splitting."""

from mdl_physpretrain.structures.datasets import demo_structures, load_public
from mdl_physpretrain.structures.ids import unique_ids
from mdl_physpretrain.structures.io import read_structures, write_structures
from mdl_physpretrain.structures.labels import Labels, get_labels, set_labels, structure_id
from mdl_physpretrain.structures.reference import reference_energies
from mdl_physpretrain.structures.splits import Split, split_by_parent, split_structures
from mdl_physpretrain.structures.validate import label_counts, validate_structures

__all__ = [
    "Labels",
    "Split",
    "demo_structures",
    "get_labels",
    "label_counts",
    "load_public",
    "read_structures",
    "reference_energies",
    "set_labels",
    "split_by_parent",
    "split_structures",
    "structure_id",
    "unique_ids",
    "validate_structures",
    "write_structures",
]
