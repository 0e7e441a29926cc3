"""The package is layered: no import circles, no imports of a higher room, no hidden imports inside functions."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import mdl_physpretrain

PACKAGE = "mdl_physpretrain"
ROOT = Path(mdl_physpretrain.__file__).parent
#: From the lowest to the highest; a room imports only from itself and from those before it.
ROOMS = [
    "errors", "progress", "files", "ownership", "locking", "source_graph", "option_types", "yaml_text",
    "plugin_classes", "recipe", "presets", "compiled", "structures", "graphs", "statistics", "potentials",
    "augmentation", "executors", "stability", "dynamics", "teacher", "training", "probes", "loop", "method", "report",
    "workflow", "hosts", "survey", "reproduction", "cli", "__main__",
]  # fmt: skip
OPTIONAL = {
    "chgnet", "diep", "distributed", "huggingface_hub", "load_atoms", "matdeeplearn", "mattersim", "mattertune",
    "sevenn", "torch_geometric", "fcntl", "_compat_pickle", "mace", "e3nn",
}  # fmt: skip
MODULES = {
    ".".join((PACKAGE, *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): file
    for file in ROOT.rglob("*.py")
}


def _imports(node: ast.AST, inside: bool = False):
    """Every executed import statement below a node, and whether it stands inside a function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child, inside
        yield from _imports(child, inside or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)))


def _targets(statement: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    full = [f"{statement.module}.{alias.name}" for alias in statement.names]
    return [name if name in MODULES else str(statement.module) for name in full]


def _graph() -> dict[str, set[str]]:
    graph = {}
    for name, file in MODULES.items():
        statements = [s for s, _ in _imports(ast.parse(file.read_text(encoding="utf-8")))]
        graph[name] = {t for s in statements for t in _targets(s) if t in MODULES and t != PACKAGE}
    graph.pop(PACKAGE)  # its exports are imported on first use
    return graph


def test_no_import_circles():
    try:
        TopologicalSorter(_graph()).prepare()
    except CycleError as error:
        raise AssertionError(f"import circle: {' -> '.join(error.args[1])}") from None


def test_no_room_imports_a_higher_one():
    def room(module: str) -> str:
        return module.split(".")[1]

    assert {room(name) for name in _graph()} <= set(ROOMS)
    climbs = [
        f"{name} imports {target}"
        for name, targets in _graph().items()
        for target in targets
        if ROOMS.index(room(target)) > ROOMS.index(room(name))
    ]
    assert not climbs


def test_imports_stand_at_the_top():
    """But for the command line and the package root, which start fast, and for optional packages."""
    hidden = []
    for name, file in MODULES.items():
        if name == PACKAGE or name.startswith(f"{PACKAGE}.cli") or name == f"{PACKAGE}.hosts.matdeeplearn":
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for statement, inside in _imports(tree):
            foreign = {t.split(".")[0] for t in _targets(statement)} & OPTIONAL
            host = any(t.startswith(f"{PACKAGE}.hosts.") for t in _targets(statement))
            if inside and not foreign and not host:
                hidden.append(f"{name}:{statement.lineno} {ast.unparse(statement)}")
    assert not hidden


def test_modules_are_short():
    long = {name: len(file.read_text(encoding="utf-8").splitlines()) for name, file in MODULES.items()}
    assert not {name: lines for name, lines in long.items() if lines > 400}
