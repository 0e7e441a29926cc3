"""All odd inputs of every kind with their counts: ``python tests/fuzz/everything.py [seed] [kind ...]``."""

from __future__ import annotations

import importlib
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
MANY = {
    "configurations": 500, "checkpoints": 60, "command_lines": 6, "late_errors": 1, "faults": 20, "structure_files": 40,
}  # fmt: skip


def main(seed: int, kinds: list[str]) -> int:
    """Print a row for every kind, and everything bad; how much there was."""
    total = 0
    print(f"{'kind':16} {'tries':>6} {'fine':>6} {'refused':>8} {'bad':>5} {'s':>6}", flush=True)
    for kind in kinds or list(MANY):
        try:
            module = importlib.import_module(kind)
        except ModuleNotFoundError as error:
            if error.name != kind:
                raise
            continue
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            counts, bad = module.run(MANY[kind], Path(folder), seed)
        fine, refused = counts["fine"] + counts["read"], counts["refused"]
        seconds = time.perf_counter() - began
        print(f"{kind:16} {fine + refused + len(bad):6} {fine:6} {refused:8} {len(bad):5} {seconds:6.0f}", flush=True)
        for line in bad:
            print(f"  {line}", flush=True)
        total += len(bad)
    return total


if __name__ == "__main__":
    arguments = sys.argv[1:]
    number = int(arguments.pop(0)) if arguments and arguments[0].isdecimal() else 0
    sys.exit(1 if main(number, arguments) else 0)
