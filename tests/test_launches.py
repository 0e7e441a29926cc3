"""What a step asks of a GPU does not grow: launches and waits, counted on a simulated one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "scripts"))
from bench_launches import measure

#: Launches of the network in an MD step, and of a training step: what docs/performance.md says, and a few more.
LIMITS = {"eam": (0, 0), "cgcnn": (0, 0), "torchmd_et": (0, 0)}
ENGINE = {"nvt": 60, "nve": 55, "npt": 95}
WAITS = 0.3  # per MD step


@pytest.mark.parametrize("name", LIMITS)
def test_launches_and_waits_do_not_grow(name: str) -> None:
    ensembles = ("nvt", "npt", "nve") if name == "eam" else ("nvt",)
    *dynamics, training = measure(name, 3, 20, ensembles)
    for row, ensemble in zip(dynamics, ensembles, strict=True):
        assert row.without_network <= ENGINE[ensemble], row
        assert row.waits <= WAITS, row
    assert dynamics[0].launches - dynamics[0].without_network <= LIMITS[name][0], dynamics[0]
    assert training.launches <= LIMITS[name][1], training
