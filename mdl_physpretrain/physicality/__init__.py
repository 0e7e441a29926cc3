"""Is a trajectory physical? Atom overlap, Lindemann indices, NaN, explosion."""

from mdl_physpretrain.physicality.assess import assess, assess_trajectory
from mdl_physpretrain.physicality.lindemann import LindemannAccumulator, minimum_image_shifts
from mdl_physpretrain.physicality.monitor import Monitor
from mdl_physpretrain.physicality.overlap import ClosestPair, closest_pair
from mdl_physpretrain.physicality.statistics import summarize, wilson_interval
from mdl_physpretrain.physicality.verdict import Limits, Verdict

__all__ = [
    "ClosestPair",
    "Limits",
    "LindemannAccumulator",
    "Monitor",
    "Verdict",
    "assess",
    "assess_trajectory",
    "closest_pair",
    "minimum_image_shifts",
    "summarize",
    "wilson_interval",
]
