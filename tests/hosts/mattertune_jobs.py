"""What the tests of the MatterTune plugin share: tiny models, runs of the host, and data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from ase import Atoms
from ase.io import write

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.training import new_network

MODELS = {
    "cgcnn": {"cutoff": 4.5, "dim1": 16, "dim2": 16, "gc_count": 2, "post_fc_count": 1, "edge_dim": 12, "width": 0.1},
    "torchmd_et": {"cutoff": 4.5, "hidden_channels": 16, "num_layers": 1, "num_heads": 2, "num_rbf": 8},
    "m3gnet": {"cutoff": 4.5, "threebody_cutoff": 4.0, "units": 12, "num_blocks": 1},
}
PROPERTIES = [
    {"type": "energy", "loss": {"name": "mae"}, "loss_coefficient": 0.01},
    {"type": "forces", "loss": {"name": "mae"}, "loss_coefficient": 50.0, "conservative": True},
    {"type": "stresses", "loss": {"name": "mae"}, "loss_coefficient": 50.0, "conservative": True},
]


@pytest.fixture(scope="module", name="plugin")
def plugin_fixture() -> Any:
    """The plugin, imported into MatterTune; skipped where the host is not installed."""
    pytest.importorskip("nshconfig", reason="MatterTune's nshconfig is not installed")
    host = pytest.importorskip("mdl_physpretrain.hosts.mattertune.host")
    try:
        host.require_host()
    except ConfigError as error:
        pytest.skip(f"MatterTune is not installed: {error}")
    from mdl_physpretrain.hosts.mattertune import plugin

    return plugin


def backbone_name(network: str) -> str:
    return "mattersim_m3gnet" if network == "m3gnet" else network


def model_config(network: str, **more: Any) -> dict[str, Any]:
    return {
        "name": backbone_name(network),
        "model_args": MODELS[network],
        "properties": PROPERTIES,
        "optimizer": {"name": "AdamW", "lr": 1e-3},
        **more,
    }


def student(network: str, structures: list[Atoms], seed: int = 3) -> EnergyModel:
    if network == "m3gnet":
        pytest.importorskip("mattersim", reason="mattersim is not installed")
    return new_network(network, structures, model_args=MODELS[network], seed=seed).eval()


@pytest.fixture(name="folder")
def folder_fixture(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(name="lmo")
def lmo_fixture(folder: Path, demo_cells) -> list[Atoms]:
    """Eight small Li-Mn-O cells, also as ``small.extxyz``."""
    small = demo_cells(8, 14)
    write(folder / "small.extxyz", small)
    return small


def labels(**more: Any) -> dict[str, Any]:
    return {
        "type": "eam_labelled",
        "dataset": {"type": "xyz", "src": "small.extxyz"},
        "teacher": {"cutoff": 5.0, "epochs": 30},
        "augment": {"n_aug": 2, "pull": 1.0, "perturb": 0.5},
        **more,
    }


def run_config(model: dict[str, Any], train: dict[str, Any], validation: dict[str, Any], **more: Any) -> dict[str, Any]:
    trainer: dict[str, Any] = {
        "accelerator": "cpu",
        "log_every_n_steps": 1,
        "loggers": [{"type": "csv", "save_dir": "logs", "version": 0}],
        "additional_trainer_kwargs": {"enable_progress_bar": False, "enable_model_summary": False},
    }
    checkpoint = {"filename": "best", "monitor": "val/total_loss", "enable_version_counter": False}
    trainer["checkpoint"] = {**checkpoint, **more.pop("checkpoint")}
    data = {"train": train, "validation": validation, "batch_size": 4, "num_workers": 0, "pin_memory": False}
    return {"model": model, "data": data, "trainer": {**trainer, **more.pop("trainer", {})}, **more}


def tune(config: dict[str, Any], name: str) -> Any:
    """Through a file and the host's own reader, as a user would."""
    from mattertune.main import MatterTuner, MatterTunerConfig

    Path(f"{name}.yaml").write_text(yaml.safe_dump(config))
    return MatterTuner(MatterTunerConfig.from_yaml(f"{name}.yaml")).tune()


def logged(column: str) -> list[float]:
    table = pd.read_csv("logs/lightning_logs/version_0/metrics.csv")
    return table[column].dropna().tolist()


XYZ = {"type": "xyz", "src": "small.extxyz"}
