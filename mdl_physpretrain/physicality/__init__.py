"""Is a potential physical? Trajectories, pairs of atoms, compression, structure, energy conservation."""

from mdl_physpretrain.physicality.assess import assess, assess_trajectory
from mdl_physpretrain.physicality.compression import compression_curve, compression_flags
from mdl_physpretrain.physicality.decomposition import eam_decomposition
from mdl_physpretrain.physicality.diatomic_flags import diatomic_flags
from mdl_physpretrain.physicality.diatomics import diatomic_curve, element_pairs
from mdl_physpretrain.physicality.drift import nve_drift
from mdl_physpretrain.physicality.lindemann import LindemannAccumulator, minimum_image_shifts
from mdl_physpretrain.physicality.monitor import Monitor
from mdl_physpretrain.physicality.overlap import ClosestPair, closest_pair
from mdl_physpretrain.physicality.potentials import Potential, as_calculator
from mdl_physpretrain.physicality.rdf import rdf, rdf_error
from mdl_physpretrain.physicality.statistics import summarize, wilson_interval
from mdl_physpretrain.physicality.survival import kaplan_meier, logrank
from mdl_physpretrain.physicality.verdict import Limits, Verdict

__all__ = [
    "ClosestPair",
    "Limits",
    "LindemannAccumulator",
    "Monitor",
    "Potential",
    "Verdict",
    "as_calculator",
    "assess",
    "assess_trajectory",
    "closest_pair",
    "compression_curve",
    "compression_flags",
    "diatomic_curve",
    "diatomic_flags",
    "eam_decomposition",
    "element_pairs",
    "kaplan_meier",
    "logrank",
    "minimum_image_shifts",
    "nve_drift",
    "rdf",
    "rdf_error",
    "summarize",
    "wilson_interval",
]
