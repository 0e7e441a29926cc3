"""What is done once per seed and arm: training."""

from __future__ import annotations

import os
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from mdl_physpretrain.potentials import load_model
from mdl_physpretrain.recipe import Training
from mdl_physpretrain.structures import read_structures, split_by_parent
from mdl_physpretrain.training import build_student, shift_reference_energies, train
from mdl_physpretrain.workflow.config import RunConfig
from mdl_physpretrain.workflow.data import read_part
from mdl_physpretrain.workflow.device_process import is_first_rank
from mdl_physpretrain.workflow.teacher import TEACHER

__all__ = ["LABELLED", "arm_folder", "derived_seed", "finetune_arm", "pretrain_folder", "pretrain_student"]

LABELLED = "augment/labelled.extxyz"


def derived_seed(seed: int, purpose: str) -> int:
    """An independent seed for one purpose within a run's seed.

    The purpose is the same for all arms: the same initial weights, starting
    velocities and noise, so that arms are compared in pairs.
    """
    return int(np.random.SeedSequence([seed, zlib.crc32(purpose.encode())]).generate_state(1)[0] & 0x7FFFFFFF)


def pretrain_folder(seed: int, core: str) -> str:
    """Folder of the pretraining of a seed; a network with a core is another network."""
    return f"seed-{seed}/pretrain" + ("" if core == "none" else f"-{core}")


def arm_folder(seed: int, arm: str) -> str:
    """Folder of an arm's training."""
    return f"seed-{seed}/{arm}"


def pretrain_student(config: RunConfig, folder: Path, show: bool, *, seed: int, core: str) -> list[str]:
    """Train a new network on the teacher's labels.

    It is made from the reference data, like that of an arm without pretraining
    and with the same seed: reference energies, normalisation and the reach of
    a core are those of the data, not of compressed structures.
    """
    labelled = _read(folder / LABELLED)
    kept, val = split_by_parent(labelled, config.pretrain.val_fraction, config.data.seed)
    number = derived_seed(seed, "student")
    train = read_part(folder, "train")
    model = build_student(config.backbone.name, train, model_args=config.backbone.args, core=core, seed=number)
    if config.teacher.calculator is not None and not config.augment.anchor:
        shift_reference_energies(model, kept)  # another code, another energy scale
    out = pretrain_folder(seed, core)
    return _train(config, folder, out, show, model, kept, val or None, config.pretrain, seed=number)


def finetune_arm(config: RunConfig, folder: Path, show: bool, *, seed: int, arm: str) -> list[str]:
    """Train an arm's network on the reference labels, from the pretrained one or afresh."""
    chosen, core, replay = config.arms[arm], config.core_of(arm), config.replay_of(arm)
    options = config.finetune.model_copy(update=chosen.changes())
    train, val = read_part(folder, "train"), read_part(folder, "val")
    extra: dict[str, Any] = {"seed": derived_seed(seed, "finetune" if chosen.pretrain else "student")}
    if replay > 0:
        extra |= {"replay": _read(folder / LABELLED), "replay_fraction": replay}
    model: Any = config.backbone.name
    if chosen.pretrain:
        model = load_model(folder / pretrain_folder(seed, core) / "best.pt")
        extra["shift_energies"] = config.finetune.shift_energies
    else:
        extra |= {"model_args": config.backbone.args, "core": core}
        if chosen.hybrid != "none":
            extra |= {"eam": folder / TEACHER, "freeze_eam": chosen.hybrid == "frozen"}
    return _train(config, folder, arm_folder(seed, arm), show, model, train, val or None, options, **extra)


def _train(
    config: RunConfig,
    folder: Path,
    out: str,
    show: bool,
    model: Any,
    structures: Sequence[Atoms],
    val: Sequence[Atoms] | None,
    options: Training,
    **extra: Any,
) -> list[str]:
    _drop_damaged(folder / out / "last.ckpt")
    own = set(Training.model_fields)
    trained = train(
        model,
        structures,
        val=val,
        directory=folder / out,
        resume=True,
        accelerator=config.accelerator,
        devices=config.devices,
        strategy=config.strategy,
        progress=show,
        **{name: value for name, value in options.model_dump().items() if name in own},
        **extra,
    )
    best = trained.metadata.get("best_val_loss")  # type: ignore[union-attr]
    elements = sorted({s for a in structures for s in a.symbols})
    # nothing that differs from run to run (times): equal results shall be equal files
    trained.metadata = {"training": out, "seed": extra["seed"], "best_val_loss": best, "elements": elements}  # type: ignore[assignment]
    if is_first_rank():
        trained.save(folder / out / "best.pt")  # type: ignore[arg-type]
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


def _read(path: Path) -> list[Atoms]:
    return read_structures(path)
