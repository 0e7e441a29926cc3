"""What MD watches: overlap, Lindemann indices, explosions, and the limits of what is physical."""

from mdl_physpretrain.stability.limits import Limits
from mdl_physpretrain.stability.lindemann import LindemannAccumulator, minimum_image_shifts
from mdl_physpretrain.stability.monitor import Monitor
from mdl_physpretrain.stability.overlap import ClosestPair, closest_pair
from mdl_physpretrain.stability.verdict import Verdict

__all__ = [
    "ClosestPair",
    "Limits",
    "LindemannAccumulator",
    "Monitor",
    "Verdict",
    "closest_pair",
    "minimum_image_shifts",
]
