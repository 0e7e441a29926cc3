"""MatDeepLearn's ``.pt`` files and native models, in both directions.

A MatDeepLearn checkpoint holds weights only; the network is described in the
YAML file of the run, so the two are always read and written together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from ase.data import atomic_numbers, chemical_symbols
from torch import Tensor

from mdl_physpretrain.errors import CheckpointError, ConfigError
from mdl_physpretrain.hosts.matdeeplearn.config import read_host_config
from mdl_physpretrain.hosts.matdeeplearn.host_networks import host_network, host_yaml
from mdl_physpretrain.hosts.matdeeplearn.networks import our_network
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.cgcnn.model import CGCNN
from mdl_physpretrain.potentials.cgcnn.reference_channel import with_reference_channel
from mdl_physpretrain.potentials.checkpoint_file import write_checkpoint
from mdl_physpretrain.potentials.safe_load import load_foreign

__all__ = ["read_matdeeplearn", "reference_table", "state_of", "write_matdeeplearn"]

REFERENCES = ("refuse", "fold", "beside")


def read_matdeeplearn(
    path: str | Path,
    config: str | Path | Mapping[str, Any],
    *,
    elements: Sequence[str] | None = None,
    member: int | None = None,
) -> EnergyModel:
    """A native model from a MatDeepLearn checkpoint.

    Parameters
    ----------
    path
        Checkpoint of its trainer, or a bare ``state_dict``.
    config
        The YAML file of the run, or its content.
    elements
        ``atom_types`` of an EAM whose configuration does not name them.
    member
        Which one of several models in one file (an ensemble), from 0.

    Returns
    -------
    EnergyModel
        In evaluation mode, with what it is and what to mind in
        ``metadata["converted"]``.

    Raises
    ------
    CheckpointError
        If the file is damaged, unsafe or does not fit the configuration.
    ConfigError
        If the configuration asks for something that cannot be had here.
    """
    described = read_host_config(config)
    if elements:
        described = replace(described, atom_types=list(elements))
    state = state_of(load_foreign(path), str(path), member=member)
    model, notes = our_network(described, state, str(path))
    if described.reference_energies:
        table = reference_table(model)
        if table is None:
            raise ConfigError(f"{described.source}: a {model.registry_name} has no reference_energies")
        for symbol, energy in described.reference_energies.items():
            if symbol not in atomic_numbers:
                raise ConfigError(f"{described.source}: reference_energies: {symbol!r} is not an element")
            table[atomic_numbers[symbol]] = energy
    model.metadata = {
        **model.metadata,
        "converted": {"from": "matdeeplearn", "file": str(path), "network": described.name, "notes": notes},
    }
    return model


def write_matdeeplearn(
    model: EnergyModel,
    path: str | Path,
    *,
    config: str | Path | None = None,
    references: str = "refuse",
    drop_core: bool = False,
) -> list[Path]:
    """Write a model as MatDeepLearn's checkpoint and the YAML that goes with it.

    Parameters
    ----------
    model
        CGCNN, torchmd_et, EAM, or the sum of one of the first two and an EAM.
    path
        Checkpoint to write.
    config
        YAML file to write; by default beside the checkpoint.
    references
        What to do with reference energies, which MatDeepLearn's networks do
        not have: ``"refuse"``; ``"fold"`` them into the weights (CGCNN with
        late pooling only, one channel wider); or ``"beside"``, write them as
        ``model.reference_energies`` into the YAML, where MatDeepLearn ignores
        them: its energies are lower by their sum, forces and stress are equal.
    drop_core
        Write an EAM without its ZBL core.

    Returns
    -------
    list of Path
        Checkpoint and YAML.

    Raises
    ------
    CheckpointError
        If MatDeepLearn cannot have this model.
    """
    if references not in REFERENCES:
        raise ConfigError(f"references must be one of {', '.join(REFERENCES)}, not {references!r}")
    network = host_network(model, drop_core=drop_core)
    table = reference_table(model)
    beside: dict[str, float] = {}
    if table is not None and bool((table != 0).any()):
        if references == "refuse":
            raise CheckpointError(
                "MatDeepLearn's networks have no reference energies, and this model has: "
                "fold them into the weights (references 'fold', CGCNN only) or write them beside ('beside')"
            )
        if references == "beside":
            beside = {chemical_symbols[z]: float(table[z]) for z in torch.nonzero(table).flatten().tolist()}
        elif isinstance(model, CGCNN):
            network = host_network(with_reference_channel(model))
        else:
            raise CheckpointError(f"reference energies cannot be folded into a {model.registry_name}")
    path = Path(path)
    config = path.with_suffix(".yml") if config is None else Path(config)
    if beside:
        network.options["reference_energies"] = beside
    # MatDeepLearn computes in float32
    state = {k: (v.float() if v.is_floating_point() else v).detach().cpu() for k, v in network.state.items()}
    write_checkpoint({"state_dict": state, "epoch": 0, "step": 0}, path)
    try:
        config.write_text(host_yaml(network, model.cutoff, path), encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"cannot write {config}: {error}") from error
    return [path, config]


def reference_table(model: EnergyModel) -> Tensor | None:
    """The reference energies of a model, or of the part of a sum that has some."""
    return next((m.reference_energies for m in model.modules() if hasattr(m, "reference_energies")), None)


def state_of(content: Any, source: str, *, member: int | None = None) -> dict[str, Tensor]:
    """The ``state_dict`` in a MatDeepLearn checkpoint, without prefixes.

    Raises CheckpointError if ``member`` must choose.
    """
    if isinstance(content, list):
        if member is None and len(content) != 1:
            raise CheckpointError(f"{source} holds {len(content)} models: choose one (member)")
        if not 0 <= (member or 0) < len(content):
            raise CheckpointError(f"{source} holds {len(content)} models, there is no member {member}")
        content = content[member or 0]
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{source} has no state_dict: not a MatDeepLearn checkpoint")
    return {str(k).removeprefix("module."): v for k, v in state.items()}
