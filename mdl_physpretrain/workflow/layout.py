"""File names of a run folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mdl_physpretrain.statistics.reference import REFERENCE_POTENTIAL

if TYPE_CHECKING:
    from mdl_physpretrain.workflow.config import RunConfig

__all__ = [
    "FITTED",
    "JOURNAL",
    "LABELLED",
    "MOTION",
    "REFERENCE",
    "TEACHER",
    "arm_folder",
    "best_file",
    "loop_folder",
    "md_file",
    "md_scratch",
    "pretrain_folder",
]

TEACHER = "teacher/teacher.pt"
FITTED = "augment/fitted.pt"  # beside a calculator
JOURNAL = "augment/labels.journal"
MOTION = f"{JOURNAL}.motion"
LABELLED = "augment/labelled.extxyz"
REFERENCE = "reference/potential.json"


def pretrain_folder(seed: int, core: str) -> str:
    """Folder of the pretraining of a seed; a network with a core is another network."""
    return f"seed-{seed}/pretrain" + ("" if core == "none" else f"-{core}")


def arm_folder(seed: int, arm: str) -> str:
    """Folder of an arm's training."""
    return f"seed-{seed}/{arm}"


def loop_folder(seed: int, arm: str) -> str:
    """Folder of an arm's closed loop."""
    return f"{arm_folder(seed, arm)}/loop"


def best_file(config: RunConfig, seed: int, arm: str) -> str:
    """The finished network of an arm: of its loop, where it has one."""
    return f"{loop_folder(seed, arm) if config.rounds_of(arm) else arm_folder(seed, arm)}/best.pt"


def md_file(seed: int, arm: str, label: str = "") -> str:
    """Start of the names of an arm's MD files; further conditions carry their label.

    That of the reference potential is once in a folder for all seeds of networks: its seed is that of the velocities.
    """
    if arm == REFERENCE_POTENTIAL:
        return f"reference/md-seed-{seed}" + (f"@{label}" if label else "")
    return f"seed-{seed}/md/{arm}" + (f"@{label}" if label else "")


def md_scratch(start: str) -> tuple[str, ...]:
    """What a simulation leaves behind when it is interrupted: finished records, frames, results of what was at work."""
    return f"{start}.runs.npz", f"{start}.trajectories", f"{start}.unfinished"
