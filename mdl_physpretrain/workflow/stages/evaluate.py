"""Task of the probes of a potential itself: errors, curves, angles between forces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mdl_physpretrain.workflow.suite import SuiteMaker

__all__ = ["evaluate_potential"]


def evaluate_potential(
    config: Any, folder: Path, show: bool, *, suite_class: SuiteMaker, arm: str, seed: int, probes: Sequence[str]
) -> list[str]:
    """Write the tables of some probes of one potential."""
    suite = suite_class(config, folder)
    subject = suite.subject(arm, seed)
    outputs = []
    for name in probes:
        probe = suite.probe(name)
        outputs += suite.write(probe, probe.tables(subject), (arm, seed, ""))
    return outputs
