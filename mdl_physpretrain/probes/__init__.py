"""Probes: questions to a finished potential, one file each."""

from mdl_physpretrain.probes.base import Probe
from mdl_physpretrain.probes.compression import compression_curve, compression_flags
from mdl_physpretrain.probes.diatomic_flags import diatomic_flags
from mdl_physpretrain.probes.diatomics import diatomic_curve
from mdl_physpretrain.probes.energy_drift import nve_drift
from mdl_physpretrain.probes.pair_distribution import rdf, rdf_error
from mdl_physpretrain.probes.pairs import element_pairs
from mdl_physpretrain.probes.registry import probe_classes
from mdl_physpretrain.probes.single_points import Potential, as_calculator

__all__ = [
    "Potential",
    "Probe",
    "as_calculator",
    "compression_curve",
    "compression_flags",
    "diatomic_curve",
    "diatomic_flags",
    "element_pairs",
    "nve_drift",
    "probe_classes",
    "rdf",
    "rdf_error",
]
