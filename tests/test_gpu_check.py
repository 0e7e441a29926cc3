"""The script for the day a GPU is at hand runs on a CPU, small; a full memory halves batches and ends nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from labelled_cells import rocksalt_cells

from mdl_physpretrain.dynamics import simulate
from mdl_physpretrain.potentials import ZBL
from mdl_physpretrain.teacher import label

SCRIPTS = Path(__file__).parents[1] / "scripts"
sys.path.append(str(SCRIPTS))
import gpu_check  # noqa: E402


class Hungry(ZBL):
    """A model whose memory holds two structures."""

    largest = 2

    def energies(self, batch: Any, vectors: torch.Tensor) -> torch.Tensor:
        if len(batch) > self.largest:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")
        return super().energies(batch, vectors)


def test_a_full_memory_halves_the_batch() -> None:
    cells = rocksalt_cells()[:5]
    options: dict[str, Any] = {"steps": 3, "temperature": 100.0, "seed": 1}
    expected = simulate(ZBL().double(), cells, **options)
    with pytest.warns(UserWarning, match="5 structures is simulated in halves: CUDA out of memory"):
        runs = simulate(Hungry().double(), cells, **options)
    for one, other in zip(expected, runs, strict=True):
        assert other.steps_done == 3
        np.testing.assert_allclose(other.positions, one.positions, atol=1e-10)
    labelled = label(cells, Hungry().double())
    for one, other in zip(label(cells, ZBL().double()), labelled, strict=True):
        np.testing.assert_allclose(other.get_forces(), one.get_forces(), atol=1e-10)
    Hungry.largest = 0
    with pytest.raises(torch.cuda.OutOfMemoryError):
        simulate(Hungry().double(), cells[:2], **options)


def test_the_script_runs_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["bash", "-n", str(SCRIPTS / "gpu_check.sh")], check=True)

    def broken(check: gpu_check.Check) -> Any:
        """Broken."""
        yield {"what": "first"}
        raise ValueError("no such thing")

    monkeypatch.setattr(gpu_check, "SECTIONS", (gpu_check.labels, broken, gpu_check.batch_size))
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--out", str(tmp_path), "--device", "cpu", "--seconds", "36000"])
    gpu_check.main()
    labels, other, sizes = json.loads((tmp_path / "results.json").read_text())["sections"].values()
    assert all(row["labels/s"] > 0 for row in labels)
    assert [row["what"] for row in other] == ["first", "broken"]
    assert "no such thing" in other[1]["failed"]
    assert [row["largest batch tried that fits"] for row in sizes] == [2]
    assert "| cgcnn, 64 atoms each | 2 |" in (tmp_path / "table.md").read_text()
