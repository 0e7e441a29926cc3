"""Physics-informed pretraining of machine-learned interatomic potentials.

The names below are the Python API; they are imported on first use, so that
``import mdl_physpretrain`` stays fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_EXPORTS = {
    "ASECalculator": "models",
    "AtomicBatch": "batch",
    "CGCNN": "models",
    "EAM": "models",
    "EnergyModel": "models",
    "Sum": "models",
    "ZBL": "models",
    "assess": "physicality",
    "augment": "augment",
    "evaluate": "training",
    "examine": "teacher",
    "fit_eam": "teacher",
    "label": "teacher",
    "load_model": "models",
    "predict": "models",
    "read_structures": "structures",
    "save_model": "models",
    "simulate": "dynamics",
    "split_structures": "structures",
    "train": "training",
    "write_structures": "structures",
}

__all__ = ["__version__", *_EXPORTS]  # noqa: PLE0604


def __getattr__(name: str) -> object:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
