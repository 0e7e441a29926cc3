"""Which modules of the package a module runs, read from the import statements, and a hash of their source."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

__all__ = ["code_hash", "dependencies", "source_hash"]

PACKAGE = "mdl_physpretrain"
ROOT = Path(__file__).parent


def dependencies(modules: Iterable[str]) -> frozenset[str]:
    """Modules of the package that are reached by the imports of some modules, these included.

    Imports inside functions count, those under ``if TYPE_CHECKING`` do not: they are never executed. A name that a
    package's ``__init__.py`` takes from a module stands for that module, so that the other names of the package do
    not count; the package's root, with the version, counts for nothing. What is looked up by name at run time
    (potentials, probes) cannot be seen: who uses it has to name its module, too.

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


def source_hash(modules: frozenset[str]) -> str:
    """SHA-256 of the source of modules, without comments, docstrings and layout, which change no result."""
    text = "".join(f"{name}\0{_digest(name)}\0" for name in sorted(modules))
    return hashlib.sha256(text.encode()).hexdigest()


def code_hash(modules: Iterable[str]) -> str:
    """SHA-256 of all code that modules run.

    Parameters
    ----------
    modules
        Of the package: with all that they reach. Of others: their own file.
    """
    modules = sorted(set(modules))
    foreign = [(name, _foreign_digest(name)) for name in modules if _file(name) is None]
    return hashlib.sha256(f"{source_hash(dependencies(modules))}{foreign}".encode()).hexdigest()


def _foreign_digest(module: str) -> str:
    """Hash of the file of a module outside the package; empty where there is none."""
    path = getattr(sys.modules.get(module), "__file__", None)
    try:
        if path is None:
            path = getattr(importlib.util.find_spec(module), "origin", None)
        return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else ""
    except (ImportError, OSError, ValueError):
        return ""


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
                target = _definer(node.module, alias.name)
                if target != PACKAGE:
                    yield target
        yield from _import_targets(node)


def _definer(module: str, name: str) -> str:
    """The module that ``from module import name`` is about: a submodule, or where a package has the name from."""
    submodule = f"{module}.{name}"
    if _file(submodule) is not None:
        return submodule
    file = _file(module)
    if file is not None and file.name == "__init__.py":
        for node in _tree(module).body:
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        return _definer(node.module, alias.name)
    return module


@cache
def _tree(module: str) -> ast.Module:
    file = _file(module)
    assert file is not None
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def _digest(module: str) -> str:
    """Hash of a module's source without comments and docstrings."""
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
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()
