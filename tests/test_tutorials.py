"""The notebooks of docs/tutorials run: the quick ones in every test run, all of them by scripts/run_tutorials.sh."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
import yaml

FOLDER = Path(__file__).parents[1] / "docs" / "tutorials"
QUICK = {"own_data"}
CHOSEN = os.environ.get("TUTORIALS", "").split()
LARGEST = 150_000  # bytes, with outputs
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
    assert all(cell.get("execution_count") is None for cell in notebook["cells"])
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_those_of_the_code(path):
    """Made by scripts/save_notebooks.py, small, and without folders of the machine that made them."""
    notebook = _notebook(path)
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    stored = notebook["metadata"].get("physpretrain", {}).get("code")
    if stored is None:
        pytest.skip("it has no outputs yet")
    assert stored == hashlib.sha256("\n".join(code).encode()).hexdigest()[:16], f"run scripts/save_notebooks.py {path}"
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    assert outputs
    assert not re.search(r"/(home|tmp|root|work|Users)/", json.dumps(outputs))
    assert path.stat().st_size < LARGEST


def test_every_notebook_is_in_the_list():
    listed = (FOLDER / "index.md").read_text(encoding="utf-8")
    assert NOTEBOOKS
    assert not [path.stem for path in NOTEBOOKS if f"]({path.name})" not in listed]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_runs_in_a_public_workflow(path):
    """In the job of the documentation where extras of ours bring its packages, else in that of the hosts."""
    root = FOLDER.parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {
        name: {re.match(r"[\w-]+", line)[0] for line in lines}
        for name, lines in project["optional-dependencies"].items()
    }
    needs = set(_notebook(path)["metadata"].get("physpretrain", {}).get("needs", []))
    file = "tests.yml" if needs <= set().union(*extras.values()) else "hosts.yml"
    jobs = yaml.safe_load((root / ".github" / "workflows" / file).read_text(encoding="utf-8"))["jobs"].values()
    (steps,) = (steps for job in jobs if "scripts/run_tutorials.sh" in (steps := str(job["steps"])))
    if file == "hosts.yml":
        assert re.search(rf"run_tutorials\.sh[\w ]* {path.stem}\b", steps)
    else:
        named = re.search(r"\.\[([\w,-]+)\]", steps)[1].split(",")
        assert needs <= set().union(*(extras[name] for name in named))
        assert "run_tutorials.sh'" in steps  # all of them
