"""Proportions, paired comparisons, survival, and differences over seeds, with their uncertainty."""

from mdl_physpretrain.statistics.proportions import summarize, wilson_interval
from mdl_physpretrain.statistics.survival import kaplan_meier, logrank, share_at

__all__ = ["kaplan_meier", "logrank", "share_at", "summarize", "wilson_interval"]
