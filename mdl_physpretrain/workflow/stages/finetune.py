"""Stage finetune: an arm's network learns the reference labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdl_physpretrain.loop.replay_trial import ReplayTrial
from mdl_physpretrain.potentials import load_model
from mdl_physpretrain.structures import chosen_references, read_structures
from mdl_physpretrain.training.pretrain_finetune import finetune
from mdl_physpretrain.workflow.data import read_part
from mdl_physpretrain.workflow.layout import LABELLED, TEACHER, arm_folder, pretrain_folder
from mdl_physpretrain.workflow.training import train_in_folder

if TYPE_CHECKING:
    from mdl_physpretrain.workflow.config import RunConfig

__all__ = ["finetune_arm"]


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
    if replay > 0 and config.finetune.replay_trial:
        number = config.finetune.replay_trial
        options["trial"] = ReplayTrial(train, config.md, number, seed=seed, device=config.device, progress=show)
    if not chosen.pretrain and config.data.references != "fit":
        options["references"] = chosen_references(train, config.data.references)
    return train_in_folder(
        config, folder, arm_folder(seed, arm), show, finetune, model, train, val=val or None, **options
    )
