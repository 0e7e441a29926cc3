"""Import graph of the package: the modules that a module reaches, and a hash of their source."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import sysconfig
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from mdl_physpretrain.files import file_hash

__all__ = ["PACKAGE", "code_hash", "companions", "dependencies", "source_hash", "used_packages"]

PACKAGE = "mdl_physpretrain"
ROOT = Path(__file__).parent
STANDARD = Path(sysconfig.get_path("stdlib"))
NOT_FOLLOWED = frozenset({"ase", "numpy", "scipy", "torch"})  # large; of their modules the own file counts


def dependencies(modules: Iterable[str]) -> frozenset[str]:
    """Modules that are reached by the imports of some modules, these included.

    Imports are followed inside this package and inside the packages that the given modules belong to: of a network
    from another package its own helpers count, and what it uses of this package, but not torch. Imports inside
    functions count, those under ``if TYPE_CHECKING`` do not: they are never executed. A name that a package's
    ``__init__.py`` takes from a module stands for that module, so that the other names of the package do not count;
    this package's root, with the version, counts for nothing. What is looked up by name at run time (potentials,
    probes) cannot be seen: who uses it has to name its module, too. Names without a Python file are left out.
    """
    waiting = [name for name in modules if _file(name) is not None]
    packages = {PACKAGE, *(name.partition(".")[0] for name in waiting)} - NOT_FOLLOWED
    reached: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += [target for target in _imported(name) if target.partition(".")[0] in packages]
    return frozenset(reached)


def source_hash(modules: frozenset[str]) -> str:
    """SHA-256 of the source of modules, without comments, docstrings and layout, which change no result."""
    text = "".join(f"{name}\0{_digest(name)}\0" for name in sorted(modules))
    return hashlib.sha256(text.encode()).hexdigest()


def companions(module: str) -> list[Path]:
    """Files on which a module of the user's own depends beside itself: modules beside it, and files that it names.

    Of installed packages and of the standard library none are looked for. A text in the source that is the name of a
    file (of a trained potential, say), in the module's folder or in the working folder, names it.
    """
    start = _file(module)
    if start is None or start.is_relative_to(ROOT) or start.is_relative_to(STANDARD) or "-packages" in str(start):
        return []
    root = start.parents[module.count(".") + (start.name == "__init__.py")]
    reached, waiting = {start.resolve()}, [start]
    while waiting:
        file = waiting.pop()
        for found in _named_files(file, root) if file.suffix == ".py" else ():
            if found.resolve() not in reached:
                reached.add(found.resolve())
                waiting.append(found)
    return sorted(reached - {start.resolve()})


def _named_files(file: Path, root: Path) -> Iterator[Path]:
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):
        return
    for node in ast.walk(tree):
        places: list[Path] = []
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(f"{node.module or ''}.{name}".strip(".") for name in names)]
            above = file.parents[node.level - 1] if isinstance(node, ast.ImportFrom) and node.level else root
            parts = [above.joinpath(*name.split(".")) for name in names if name]
            places = [place for p in parts for place in (p.with_suffix(".py"), p / "__init__.py")]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and 0 < len(node.value) < 256:
            places = [folder / node.value for folder in (file.parent, Path.cwd())]
        for place in places:
            with contextlib.suppress(OSError, ValueError):  # a text that no file can be called
                if place.is_file():
                    yield place


def code_hash(modules: Iterable[str]) -> str:
    """SHA-256 of all code that modules run, see :func:`dependencies`; of a module without a file only the name.

    Of a user's own module its :func:`companions` count, too.
    """
    modules = sorted(set(modules))
    without_file = [name for name in modules if _file(name) is None]
    beside = [file_hash(file) for module in modules for file in companions(module)]
    text = f"{source_hash(dependencies(modules))}{without_file}{beside or ''}"
    return hashlib.sha256(text.encode()).hexdigest()


def used_packages(module: str) -> frozenset[str]:
    """Other packages that a module, and what it imports of its own, imports; without ase, numpy, scipy and torch."""
    names = [a for name in dependencies([module]) for a in _all_imports(name)]
    return frozenset(name.partition(".")[0] for name in names) - NOT_FOLLOWED - {module.partition(".")[0]}


def _all_imports(module: str) -> Iterator[str]:
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield _absolute(node, module)


def _file(module: str) -> Path | None:
    """The Python file of a module, found without importing it."""
    first, *rest = module.split(".")
    place = ROOT if first == PACKAGE else _location(first)
    if place is None:
        return None
    if place.is_file():
        return place if not rest else None
    place = place.joinpath(*rest)
    candidates = (place.with_suffix(".py"), place / "__init__.py") if rest else (place / "__init__.py",)
    return next((file for file in candidates if file.is_file()), None)


def _location(name: str) -> Path | None:
    """Folder of a package of others, or file of a module of others."""
    try:
        spec = importlib.util.find_spec(name) if name else None
    except (ImportError, ValueError):  # of __main__, say
        return None
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None


@cache
def _imported(module: str) -> frozenset[str]:
    """What the import statements of a module name, in this package and in its own."""
    packages = (PACKAGE, module.partition(".")[0])
    names = (name for name in _import_targets(_tree(module), module) if name.partition(".")[0] in packages)
    return frozenset(name for name in names if _file(name) is not None)


def _import_targets(tree: ast.AST, module: str) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = _absolute(node, module)
            if source.partition(".")[0] in (PACKAGE, module.partition(".")[0]):
                yield from (target for a in node.names if (target := _definer(source, a.name)) != PACKAGE)
        yield from _import_targets(node, module)


def _absolute(node: ast.ImportFrom, module: str) -> str:
    """The module that a ``from`` statement of ``module`` imports from."""
    if not node.level:
        return str(node.module)
    file = _file(module)
    parts = module.split(".") + (["__init__"] if file is not None and file.name == "__init__.py" else [])
    return ".".join([*parts[: -node.level], *([node.module] if node.module else [])])


def _definer(module: str, name: str) -> str:
    """The module that ``from module import name`` is about: a submodule, or where a package has the name from."""
    submodule = f"{module}.{name}"
    if _file(submodule) is not None:
        return submodule
    file = _file(module)
    if file is not None and file.name == "__init__.py":
        for node in _tree(module).body:
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        return _definer(_absolute(node, module), alias.name)
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
