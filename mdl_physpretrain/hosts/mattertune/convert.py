"""Our networks between our checkpoints and MatterTune's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mdl_physpretrain.errors import CheckpointError
from mdl_physpretrain.hosts.mattertune.checkpoint import WRITTEN_BY, read_mattertune, references_of, write_mattertune
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.checkpoint import FORMAT, load_model, write_checkpoint
from mdl_physpretrain.potentials.m3gnet.model import M3GNet
from mdl_physpretrain.potentials.registry import model_class
from mdl_physpretrain.potentials.safe_load import load_foreign

__all__ = ["plain_copy", "read_native", "write_host"]

BACKBONE = "backbone."
NETWORKS = ("cgcnn", "torchmd_et")  # whose names are the same on both sides


def read_native(path: str | Path) -> EnergyModel:
    """The network of any checkpoint that holds one of ours.

    Parameters
    ----------
    path
        Native (``.pt``), MatterTune's with one of the plugin's backbones or its
        own ``mattersim`` (``.ckpt``), or MatterSim's own (``.pth``).

    Returns
    -------
    EnergyModel
        In evaluation mode on the CPU. References per atom of the host's energy
        normaliser are part of ``reference_energies``.

    Raises
    ------
    CheckpointError
        If the file is damaged or holds something else.
    """
    path = Path(path)
    content = load_foreign(path)
    if isinstance(content, dict) and content.get("format") == FORMAT:
        return load_model(path)
    if isinstance(content, dict) and "model_args" in content and "hyper_parameters" not in content:
        return M3GNet.from_mattersim(path).eval()
    settings = content.get("hyper_parameters") if isinstance(content, dict) else None
    if not isinstance(settings, dict) or settings.get("name") not in NETWORKS:
        return read_mattertune(path)
    state = {k.removeprefix(BACKBONE): v for k, v in content["state_dict"].items() if k.startswith(BACKBONE)}
    try:
        model: Any = model_class(settings["name"])(**settings.get("model_args", {}))
        model.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        raise CheckpointError(f"{path}: weights do not fit {settings['name']!r}: {error}") from error
    with torch.no_grad():
        model.reference_energies += references_of(settings, content["state_dict"], path).to(model.reference_energies)
    return model.eval()


def write_host(model: EnergyModel, path: str | Path) -> Path:
    """Write one of our networks as a checkpoint that MatterTune loads with the plugin imported.

    Parameters
    ----------
    model
        ``cgcnn``, ``torchmd_et`` or ``m3gnet``.
    path
        File to write (``.ckpt``), atomically; parents are created.

    Raises
    ------
    CheckpointError
        If MatterTune has no backbone for the model, or the file cannot be written.
    """
    if model.registry_name == "m3gnet":
        return write_mattertune(model, path)
    if model.registry_name not in NETWORKS:
        raise CheckpointError(f"MatterTune has no backbone for a {model.registry_name!r} model")
    path = Path(path)
    content = {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": WRITTEN_BY,
        "hparams_name": "hparams",
        "hyper_parameters": _settings(model),
        "state_dict": {BACKBONE + k: v.detach().cpu() for k, v in model.state_dict().items()},
    }
    return write_checkpoint(content, path)


def plain_copy(model: EnergyModel) -> EnergyModel:
    """A copy on the CPU with our own names, whatever the original saves them as."""
    fresh: Any = model_class(model.registry_name)(**model.hparams)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    fresh.to(model.dtype).load_state_dict({k: tensors[k].detach().cpu() for k in fresh.state_dict()})
    fresh.metadata = dict(model.metadata)
    return fresh.eval()


def _settings(model: EnergyModel) -> dict[str, Any]:
    """A minimal configuration of the plugin's backbone, as plain values."""
    loss = {"name": "mae", "reduction": "mean"}
    return {
        "name": model.registry_name,
        "model_args": dict(model.hparams),
        "initialise": False,
        "properties": [
            {"type": "energy", "name": "energy", "loss": loss},
            {"type": "forces", "name": "forces", "loss": loss, "conservative": True},
            {"type": "stresses", "name": "stresses", "loss": loss, "conservative": True},
        ],
        "optimizer": {"name": "AdamW", "lr": 1e-3},
    }
