"""The labelled structures that an arm replays, in finetuning and in its loop."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ase import Atoms

from mdl_physpretrain.structures import read_structures
from mdl_physpretrain.teacher.committee import Agreement, committee_labels
from mdl_physpretrain.workflow.data import read_part
from mdl_physpretrain.workflow.layout import LABELLED, arm_folder

if TYPE_CHECKING:
    from mdl_physpretrain.workflow.config import RunConfig

__all__ = ["replayed_structures"]


def replayed_structures(
    config: RunConfig, folder: Path, *, seed: int, arm: str
) -> tuple[list[Atoms], Agreement | None]:
    """Those of the teacher, with the labels of the arm's committee where there is one, and what it knew."""
    labelled = read_structures(folder / LABELLED)
    members = config.arms[arm].committee
    if not members:
        return labelled, None
    networks = [folder / arm_folder(seed, member) / "best.pt" for member in members]
    return committee_labels(labelled, networks, read_part(folder, "train"), read_part(folder, "val"))
