"""File names of a run folder."""

from __future__ import annotations

__all__ = ["JOURNAL", "LABELLED", "TEACHER", "arm_folder", "md_file", "pretrain_folder"]

TEACHER = "teacher/teacher.pt"
JOURNAL = "augment/labels.journal"
LABELLED = "augment/labelled.extxyz"


def pretrain_folder(seed: int, core: str) -> str:
    """Folder of the pretraining of a seed; a network with a core is another network."""
    return f"seed-{seed}/pretrain" + ("" if core == "none" else f"-{core}")


def arm_folder(seed: int, arm: str) -> str:
    """Folder of an arm's training."""
    return f"seed-{seed}/{arm}"


def md_file(seed: int, arm: str, label: str = "") -> str:
    """Start of the names of an arm's MD files; further conditions carry their label."""
    return f"seed-{seed}/md/{arm}" + (f"@{label}" if label else "")
