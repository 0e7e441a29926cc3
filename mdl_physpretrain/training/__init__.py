"""Training of any energy model with Lightning, and its errors."""

from mdl_physpretrain.training.errors import evaluate, trivial_errors
from mdl_physpretrain.training.loss import EFSLoss
from mdl_physpretrain.training.references import shift_reference_energies
from mdl_physpretrain.training.student import build_student
from mdl_physpretrain.training.train import train

__all__ = ["EFSLoss", "build_student", "evaluate", "shift_reference_energies", "train", "trivial_errors"]
