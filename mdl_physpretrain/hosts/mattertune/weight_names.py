"""M3GNet's weights under the names that MatterTune gives them."""

from __future__ import annotations

from typing import Any

import torch

from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.registry import construct_model

__all__ = ["named_as_in_host", "plain_copy"]

OURS, HOSTS = "network.", "model."


def named_as_in_host(model: EnergyModel) -> EnergyModel:
    """Let an M3GNet (in place) save and load weights under the names of MatterTune's ``mattersim`` backbone.

    ``network.*`` becomes ``model.*``, and the reference energies, which that backbone has not, are saved as part of the
    normaliser's shift. Other models are left as they are.
    """
    if model.registry_name == "m3gnet" and not hasattr(model, "named_as_in_host"):
        model.register_state_dict_post_hook(_to_host)
        model.register_load_state_dict_pre_hook(_from_host)
        model.named_as_in_host = True  # type: ignore[assignment]
    return model


def plain_copy(model: EnergyModel) -> EnergyModel:
    """A copy on the CPU with our own names, whatever the original saves them as."""
    fresh: Any = construct_model(model.registry_name, model.hparams)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    fresh.to(model.dtype).load_state_dict({k: tensors[k].detach().cpu() for k in fresh.state_dict()})
    fresh.metadata = dict(model.metadata)
    return fresh.eval()


def _to_host(model: Any, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for key in [k for k in state if k.startswith(prefix + OURS)]:
        state[prefix + HOSTS + key.removeprefix(prefix + OURS)] = state.pop(key)
    reference = state.pop(prefix + "reference_energies")
    shift = prefix + HOSTS + "normalizer.shift"
    state[shift] = state[shift] + reference[: len(state[shift])].to(state[shift])


def _from_host(model: Any, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    for key in [k for k in state if k.startswith(prefix + HOSTS)]:
        state[prefix + OURS + key.removeprefix(prefix + HOSTS)] = state.pop(key)
    state.setdefault(prefix + "reference_energies", torch.zeros_like(model.reference_energies))
