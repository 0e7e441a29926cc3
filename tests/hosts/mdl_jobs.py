"""Small MatDeepLearn jobs for the tests of the plugin."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import yaml
from ase import Atoms

CGCNN = {
    "name": "CGCNN", "dim1": 16, "dim2": 16, "pre_fc_count": 1, "gc_count": 2, "post_fc_count": 1,
    "pool": "global_add_pool", "pool_order": "late", "batch_norm": False, "batch_track_stats": True, "act": "silu",
    "dropout_rate": 0.0,
}  # fmt: skip
TORCHMD = {
    "name": "torchmd_etEarly", "hidden_channels": 16, "num_layers": 2, "num_rbf": 8, "rbf_type": "expnorm",
    "trainable_rbf": True, "activation": "silu", "attn_activation": "silu", "num_heads": 2,
    "distance_influence": "both", "neighbor_embedding": True, "max_z": 100, "aggr": "add", "num_post_layers": 1,
    "post_hidden_channels": 16, "pool": "global_add_pool", "pool_order": "early",
}  # fmt: skip
BASE: dict[str, Any] = {
    "trainer": "property",
    "task": {
        "identifier": "job", "parallel": False, "seed": 1, "save_dir": None, "continue_job": False,
        "load_training_state": False, "checkpoint_path": None, "write_output": ["train", "val", "test"],
        "output_frequency": 0, "model_save_frequency": 0, "use_amp": False,
    },
    "model": {},
    "optim": {
        "max_epochs": 2, "max_checkpoint_epochs": 0, "lr": 0.002,
        "loss": {
            "loss_type": "ForceStressLoss",
            "loss_args": {"weight_energy": 0.01, "weight_force": 50.0, "weight_stress": 50.0},
        },
        "clip_grad_norm": 10, "batch_size": 4, "optimizer": {"optimizer_type": "AdamW", "optimizer_args": {}},
        "scheduler": {
            "scheduler_type": "ReduceLROnPlateau",
            "scheduler_args": {"mode": "min", "factor": 0.8, "patience": 10, "min_lr": 0.00001, "threshold": 0.0002},
        },
        "verbosity": 1, "batch_tqdm": False,
    },
    "dataset": {
        "name": "lmo", "processed": False, "src": {"train": "train.json", "val": "val.json", "test": "test.json"},
        "target_path": None, "pt_path": "data/", "prediction_level": "graph",
        "transforms": [{"name": "GetY", "args": {"index": -1}, "otf_transform": True}], "data_format": "json",
        "additional_attributes": ["forces", "stress"], "verbose": False,
        "preprocess_params": {
            "edge_calc_method": "ocp", "preprocess_edges": False, "preprocess_edge_features": False,
            "preprocess_node_features": True, "cutoff_radius": 4.5, "n_neighbors": 250, "num_offsets": 3,
            "node_dim": 100, "edge_dim": 20, "self_loop": True, "node_representation": "onehot",
        },
        "num_workers": 0, "dataset_device": "cpu",
    },
}  # fmt: skip


def job(model: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A configuration; ``optim__lr=1`` changes ``optim.lr``."""
    config = copy.deepcopy(BASE)
    config["model"] = {
        **model, "otf_edge_index": True, "otf_edge_attr": True, "otf_node_attr": False, "model_ensemble": 1,
        "gradient": True,
    }  # fmt: skip
    for key, value in changes.items():
        inner, names = config, key.split("__")
        for name in names[:-1]:
            inner = inner[name]
        inner[names[-1]] = value
    return config


def write_job(folder: Path, config: dict[str, Any], structures: list[Atoms]) -> Path:
    """Data and YAML file of a job: all but four structures train, two validate, two test."""
    from mdl_physpretrain.structures import write_structures

    folder.mkdir(parents=True, exist_ok=True)
    parts = {"train": structures[:-4], "val": structures[-4:-2], "test": structures[-2:]}
    for name, part in parts.items():
        write_structures(folder / f"{name}.json", part)
    path = folder / "config.yml"
    path.write_text(yaml.safe_dump(config))
    return path


def run_job(folder: Path, config: dict[str, Any], structures: list[Atoms], monkeypatch: Any) -> Path:
    """Run a job in this process; its results folder."""
    from mdl_physpretrain.hosts.matdeeplearn.runner import run_host

    path = write_job(folder, config, structures)
    monkeypatch.chdir(folder)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        run_host(path.name)
    finally:
        for handler in set(root.handlers) - set(handlers):
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
    return max((folder / "results").iterdir())  # their names begin with the time
