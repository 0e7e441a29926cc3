"""The labelled structures that an arm replays in finetuning: the teacher's, or with the labels of a committee."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ase import Atoms

from mdl_physpretrain.files import write_atomic
from mdl_physpretrain.locking import is_first_rank
from mdl_physpretrain.structures import read_structures, write_structures
from mdl_physpretrain.teacher.committee import committee_labels
from mdl_physpretrain.workflow.data import read_part
from mdl_physpretrain.workflow.layout import LABELLED, arm_folder, committee_files

if TYPE_CHECKING:
    from mdl_physpretrain.workflow.config import RunConfig

__all__ = ["replayed_structures"]


def replayed_structures(config: RunConfig, folder: Path, *, seed: int, arm: str) -> tuple[list[Atoms], list[str]]:
    """Those of the teacher, with the labels of the arm's committee where it has one; the files written for that.

    What an interrupted training has left is taken as it is: a network gives the same numbers to rounding only, and the
    training goes on with the same labels only.
    """
    members = config.arms[arm].committee
    if not members:
        return read_structures(folder / LABELLED), []
    files = structures, knew = committee_files(seed, arm)
    if not (folder / knew).is_file():
        networks = [folder / arm_folder(seed, member) / "best.pt" for member in members]
        train, val = read_part(folder, "train"), read_part(folder, "val")
        labelled, agreement = committee_labels(read_structures(folder / LABELLED), networks, train, val)
        if not is_first_rank():
            return labelled, []
        (folder / structures).parent.mkdir(parents=True, exist_ok=True)
        write_structures(folder / structures, labelled)
        write_atomic(folder / knew, json.dumps(agreement.to_dict(), indent=1))  # last: then both are there
    return read_structures(folder / structures), list(files)
