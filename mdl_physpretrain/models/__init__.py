"""Energy models: teacher and students, and what derives forces from them."""

from mdl_physpretrain.models.base import EnergyModel, Prediction, predict, register_model, registered_models
from mdl_physpretrain.models.calculator import ASECalculator
from mdl_physpretrain.models.cgcnn import CGCNN
from mdl_physpretrain.models.checkpoint import load_model, save_model
from mdl_physpretrain.models.eam import EAM
from mdl_physpretrain.models.m3gnet import M3GNet
from mdl_physpretrain.models.sum import Sum
from mdl_physpretrain.models.torchmd_et import TorchMDET
from mdl_physpretrain.models.zbl import ZBL

__all__ = [
    "CGCNN",
    "EAM",
    "ZBL",
    "ASECalculator",
    "EnergyModel",
    "M3GNet",
    "Prediction",
    "Sum",
    "TorchMDET",
    "load_model",
    "predict",
    "register_model",
    "registered_models",
    "save_model",
]
