"""What is done once per seed and arm: training."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from ase import Atoms

from mdl_physpretrain.potentials import EnergyModel, load_model
from mdl_physpretrain.structures import read_structures
from mdl_physpretrain.training import finetune, pretrain
from mdl_physpretrain.workflow.config import RunConfig
from mdl_physpretrain.workflow.data import read_part
from mdl_physpretrain.workflow.device_process import is_first_rank
from mdl_physpretrain.workflow.teacher import TEACHER

__all__ = ["LABELLED", "arm_folder", "finetune_arm", "pretrain_folder", "pretrain_network"]

LABELLED = "augment/labelled.extxyz"


def pretrain_folder(seed: int, core: str) -> str:
    """Folder of the pretraining of a seed; a network with a core is another network."""
    return f"seed-{seed}/pretrain" + ("" if core == "none" else f"-{core}")


def arm_folder(seed: int, arm: str) -> str:
    """Folder of an arm's training."""
    return f"seed-{seed}/{arm}"


def pretrain_network(config: RunConfig, folder: Path, show: bool, *, seed: int, core: str) -> list[str]:
    """Train a new network on the teacher's labels."""
    foreign = config.teacher.calculator is not None and not config.augment.anchor  # another energy scale
    return _train(
        config,
        folder,
        pretrain_folder(seed, core),
        show,
        pretrain,
        config.backbone.name,
        read_structures(folder / LABELLED),
        parents=read_part(folder, "train"),
        model_args=config.backbone.args,
        core=core,
        shift_energies=foreign,
        split_seed=config.data.seed,
        seed=seed,
        **config.pretrain.model_dump(),
    )


def finetune_arm(config: RunConfig, folder: Path, show: bool, *, seed: int, arm: str) -> list[str]:
    """Train an arm's network on the reference labels, from the pretrained one or afresh."""
    chosen, core, replay = config.arms[arm], config.core_of(arm), config.replay_of(arm)
    options = config.finetune.model_dump() | chosen.changes() | {"replay_fraction": replay, "seed": seed}
    if replay > 0:
        options["replay"] = read_structures(folder / LABELLED)
    model: Any = config.backbone.name
    if chosen.pretrain:
        model = load_model(folder / pretrain_folder(seed, core) / "best.pt")
    else:
        options |= {"model_args": config.backbone.args, "core": core}
        if chosen.hybrid != "none":
            options |= {"eam": folder / TEACHER, "freeze_eam": chosen.hybrid == "frozen"}
    train, val = read_part(folder, "train"), read_part(folder, "val")
    return _train(config, folder, arm_folder(seed, arm), show, finetune, model, train, val=val or None, **options)


def _train(
    config: RunConfig,
    folder: Path,
    out: str,
    show: bool,
    stage: Callable[..., EnergyModel],
    model: Any,
    structures: Sequence[Atoms],
    **options: Any,
) -> list[str]:
    _drop_damaged(folder / out / "last.ckpt")
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
    trained.metadata = {"training": out, "seed": seed, "best_val_loss": best, "elements": elements}
    if is_first_rank():
        trained.save(folder / out / "best.pt")
    return [f"{out}/best.pt", f"{out}/history.csv"]


def _drop_damaged(checkpoint: Path) -> None:
    """Remove a ``last.ckpt`` that cannot be read: the training then starts again, which is said."""
    if not checkpoint.is_file():
        return
    try:
        torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        warnings.warn(f"{checkpoint} is damaged ({reason}); this training starts again", stacklevel=2)
        os.replace(checkpoint, checkpoint.with_name("last.damaged.ckpt"))
