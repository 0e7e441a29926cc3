"""M3GNet as MatterSim has it."""

from mdl_physpretrain.potentials.m3gnet.model import M3GNet

__all__ = ["M3GNet"]
