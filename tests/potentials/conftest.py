"""Kernels on one thread and on two, whatever the machine has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from mdl_physpretrain.compiled.threads import POOL


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """So many threads; numba has two on one core as well, because the tests ask for them before it starts."""
    if request.param > POOL:
        pytest.skip(f"numba was told to use {POOL} thread")
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)
