"""Run notebooks and store what they print and draw in them, for the site and for whoever reads the files.

Usage: python scripts/save_notebooks.py docs/tutorials/own_data.ipynb ...

A test compares the stored hash with that of the code, so that no output outlives the code it came from.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import hashlib
import io
import json
import os
import pprint
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl

ROOT = Path(__file__).resolve().parents[1]
DPI = 110


def code_hash(notebook: dict[str, Any]) -> str:
    """Short hash of all code of a notebook."""
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return hashlib.sha256("\n".join(code).encode()).hexdigest()[:16]


def executed(notebook: dict[str, Any], name: str) -> dict[str, Any]:
    """The notebook with the outputs of its cells, run one after the other in an empty folder."""
    mpl.use("Agg")
    names: dict[str, Any] = {"__name__": "notebook"}
    begin = sum(os.times()[:4])
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for number, cell in enumerate(notebook["cells"]):
            if cell["cell_type"] == "code":
                code = "".join(cell["source"])
                cell["outputs"] = list(_outputs(ast.parse(code, f"{name}, cell {number}"), names))
        text = json.dumps(notebook["cells"])
        private = [place for place in (folder, str(ROOT), sys.prefix, str(Path.home())) if place in text]
    if private:
        raise SystemExit(f"{name}: an output names a folder of this machine: {', '.join(private)}")
    own = notebook["metadata"].setdefault("physpretrain", {})
    own["code"] = code_hash(notebook)
    own["cpu_seconds"] = round(sum(os.times()[:4]) - begin)  # with those of child processes
    return notebook


def _outputs(tree: ast.Module, names: dict[str, Any]) -> Iterator[dict[str, Any]]:
    import matplotlib.pyplot as plt

    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "notebook", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "notebook", "eval"), names)
    if printed.getvalue():
        yield {"output_type": "stream", "name": "stdout", "text": _lines(printed.getvalue())}
    for number in plt.get_fignums():
        buffer = io.BytesIO()
        plt.figure(number).savefig(buffer, dpi=DPI, metadata={"Software": None})
        plt.close(number)
        yield _display({"image/png": base64.b64encode(buffer.getvalue()).decode()})
        value = None  # what plt returns is not worth a line
    if hasattr(value, "to_html"):
        table = value.to_html(border=0, float_format="{:.3g}".format)
        yield _display(
            {"text/html": table.splitlines(keepends=True), "text/plain": str(value).splitlines(keepends=True)}
        )
    elif value is not None:
        yield _display({"text/plain": _lines(pprint.pformat(value, sort_dicts=False, width=100))})


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def _display(data: dict[str, Any]) -> dict[str, Any]:
    return {"output_type": "display_data", "data": data, "metadata": {}}


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        result = executed(json.loads(path.read_text(encoding="utf-8")), path.name)
        path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        seconds = result["metadata"]["physpretrain"]["cpu_seconds"]
        print(f"{path.name}: {seconds} s of CPU time, {path.stat().st_size / 1024:.0f} kB")
