"""Names of devices: the GPU where there is one."""

from __future__ import annotations

import re

import torch

from mdl_physpretrain.errors import ConfigError

__all__ = ["resolve_device"]


def resolve_device(name: str) -> str:
    """``auto`` as the GPU where there is one; a device that is not there is an error."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise ConfigError(f"device: {name!r} is none of auto, cpu, cuda, cuda:<number>, mps")
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(name.split(":")[0], True):
        raise ConfigError(f"device: {name!r} is not available on this machine")
    index = int(name.partition(":")[2] or 0)
    if name.startswith("cuda") and index >= torch.cuda.device_count():
        raise ConfigError(f"device: {name!r} is not available on this machine: it has {torch.cuda.device_count()} GPUs")
    return name
