"""Tests on a simulated accelerator, in processes of their own: a device that PyTorch once knows stays for good."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).with_name("accelerator")


@pytest.mark.parametrize("name", ["everywhere", "launches"])
def test_in_a_process_of_its_own(name: str) -> None:
    """Other packages would pin memory for it, which it cannot."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(FOLDER / f"{name}.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
