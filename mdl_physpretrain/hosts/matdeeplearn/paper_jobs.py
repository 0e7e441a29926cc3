"""MatDeepLearn configurations with ``inherits``, and the paper's for any of its systems and networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mdl_physpretrain.augmentation import TABLE_A1
from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.hosts.matdeeplearn.config import BOOKKEEPING
from mdl_physpretrain.hosts.matdeeplearn.hybrid_options import HYBRID_OPTIONS
from mdl_physpretrain.workflow.yaml_files import read_yaml

__all__ = ["BACKBONES", "SYSTEMS", "as_yaml", "read_job"]

#: Elements, share of the data for TorchMD in %, and MD (temperatures in K for CGCNN and TorchMD; Table 1).
SYSTEMS: dict[str, dict[str, Any]] = {
    "silica": {"elements": ["Si", "O"], "share": 10, "temperature": (2000, 2000), "timestep": 2.0},
    "phosphorus": {"elements": ["P"], "share": 5, "temperature": (1250, 1250), "timestep": 1.0},
    "mptrj": {"elements": ["Li", "Mn", "O", "P"], "share": 10, "temperature": (500, 1000), "timestep": 1.0},
}
#: Learning rate and batch size of the EAM, of pretraining, of training and, where they differ, of the hybrid, and SAM's
#: radius, by system and network: of the authors' configurations (Fung-Lab/MatDeepLearn_dev,
#: configs/pretrain_project at d32e08ca and 8b49bba7).
OPTIM: dict[tuple[str, str], dict[str, Any]] = {
    ("silica", "cgcnn"): {"eam": (2e-3, 4), "pretrain": (2e-3, 16), "train": (1e-3, 16), "rho": 5e-3},
    ("silica", "torchmd"): {"eam": (2e-3, 4), "pretrain": (5e-5, 4), "train": (5e-5, 2), "rho": 1e-5},
    ("phosphorus", "cgcnn"): {
        "eam": (2e-3, 16),
        "pretrain": (5e-4, 16),
        "train": (1e-3, 16),
        "hybrid": (5e-4, 16),
        "rho": 5e-3,
    },
    ("phosphorus", "torchmd"): {"eam": (2e-3, 16), "pretrain": (5e-5, 4), "train": (5e-5, 2), "rho": 5e-6},
    ("mptrj", "cgcnn"): {"eam": (2e-3, 32), "pretrain": (5e-4, 32), "train": (5e-4, 16), "rho": 5e-4},
    ("mptrj", "torchmd"): {"eam": (2e-3, 32), "pretrain": (5e-5, 4), "train": (5e-5, 4), "rho": 1e-5},
}
WITHOUT_STRESS = ("phosphorus",)
BACKBONES = ("cgcnn", "torchmd")
WRITTEN_FOR = ("silica", "cgcnn")  # the files in configs/matdeeplearn


def read_job(path: str | Path, system: str | None = None, backbone: str | None = None) -> dict[str, Any]:
    """A complete MatDeepLearn configuration from a file that may inherit others.

    ``system`` and ``backbone`` (of :data:`SYSTEMS` and :data:`BACKBONES`): the same job for another system or network
    of the paper. Only for files written for silica and CGCNN, as those of ``configs/matdeeplearn`` are; the network is
    taken from the file of its name beside ``path``. Raises ConfigError.
    """
    path = Path(path)
    job = read_yaml(path)
    if system is None and backbone is None:
        return job
    system, backbone = system or WRITTEN_FOR[0], backbone or WRITTEN_FOR[1]
    for option, value, choices in (("--system", system, tuple(SYSTEMS)), ("--backbone", backbone, BACKBONES)):
        if value not in choices:
            raise ConfigError(f"{option} must be one of {', '.join(choices)}, not {value!r}")
    if (job.get("dataset") or {}).get("name") != WRITTEN_FOR[0]:
        raise ConfigError(f"{path}: --system and --backbone need one of the paper's jobs, with dataset.name: silica")
    network = read_yaml(path.parent / f"{backbone}.yml")["model"]
    return _adapted(job, system, backbone, network)


def as_yaml(job: dict[str, Any]) -> str:
    """A configuration as the text of a file for MatDeepLearn."""
    return yaml.safe_dump(job, sort_keys=False, default_flow_style=None, width=110)


def _adapted(job: dict[str, Any], system: str, backbone: str, network: dict[str, Any]) -> dict[str, Any]:
    values, torchmd = SYSTEMS[system], backbone == "torchmd"
    texts = {
        "data/silica/": f"data/{system}-{values['share']}/" if torchmd else f"data/{system}/",
        "silica-cgcnn-": f"{system}-{backbone}-",
        "silica-eam": f"{system}-torchmd-eam" if torchmd else f"{system}-eam",
        "CGCNN_EAM": "TorchMD_EAM" if torchmd else "CGCNN_EAM",
    }
    job = _replaced(job, texts, values["elements"])
    model, dataset = job["model"], job["dataset"]
    if "EAM_Interaction" not in model["name"]:
        kept = {k: v for k, v in model.items() if k in BOOKKEEPING | HYBRID_OPTIONS}
        hybrid = {"name": model["name"]} if "_EAM" in model["name"] else {}
        job["model"] = {**network, **kept, "name": network["name"], **hybrid}
    dataset["name"] = system
    _set_optim(job, OPTIM[system, backbone])
    table, options = TABLE_A1[system, backbone], job.get("physpretrain") or {}
    for transform in dataset["transforms"]:
        if transform["name"].endswith("AugmentAndLabel"):
            transform["args"] |= table
    if "augment" in options:
        options["augment"] |= table
    if "md" in options:
        options["md"] |= {"temperature": values["temperature"][torchmd], "timestep": values["timestep"]}
    if system in WITHOUT_STRESS:
        dataset["additional_attributes"] = ["forces"]
        job["optim"]["loss"] = {
            "loss_type": "ForceLoss",
            "loss_args": {k: v for k, v in job["optim"]["loss"]["loss_args"].items() if k != "weight_stress"},
        }
        if "teacher" in options:
            options["teacher"]["weights"] = [*options["teacher"]["weights"][:2], 0]
    return job


def _set_optim(job: dict[str, Any], values: dict[str, Any]) -> None:
    """Learning rates, batch sizes and radius of the authors' files."""
    optim, options = job["optim"], job.get("physpretrain") or {}
    augments = any(t["name"].endswith("AugmentAndLabel") for t in job["dataset"]["transforms"])
    name = job["model"]["name"]
    kind = "eam" if "EAM_Interaction" in name else "pretrain" if augments else "train"
    if "_EAM" in name and "hybrid" in values:
        kind = "hybrid"
    optim["lr"], optim["batch_size"] = values[kind]
    if "rho" in optim:
        optim["rho"] = values["rho"]
    if "lr" in options:
        options["lr"], options["batch_size"] = values["pretrain"]


def _replaced(value: Any, texts: dict[str, str], elements: list[str]) -> Any:
    """A copy with other texts and elements."""
    if isinstance(value, dict):
        return {k: _replaced(v, texts, elements) for k, v in value.items()}
    if value == SYSTEMS[WRITTEN_FOR[0]]["elements"]:
        return list(elements)
    if isinstance(value, list):
        return [_replaced(v, texts, elements) for v in value]
    if isinstance(value, str):
        for old, new in texts.items():
            value = value.replace(old, new)
    return value
