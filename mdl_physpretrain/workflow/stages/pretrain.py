"""Stage pretrain: a new network learns the teacher's labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mdl_physpretrain.structures import chosen_references, read_structures
from mdl_physpretrain.training.pretrain_finetune import pretrain
from mdl_physpretrain.training.references import is_another_energy_scale
from mdl_physpretrain.workflow.data import read_part
from mdl_physpretrain.workflow.layout import LABELLED, pretrain_folder
from mdl_physpretrain.workflow.training import train_in_folder

if TYPE_CHECKING:
    from mdl_physpretrain.workflow.config import RunConfig

__all__ = ["pretrain_network"]


def pretrain_network(config: RunConfig, folder: Path, show: bool, *, seed: int, core: str) -> list[str]:
    """Train a new network on the teacher's labels."""
    train, choice = read_part(folder, "train"), config.data.references
    return train_in_folder(
        config,
        folder,
        pretrain_folder(seed, core),
        show,
        pretrain,
        config.backbone.name,
        read_structures(folder / LABELLED),
        parents=train,
        references=None if choice == "fit" else chosen_references(train, choice),
        model_args=config.backbone.args,
        core=core,
        shift_energies=is_another_energy_scale(config.teacher, anchor=config.augment.anchor),
        split_seed=config.data.seed,
        seed=seed,
        **config.pretrain.model_dump(),
    )
