"""MatterTune's Lightning checkpoints of our networks and of its MatterSim backbone, read and written.

Nothing here needs MatterTune. A checkpoint holds ``hyper_parameters`` (the
configuration as plain values) and a ``state_dict`` with the network under
``backbone.`` and the property normalizers under ``normalizers.``.
"""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdl_physpretrain.errors import CheckpointError, ConfigError
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.checkpoint_file import write_checkpoint
from mdl_physpretrain.potentials.construction import constructed
from mdl_physpretrain.potentials.m3gnet.model import M3GNet
from mdl_physpretrain.potentials.registry import construct_model
from mdl_physpretrain.potentials.safe_load import load_foreign

__all__ = ["is_identity", "read_mattertune", "write_mattertune"]

BACKBONE, NETWORK = "backbone.", "backbone.model."
STOCK, OURS = "mattersim", "mattersim_m3gnet"  # MatterTune's backbone, and the plugin's that takes model_args
SAME_NAMES = ("cgcnn", "torchmd_et")  # networks whose weights are called the same on both sides
RELEASED_THREEBODY_CUTOFF = 4.0  # Å, of the two networks the stock backbone accepts
WRITTEN_BY = "2.6.0"  # Lightning's version field, which decides on migrations when it is read


def read_mattertune(path: str | Path) -> EnergyModel:
    """Read the network of a MatterTune checkpoint: one of ours, or MatterSim's M3GNet.

    References per atom of the energy are added to ``reference_energies``.

    Parameters
    ----------
    path
        A Lightning ``.ckpt``. Nothing in it is executed.

    Returns
    -------
    EnergyModel
        In evaluation mode on the CPU; its energies, forces and stress are those
        that MatterTune predicts.

    Raises
    ------
    CheckpointError
        If the file is damaged or would execute code, holds another backbone,
        or normalizes its predictions in a way no energy model can follow.
    """
    content = load_foreign(path)
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise CheckpointError(f"{path} is not a Lightning checkpoint (no state_dict)")
    settings, state = content.get("hyper_parameters"), content["state_dict"]
    if not isinstance(settings, dict) or "name" not in settings:
        raise CheckpointError(f"{path} is not a checkpoint of MatterTune (no hyper_parameters with a backbone's name)")
    if settings["name"] not in {STOCK, OURS, *SAME_NAMES}:
        raise CheckpointError(f"{path} holds MatterTune's backbone {settings['name']!r}, not {STOCK!r} or {OURS!r}")
    read = _read_same_names if settings["name"] in SAME_NAMES else _read_m3gnet
    model: Any = read(settings, state, path)
    with torch.no_grad():
        references = references_of(settings, state, path)[: len(model.reference_energies)]
        model.reference_energies[: len(references)] += references
    return model.eval()


def write_mattertune(model: EnergyModel, path: str | Path) -> Path:
    """Write a checkpoint that MatterTune loads with the plugin imported.

    Parameters
    ----------
    model
        ``cgcnn``, ``torchmd_et`` or ``m3gnet``, whose reference energies become
        shifts of the network.
    path
        File to write (``.ckpt``), atomically; parents are created.

    Raises
    ------
    CheckpointError
        If MatterTune has no backbone for the model, or the file cannot be written.
    """
    if isinstance(model, M3GNet):
        name, state = OURS, {NETWORK + k: v.float() for k, v in model.network_state().items()}
    elif model.registry_name in SAME_NAMES:
        name, state = model.registry_name, {BACKBONE + k: v.detach().cpu() for k, v in model.state_dict().items()}
    else:
        raise CheckpointError(f"MatterTune has no backbone for a {model.registry_name!r} model")
    loss = {"name": "mae", "reduction": "mean"}
    settings = {
        "name": name,
        "model_args": dict(model.hparams),
        "properties": [
            {"type": "energy", "name": "energy", "loss": loss},
            {"type": "forces", "name": "forces", "loss": loss, "conservative": True},
            {"type": "stresses", "name": "stresses", "loss": loss, "conservative": True},
        ],
        "optimizer": {"name": "AdamW", "lr": 1e-3},
        "normalizers": {},
        "reset_output_heads": False,
        "initialise": False,
    }
    content = {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": WRITTEN_BY,
        "hparams_name": "hparams",
        "hyper_parameters": settings,
        "state_dict": state,
    }
    return write_checkpoint(content, Path(path))


