"""Training tasks in a run folder: resumed where they stopped, equal files for equal results."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ase import Atoms

from mdl_physpretrain.locking import is_first_rank
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.training.replay_scope import BEYOND_DATA, CLOSER, REPLAYED, SCOPE

if TYPE_CHECKING:
    from mdl_physpretrain.workflow.config import RunConfig

__all__ = ["drop_damaged", "train_in_folder"]


def train_in_folder(
    config: RunConfig,
    folder: Path,
    out: str,
    show: bool,
    stage: Callable[..., EnergyModel],
    model: Any,
    structures: Sequence[Atoms],
    **options: Any,
) -> list[str]:
    """Train in a folder of the run, or go on there; the files that were written."""
    for place in (folder / out, folder / out / BEYOND_DATA, folder / out / CLOSER):
        drop_damaged(place / "last.ckpt")
    trained: Any = stage(
        model,
        structures,
        directory=folder / out,
        accelerator=config.accelerator,
        devices=config.devices,
        strategy=config.strategy,
        progress=show,
        **options,
    )
    best, seed = trained.metadata["best_val_loss"], trained.metadata["seed"]
    # nothing that differs from run to run (times): equal results shall be equal files
    elements = sorted({s for a in structures for s in a.symbols})
    scope = {key: value for key, value in trained.metadata.items() if key in REPLAYED}
    trained.metadata = {"training": out, "seed": seed, "best_val_loss": best, "elements": elements, **scope}
    if is_first_rank():
        trained.save(folder / out / "best.pt")
    names = ["best.pt", "history.csv", *([SCOPE] if (folder / out / SCOPE).is_file() else [])]
    return [f"{out}/{name}" for name in names]


def drop_damaged(checkpoint: Path) -> None:
    """Remove a ``last.ckpt`` that cannot be read: the training then starts again, which is said."""
    if not checkpoint.is_file():
        return
    try:
        torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        warnings.warn(f"{checkpoint} is damaged ({reason}); this training starts again", stacklevel=2)
        os.replace(checkpoint, checkpoint.with_name("last.damaged.ckpt"))
