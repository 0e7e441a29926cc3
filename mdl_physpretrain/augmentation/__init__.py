"""Augmentation of reference structures: Algorithm 1, covered distances, thermal disorder, and the label filter."""

from mdl_physpretrain.augmentation.algorithm import Augmented, augment, augment_iter
from mdl_physpretrain.augmentation.coverage import cover, coverage_table, uncovered
from mdl_physpretrain.augmentation.distances import pair_min_distances
from mdl_physpretrain.augmentation.filter import FilterResult, filter_labels
from mdl_physpretrain.augmentation.ladder import TABLE_A1, strength_ladder
from mdl_physpretrain.augmentation.pairs import ClosePairs, close_pairs
from mdl_physpretrain.augmentation.thermal import disorder
from mdl_physpretrain.structures.identifiers import stable_id
from mdl_physpretrain.structures.randomness import structure_rng

__all__ = [
    "TABLE_A1",
    "Augmented",
    "ClosePairs",
    "FilterResult",
    "augment",
    "augment_iter",
    "close_pairs",
    "cover",
    "coverage_table",
    "disorder",
    "filter_labels",
    "pair_min_distances",
    "stable_id",
    "strength_ladder",
    "structure_rng",
    "uncovered",
]
