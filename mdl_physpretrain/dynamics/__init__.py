"""Molecular dynamics of many structures, watched while it runs."""

from mdl_physpretrain.dynamics.assessment import assess, assess_trajectory
from mdl_physpretrain.dynamics.records import RunRecord, Runs
from mdl_physpretrain.dynamics.simulate import simulate

__all__ = ["RunRecord", "Runs", "assess", "assess_trajectory", "simulate"]
