"""A fast part of ``structure_files.py``: no traceback, no hang, no wrong label."""

from __future__ import annotations

import pytest
from structure_files import run


@pytest.mark.parametrize("seed", [1, 2])
def test_odd_files_are_read_right_or_refused(tmp_path, seed):
    counts, bad = run(6, tmp_path, seed)
    assert not bad
    assert counts["read"] > 20
    assert counts["refused"] > 10
