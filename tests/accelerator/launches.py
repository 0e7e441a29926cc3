"""What a step asks of a GPU does not grow: launches and waits, counted on a simulated one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "scripts"))
from bench_launches import measure

#: Launches of a training step: what docs/performance.md says, and a few more.
TRAINING = {"eam": 425, "cgcnn": 1140, "torchmd_et": 8900}
ENGINE = {"nvt": 60, "npt": 182}  # of engine and monitor in an MD step


@pytest.mark.parametrize("name", TRAINING)
def test_launches_and_waits_do_not_grow(name: str) -> None:
    ensembles = tuple(ENGINE) if name == "eam" else ()
    *dynamics, training = measure(name, 2, 10, ensembles)
    for row, ensemble in zip(dynamics, ensembles, strict=True):
        assert 20 < row.without_network <= ENGINE[ensemble], row
        assert 0 < row.waits <= 0.2, row
    assert 100 < training.launches <= TRAINING[name], training
    assert training.waits == 0
