"""TorchMD-NET's equivariant transformer, native, with MatDeepLearn's parameters."""

from mdl_physpretrain.potentials.torchmd_et.model import TorchMDET

__all__ = ["TorchMDET"]
