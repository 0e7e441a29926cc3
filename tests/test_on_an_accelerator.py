"""Tests on a simulated accelerator, in processes of their own: a device that PyTorch once knows stays for good.

On a GPU, too, where there is one (``-m gpu``).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).with_name("accelerator")
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def passes(name: str, *options: str, device: str = "sim") -> None:
    """Run a file of tests; other packages would pin memory for the device, which it cannot."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(FOLDER / f"{name}.py"), *options]
    env = {**os.environ, "PHYSPRETRAIN_TEST_DEVICE": device}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, env=env)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


@pytest.mark.parametrize("name", ["everywhere", "launches"])
def test_on_a_simulated_one(name: str) -> None:
    passes(name)


@pytest.mark.gpu
@NO_GPU
def test_on_a_gpu() -> None:
    passes("everywhere", device="cuda")


@pytest.mark.hosts
@pytest.mark.parametrize("host", ["matdeeplearn", "mattertune"])
def test_evaluators_of_the_hosts(host: str) -> None:
    pytest.importorskip(host, reason=f"{host} is not installed")
    passes("host_evaluators", "-k", host)
