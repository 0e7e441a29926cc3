"""A fast part of every kind of odd input; all of it: ``scripts/fuzz.sh``."""

from __future__ import annotations

import importlib

import pytest

FAST = {"configurations": 25, "checkpoints": 3, "command_lines": 1, "late_errors": 1, "faults": 2}
LONG = ("late_errors", "command_lines", "faults")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.long if n in ("late_errors", "command_lines", "faults") else ()) for n in FAST],
)
def test_no_traceback_no_hang_no_loss(name, tmp_path):
    counts, bad = importlib.import_module(name).run(FAST[name], tmp_path, 1)
    assert not bad, "\n".join(bad)
    assert counts["refused"] + counts["fine"] > 20
