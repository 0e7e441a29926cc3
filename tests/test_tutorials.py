"""The notebooks of docs/tutorials run: the quick ones in every test run, all of them by scripts/run_tutorials.sh."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "tutorials"
QUICK = {"own_data"}
CHOSEN = os.environ.get("TUTORIALS", "").split()
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def _notebook(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path, monkeypatch):
    wanted = path.stem in CHOSEN or CHOSEN == ["all"] or (not CHOSEN and path.stem in QUICK)
    if not wanted:
        pytest.skip("scripts/run_tutorials.sh runs it")
    notebook = _notebook(path)
    for package in notebook["metadata"].get("physpretrain", {}).get("needs", []):
        if find_spec(package) is None:
            pytest.skip(f"needs {package}")
    monkeypatch.chdir(tmp_path)
    mpl.use("Agg")
    names: dict[str, Any] = {"__name__": "notebook"}
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec"), names)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_plain(path):
    notebook = _notebook(path)
    assert notebook["nbformat"] == 4
    assert notebook["cells"][0]["source"][0].startswith("# ")
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in notebook["cells"])
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])


def test_every_notebook_is_in_the_list():
    listed = (FOLDER / "index.md").read_text(encoding="utf-8")
    assert NOTEBOOKS
    assert not [path.stem for path in NOTEBOOKS if f"]({path.name})" not in listed]
