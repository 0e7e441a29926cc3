"""Training of any energy model with Lightning."""

from mdl_physpretrain.training.loss import EFSLoss
from mdl_physpretrain.training.network import new_network
from mdl_physpretrain.training.pretrain_finetune import finetune, pretrain
from mdl_physpretrain.training.references import shift_reference_energies
from mdl_physpretrain.training.train import train

__all__ = [
    "EFSLoss",
    "finetune",
    "new_network",
    "pretrain",
    "shift_reference_energies",
    "train",
]