def _read_same_names(settings: dict[str, Any], state: dict[str, Tensor], path: str | Path) -> EnergyModel:
    args = settings.get("model_args") or {}
    try:
        model = constructed(lambda: construct_model(settings["name"], args), state, path)
        model.load_state_dict({k.removeprefix(BACKBONE): v for k, v in state.items() if k.startswith(BACKBONE)})
    except (ConfigError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: weights do not fit {settings['name']!r}: {error}") from error
    return model


def _read_m3gnet(settings: dict[str, Any], state: dict[str, Tensor], path: str | Path) -> M3GNet:
    weights = {k.removeprefix(NETWORK): v for k, v in state.items() if k.startswith(NETWORK)}
    if not weights:
        raise CheckpointError(f"{path} holds no network (no key starts with {NETWORK!r})")
    if settings["name"] == STOCK:
        args = _architecture(weights, path)
    else:
        defaults = {name: parameter.default for name, parameter in signature(M3GNet).parameters.items()}
        args = {**defaults, **(settings.get("model_args") or {})}
    model = M3GNet.from_network(args, weights, source=path)
    _check_graph(settings.get("graph_convertor"), model, path)
    return model


def _architecture(weights: dict[str, Tensor], path: str | Path) -> dict[str, Any]:
    """Arguments of the network, from the shapes of its weights."""
    try:
        units, max_n = weights["edge_encoder.mlp.0.linear.weight"].shape
        channels = len(weights["graph_conv.0.three_body.atom_mlp.linear.bias"])
        blocks = {k.split(".")[1] for k in weights if k.startswith("graph_conv.")}
        return {
            "cutoff": round(float(weights["rbf.r_max"]), 6),
            "threebody_cutoff": RELEASED_THREEBODY_CUTOFF,
            "units": units,
            "num_blocks": len(blocks),
            "max_n": max_n,
            "max_l": channels // max_n,
            "max_z": len(weights["normalizer.shift"]) - 1,
        }
    except KeyError as error:
        raise CheckpointError(f"{path} does not fit M3GNet: it lacks {NETWORK}{error.args[0]}") from error


def _check_graph(graph: Any, model: M3GNet, path: str | Path) -> None:
    """Refuse a graph cut elsewhere than the network's functions end."""
    if not isinstance(graph, dict):
        return
    expected = {"twobody_cutoff": model.cutoff, "threebody_cutoff": model.threebody_cutoff, "has_threebody": True}
    for name, value in expected.items():
        setting = graph.get(name, value)
        if abs(float(setting) - float(value)) > 1e-6:
            raise CheckpointError(
                f"{path}: graph_convertor.{name} is {setting}, but the network was made for {value}: "
                "its energy jumps where bonds are cut off"
            )


def references_of(settings: dict[str, Any], state: dict[str, Tensor], path: str | Path) -> Tensor:
    """Energies per element in eV, by atomic number, that MatterTune adds to a prediction.

    A normalizer that is not ``only_for_target`` acts in the loss alone.
    """
    total = torch.zeros(119, dtype=torch.float64)
    kinds = {p.get("name"): p.get("type") for p in settings.get("properties") or []}
    for name, normalizers in (settings.get("normalizers") or {}).items():
        for k, normalizer in enumerate(normalizers):
            if not normalizer.get("only_for_target", True) or is_identity(normalizer):
                continue
            if kinds.get(name) != "energy" or "per_atom_references" not in normalizer:
                options = ", ".join(f"{key} {value}" for key, value in normalizer.items() if key != "only_for_target")
                raise CheckpointError(
                    f"{path}: predictions of {name!r} are normalized ({options or 'per atom'}). Forces and stress are "
                    "derivatives of the energy, so only per_atom_references of the energy can be taken over"
                )
            key = f"normalizers.{name}.normalizers.{k}.references"
            if key not in state:
                raise CheckpointError(f"{path} lacks {key}, which its hyper_parameters ask for")
            references = state[key].double()[: len(total) - 1]
            total[1 : 1 + len(references)] += references
    return total


def is_identity(normalizer: dict[str, Any]) -> bool:
    """Whether a normalizer, as plain values, changes nothing."""
    if "rms" in normalizer:
        return float(normalizer["rms"]) == 1
    return "std" in normalizer and float(normalizer["std"]) == 1 and float(normalizer["mean"]) == 0
