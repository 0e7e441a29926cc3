"""Crystal graph convolutional network, native, with MatDeepLearn's parameters."""

from mdl_physpretrain.potentials.cgcnn.model import CGCNN

__all__ = ["CGCNN"]
