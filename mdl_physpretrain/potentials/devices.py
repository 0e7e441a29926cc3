"""Names of devices: the GPU where there is one."""

from __future__ import annotations

import torch

from mdl_physpretrain.errors import ConfigError

__all__ = ["resolve_device"]


def resolve_device(name: str) -> str:
    """``auto`` as the GPU where there is one; a device that is not there is an error."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(name.split(":")[0], True):
        raise ConfigError(f"device: {name!r} is not available on this machine")
    return name
