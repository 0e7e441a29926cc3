"""Augmentation of reference structures: Algorithm 1, its strength ladder, and the label filter."""

import inspect
import sys
from types import ModuleType
from typing import Any

from mdl_physpretrain.augment.algorithm import Augmented, augment, augment_iter
from mdl_physpretrain.augment.distances import pair_min_distances
from mdl_physpretrain.augment.filter import FilterResult, filter_labels
from mdl_physpretrain.augment.ladder import TABLE_A1, strength_ladder
from mdl_physpretrain.augment.pairs import ClosePairs, close_pairs
from mdl_physpretrain.augment.seeding import stable_id, structure_rng

__all__ = [
    "TABLE_A1",
    "Augmented",
    "ClosePairs",
    "FilterResult",
    "augment",
    "augment_iter",
    "close_pairs",
    "filter_labels",
    "pair_min_distances",
    "stable_id",
    "strength_ladder",
    "structure_rng",
]


class _CallableModule(ModuleType):
    """A module that can be called like the function of the same name.

    Importing the folder ``augment`` binds ``mdl_physpretrain.augment`` to it
    and hides the public function there; so that ``pp.augment(...)`` means the
    same whatever was imported before, the module can be called too.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Augmented:
        return augment(*args, **kwargs)


__signature__ = inspect.signature(augment)
sys.modules[__name__].__class__ = _CallableModule
