"""The embedded-atom method of the paper (Eq. 1-3)."""

from mdl_physpretrain.potentials.eam.model import EAM

__all__ = ["EAM"]
