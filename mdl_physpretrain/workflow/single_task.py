"""``python -m mdl_physpretrain.workflow.single_task FOLDER TASK``: one task of a run, in this process."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path

from mdl_physpretrain.errors import PhysPretrainError
from mdl_physpretrain.files import write_atomic
from mdl_physpretrain.locking import is_first_rank
from mdl_physpretrain.structures.validation import doubts_known
from mdl_physpretrain.workflow.config_files import load_config
from mdl_physpretrain.workflow.device_process import RESULT
from mdl_physpretrain.workflow.heartbeat import beating
from mdl_physpretrain.workflow.plan import plan


def _main(folder: Path, name: str) -> None:
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    config = load_config(folder / "config.yaml")
    task = next(t for t in plan(config) if t.name == name)
    try:
        with beating(folder, name) if is_first_rank() else nullcontext(), doubts_known():
            outputs = task.work(config, folder, sys.stderr.isatty() and is_first_rank())
    except PhysPretrainError as error:
        sys.exit(f"error: {error}")
    if is_first_rank():
        write_atomic(folder / RESULT, json.dumps(outputs))


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    _main(Path(sys.argv[1]), sys.argv[2])
