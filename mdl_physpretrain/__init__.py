"""Physics-informed pretraining of machine-learned interatomic potentials.

The names below are the Python API; they are imported on first use, so that
``import mdl_physpretrain`` stays fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.2.0"

_EXPORTS = {
    "ASECalculator": "potentials",
    "AtomicBatch": "graphs",
    "CGCNN": "potentials",
    "EAM": "potentials",
    "EnergyModel": "potentials",
    "Sum": "potentials",
    "ZBL": "potentials",
    "assess": "dynamics",
    "augment": "augmentation",
    "evaluate": "potentials",
    "examine": "teacher",
    "fit_eam": "teacher",
    "finetune": "training",
    "label": "teacher",
    "load_model": "potentials",
    "predict": "potentials",
    "pretrain": "training",
    "pretrain_and_finetune": "method",
    "read_structures": "structures",
    "save_model": "potentials",
    "simulate": "dynamics",
    "split_structures": "structures",
    "train": "training",
    "write_structures": "structures",
}

if TYPE_CHECKING:
    from mdl_physpretrain.augmentation import augment as augment
    from mdl_physpretrain.dynamics import simulate as simulate  # type: ignore[no-redef]
    from mdl_physpretrain.dynamics.assessment import assess as assess  # type: ignore[no-redef]
    from mdl_physpretrain.graphs.batch import AtomicBatch as AtomicBatch
    from mdl_physpretrain.method import pretrain_and_finetune as pretrain_and_finetune
    from mdl_physpretrain.potentials import CGCNN as CGCNN
    from mdl_physpretrain.potentials import EAM as EAM
    from mdl_physpretrain.potentials import ZBL as ZBL
    from mdl_physpretrain.potentials import ASECalculator as ASECalculator
    from mdl_physpretrain.potentials import EnergyModel as EnergyModel
    from mdl_physpretrain.potentials import Sum as Sum
    from mdl_physpretrain.potentials import load_model as load_model
    from mdl_physpretrain.potentials import predict as predict
    from mdl_physpretrain.potentials import save_model as save_model
    from mdl_physpretrain.potentials.error_metrics import evaluate as evaluate
    from mdl_physpretrain.structures import read_structures as read_structures
    from mdl_physpretrain.structures import split_structures as split_structures
    from mdl_physpretrain.structures import write_structures as write_structures
    from mdl_physpretrain.teacher import examine as examine  # type: ignore[no-redef]
    from mdl_physpretrain.teacher import fit_eam as fit_eam
    from mdl_physpretrain.teacher import label as label  # type: ignore[no-redef]
    from mdl_physpretrain.training import finetune as finetune
    from mdl_physpretrain.training import pretrain as pretrain
    from mdl_physpretrain.training import train as train  # type: ignore[no-redef]

__all__ = ["__version__", *_EXPORTS]  # noqa: PLE0604


def __getattr__(name: str) -> object:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
