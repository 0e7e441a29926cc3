"""Where a training runs: asked of Lightning before any work."""

from __future__ import annotations

import logging
import os
import warnings
from typing import Any

import torch
from lightning.pytorch import Trainer

from mdl_physpretrain.errors import ConfigError

__all__ = ["check_hardware"]


def check_hardware(accelerator: str, devices: int | str, strategy: str) -> None:
    """Find out whether Lightning can train with these options on this machine.

    Raises
    ------
    ConfigError
        With Lightning's own words.
    """
    chosen = f"accelerator {accelerator!r}, devices {devices!r}, strategy {strategy!r}"
    options: dict[str, Any] = {"accelerator": accelerator, "devices": devices, "strategy": strategy}
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = Trainer(
                **options,
                max_epochs=1,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
    except Exception as error:  # Lightning raises many kinds
        words = " ".join(str(error).split())[:300] or type(error).__name__
        raise ConfigError(f"{chosen}: {words}") from error
    finally:
        log.setLevel(level)
    there = torch.cuda.device_count() if trainer.accelerator.name() in ("cuda", "gpu") else os.cpu_count() or 1
    if trainer.num_devices > max(1, there):
        raise ConfigError(f"{chosen}: this machine has {there}")
