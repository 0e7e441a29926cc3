"""Training of any energy model with Lightning."""

from mdl_physpretrain.training.loss import EFSLoss
from mdl_physpretrain.training.network import build_student
from mdl_physpretrain.training.references import shift_reference_energies
from mdl_physpretrain.training.train import train

__all__ = ["EFSLoss", "build_student", "shift_reference_energies", "train"]
