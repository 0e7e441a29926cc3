"""The script for the day a GPU is at hand runs on a CPU, small; a full memory halves batches and ends nothing."""

from __future__ import annotations

import json
import os
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


def test_the_script_runs_on_a_cpu(tmp_path: Path) -> None:
    """One of its sections; the others are of minutes."""
    env = {**os.environ, "OUT": str(tmp_path), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    command = ["bash", str(SCRIPTS / "gpu_check.sh"), "--device", "cpu", "--seconds", "36000"]
    done = subprocess.run([*command, "--only", "batch_size"], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["torch"] == torch.__version__
    (sizes,) = results["sections"].values()
    assert [row["largest batch tried that fits"] for row in sizes] == [2]
    assert "| cgcnn, 64 atoms each | 2 |" in (tmp_path / "table.md").read_text()


def test_a_section_that_fails_keeps_its_rows(tmp_path: Path) -> None:
    def broken(check: gpu_check.Check) -> Any:
        """Broken."""
        yield {"what": "first"}
        raise ValueError("no such thing")

    path = tmp_path / "broken.jsonl"
    gpu_check.do(broken, gpu_check.Check("cpu", 10.0), path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows == [{"what": "first"}, {"what": "broken", "failed": "ValueError: no such thing"}]


@pytest.mark.parametrize(
    ("end", "words"), [("os.abort()", "exit code -6, see log.txt"), ("time.sleep(60)", "ended after 2 s")]
)
def test_a_process_that_dies_or_hangs_keeps_its_rows(end: str, words: str, tmp_path: Path) -> None:
    path, log = tmp_path / "some.jsonl", tmp_path / "log.txt"
    code = f"import os, time; open({str(path)!r}, 'w').write('{{\"what\": \"first\"}}\\n'); {end}"
    rows = gpu_check.rows_of("some", [sys.executable, "-c", code], path, log, 2.0)
    assert [row["what"] for row in rows] == ["first", "some"]
    assert words in rows[1]["failed"]
    assert "=== some" in log.read_text()


def test_every_section_has_a_title_and_all_fit_into_the_time() -> None:
    titles = {gpu_check.title_of(section) for section in gpu_check.SECTIONS}
    assert len(titles) == len(gpu_check.SECTIONS)
    measured = [seconds for section, seconds in gpu_check.SECTIONS.items() if "compiled" not in section.__name__]
    assert sum(measured) <= 320  # compiled ones take what is left
