"""Probes that are asked of a potential alone: errors, curves, angles between forces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mdl_physpretrain.workflow.suite import SuiteMaker

__all__ = ["evaluate_potential"]


def evaluate_potential(
    config: Any, folder: Path, show: bool, *, suite: SuiteMaker, arm: str, seed: int, probes: Sequence[str]
) -> list[str]:
    """Write the tables of some probes of one potential."""
    judge = suite(config, folder)
    subject = judge.subject(arm, seed)
    outputs = []
    for name in probes:
        probe = judge.probe(name)
        outputs += judge.write(probe, probe.tables(subject), (arm, seed, ""))
    return outputs
