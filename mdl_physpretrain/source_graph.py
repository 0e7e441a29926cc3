"""Which modules of the package a module runs, read from the import statements, and a hash of their source."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

__all__ = ["dependencies", "source_hash"]

PACKAGE = "mdl_physpretrain"
ROOT = Path(__file__).parent


def dependencies(modules: Iterable[str]) -> frozenset[str]:
    """Modules of the package that are reached by the imports of some modules, these included.

    Imports inside functions count, those under ``if TYPE_CHECKING`` do not: they are never executed. A package
    (``mdl_physpretrain.potentials``) stands for its ``__init__.py``.

    Parameters
    ----------
    modules
        Dotted names; those outside the package are left out.
    """
    reached: set[str] = set()
    waiting = [name for name in modules if _file(name) is not None]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += _imported(name) - reached
    return frozenset(reached)


@cache
def source_hash(modules: frozenset[str]) -> str:
    """SHA-256 of the source of modules, without comments, docstrings and layout, which change no result."""
    digest = hashlib.sha256()
    for name in sorted(modules):
        digest.update(f"{name}\0{_without_docstrings(name)}\0".encode())
    return digest.hexdigest()


def _file(module: str) -> Path | None:
    """The file of a module of the package, ``None`` for any other name."""
    first, *rest = module.split(".")
    if first != PACKAGE:
        return None
    place = ROOT.joinpath(*rest)
    for file in (place.with_suffix(".py"), place / "__init__.py") if rest else (ROOT / "__init__.py",):
        if file.is_file():
            return file
    return None


@cache
def _imported(module: str) -> frozenset[str]:
    return frozenset(name for name in _import_targets(_tree(module)) if _file(name) is not None)


def _import_targets(tree: ast.AST) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if _file(submodule) is not None else node.module
        yield from _import_targets(node)


@cache
def _tree(module: str) -> ast.Module:
    file = _file(module)
    assert file is not None
    return ast.parse(file.read_text(encoding="utf-8"))


def _without_docstrings(module: str) -> str:
    file = _file(module)
    assert file is not None
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.body:
            first = node.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:]
    return ast.dump(tree)
