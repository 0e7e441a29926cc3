"""Energy models of teachers and networks, and the derivation of forces from them."""

from mdl_physpretrain.potentials.base import EnergyModel, Prediction, predict
from mdl_physpretrain.potentials.calculator import ASECalculator
from mdl_physpretrain.potentials.cgcnn.model import CGCNN
from mdl_physpretrain.potentials.checkpoint import load_model, save_model
from mdl_physpretrain.potentials.classical import ClassicalForceField
from mdl_physpretrain.potentials.eam.model import EAM
from mdl_physpretrain.potentials.error_metrics import evaluate, trivial_errors
from mdl_physpretrain.potentials.m3gnet.model import M3GNet
from mdl_physpretrain.potentials.registry import register_model, registered_models
from mdl_physpretrain.potentials.sum import Sum
from mdl_physpretrain.potentials.torchmd_et.model import TorchMDET
from mdl_physpretrain.potentials.zbl import ZBL

__all__ = [
    "CGCNN",
    "EAM",
    "ZBL",
    "ASECalculator",
    "ClassicalForceField",
    "EnergyModel",
    "M3GNet",
    "Prediction",
    "Sum",
    "TorchMDET",
    "evaluate",
    "load_model",
    "predict",
    "register_model",
    "registered_models",
    "save_model",
    "trivial_errors",
]
