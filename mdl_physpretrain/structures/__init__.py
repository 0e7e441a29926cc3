"""Structures and their labels: reading, writing, checking, splitting."""

from mdl_physpretrain.structures.datasets import demo_structures, load_public
from mdl_physpretrain.structures.formats import write_structures
from mdl_physpretrain.structures.identifiers import unique_ids
from mdl_physpretrain.structures.labels import Labels, get_labels, label_counts, set_labels, structure_id
from mdl_physpretrain.structures.reading import read_structures
from mdl_physpretrain.structures.reference_energies import chosen_references, reference_energies
from mdl_physpretrain.structures.splits import Split, split_by_parent, split_structures
from mdl_physpretrain.structures.validation import validate_structures

__all__ = [
    "Labels",
    "Split",
    "chosen_references",
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
