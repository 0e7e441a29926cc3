"""A training task in a new process, for several devices.

Lightning's DDP starts the other ranks by repeating the command of the first
process. Of ``physpretrain run`` that would be a second run in the same folder;
of ``python -m mdl_physpretrain.workflow.single_task FOLDER TASK`` it is what is wanted.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from mdl_physpretrain.errors import PhysPretrainError

__all__ = ["run_in_own_process"]

RESULT = ".stages/own_process.json"


def run_in_own_process(folder: Path, name: str) -> list[str]:
    """Do a task of the run in ``folder`` in a new process; return its outputs, or raise PhysPretrainError."""
    result = folder / RESULT
    result.unlink(missing_ok=True)
    command = [sys.executable, "-m", "mdl_physpretrain.workflow.single_task", str(folder.resolve()), name]
    code = subprocess.run(command, check=False).returncode
    if code != 0 or not result.is_file():
        raise PhysPretrainError(f"its process ended with exit code {code}; see its messages above")
    outputs = json.loads(result.read_text())
    result.unlink()
    return outputs
