"""Every module that a stage reaches makes it stale, and no other."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mdl_physpretrain
from mdl_physpretrain import source_graph
from mdl_physpretrain.source_graph import code_hash, companions, dependencies
from mdl_physpretrain.workflow.config import RunConfig
from mdl_physpretrain.workflow.plan import plan
from mdl_physpretrain.workflow.records import Records
from mdl_physpretrain.workflow.run import task_fingerprint

PACKAGE = Path(mdl_physpretrain.__file__).parent
CONFIG = RunConfig(
    data={"source": "demo"},
    seeds=[0],
    arms={
        "baseline": {"pretrain": False},
        "pretrained": {"core": "zbl"},
        "hybrid": {"pretrain": False, "hybrid": "joint"},
    },
    md={"trajectory_interval": 10, "also": [{"ensemble": "nve"}]},
)
KERNEL = "mdl_physpretrain.graphs.edge_kernel"
ALL = {
    ".".join(("mdl_physpretrain", *path.relative_to(PACKAGE).with_suffix("").parts))
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py"
}
TASKS = {task.name: task for task in plan(CONFIG)}


def modules(*names: str) -> set[str]:
    return {f"mdl_physpretrain.{name}" for name in names}


@pytest.mark.parametrize("name", TASKS)
def test_a_change_of_any_module_that_a_task_reaches_makes_it_stale(name, tmp_path, monkeypatch):
    """Of each module of the package in turn: exactly those that are reached count."""
    records, task, digest = Records(tmp_path), TASKS[name], source_graph._digest
    before, reached = task_fingerprint(task, records), dependencies(task.code)
    stale = set()
    for changed in ALL | reached:
        monkeypatch.setattr(
            source_graph, "_digest", lambda module, changed=changed: "!" if module == changed else digest(module)
        )
        if task_fingerprint(task, records) != before:
            stale.add(changed)
    assert stale == reached
    assert len(reached) > 10 or task.stage == "report"


def test_what_is_reached_is_what_is_used():
    reach = {name: dependencies(task.code) for name, task in TASKS.items()}
    judged = ("evaluate seed 0 baseline", "md seed 0 baseline", "md seed 0 baseline nve-300K")
    for name in ("teacher", "augment", "pretrain seed 0 zbl", "finetune seed 0 baseline", *judged):
        assert KERNEL in reach[name], name
        assert modules("potentials.base", "compiled.compiler") <= reach[name], name
        assert not [m for m in reach[name] if ".report" in m or ".cli" in m or ".hosts" in m], name
    network, eam, zbl = (
        f"mdl_physpretrain.potentials.{name}" for name in ("cgcnn.kernel", "eam.edge_kernel", "zbl")
    )  # fmt: skip
    for name in ("pretrain seed 0 zbl", *judged):
        assert network in reach[name], name
    assert zbl in reach["pretrain seed 0 zbl"] & reach["md seed 0 pretrained"]
    assert zbl not in reach["md seed 0 baseline"]
    assert eam in reach["md seed 0 hybrid"] - reach["md seed 0 baseline"]
    suite = modules(
        "workflow.run_suite", "workflow.md_options", "workflow.data", "probes.references", "structures.randomness"
    )
    for name in (*judged, "md seed 0 baseline rdf", "evaluate", "md"):
        assert suite | modules("structures.randomness") <= reach[name], (
            name
        )  # which structures, seeds, limits and options are judged
    probes = modules("probes.diatomics", "probes.compression", "probes.accuracy", "probes.force_alignment")
    assert probes <= reach["evaluate seed 0 baseline"]
    assert modules("probes.radial_distribution") <= reach["md seed 0 baseline rdf"] - reach["md seed 0 baseline"]
    assert modules("probes.diffusion") <= reach["md seed 0 baseline diffusion"]
    assert not probes & reach["finetune seed 0 baseline"]
    for name, task in TASKS.items():  # what a page says must not make trainings anew
        assert task.stage == "report" or not [m for m in reach[name] if ".report" in m], name
    assert modules("potentials.torchmd_et.model").isdisjoint(set.union(*map(set, reach.values())))


def test_a_changed_line_on_disk_makes_its_stages_stale(tmp_path):
    copy = tmp_path / "mdl_physpretrain"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "*.nbi", "*.nbc"))
    code = (
        "import json; from mdl_physpretrain.source_graph import code_hash; tasks = json.loads(input());"
        "print(json.dumps({name: code_hash(modules) for name, modules in tasks.items()}))"
    )
    tasks = json.dumps({name: task.code for name, task in TASKS.items()})

    def hashes() -> dict[str, str]:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=tasks,
            capture_output=True,
            text=True,
            env=environment,
            cwd=tmp_path,
            check=True,
        )
        return json.loads(done.stdout)

    before = hashes()
    changes = {
        file: [name for name, task in TASKS.items() if modules(module) <= dependencies(task.code)]
        for file, module in (
            ("graphs/edge_kernel.py", "graphs.edge_kernel"),
            ("report/formats.py", "report.formats"),
            ("teacher/fit.py", "teacher.fit"),
        )
    }
    assert changes["report/formats.py"] == ["report"]
    assert "teacher" in changes["teacher/fit.py"]
    assert not any("finetune" in name for name in changes["teacher/fit.py"])
    for file in changes:
        path = copy / file
        path.write_text(path.read_text() + "\n# a comment changes nothing\n")
    assert hashes() == before
    for file, stale in changes.items():
        path = copy / file
        source = path.read_text()
        path.write_text(source + "\nCHANGED = 1\n")
        after = hashes()
        assert sorted(name for name in before if after[name] != before[name]) == sorted(stale), file
        path.write_text(source)


def test_names_of_a_package_stand_for_the_modules_that_have_them(tmp_path, monkeypatch):
    root = tmp_path / "mdl_physpretrain"
    for name, text in {
        "a.py": "from mdl_physpretrain.room import f\nfrom mdl_physpretrain import __version__\n",
        "b.py": "def g():\n    import mdl_physpretrain.room\n",
        "c.py": "if TYPE_CHECKING:\n    from mdl_physpretrain.room import f\n",
        "__init__.py": "__version__ = '1'\n",
        "room/__init__.py": "from mdl_physpretrain.room.one import f\nfrom mdl_physpretrain.room.two import h\n",
        "room/one.py": "f = 1\n",
        "room/two.py": "h = 1\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.setattr(source_graph, "ROOT", root)
    caches = (source_graph._tree, source_graph._imported, source_graph._digest)
    try:
        for cached in caches:
            cached.cache_clear()
        assert dependencies(["mdl_physpretrain.a"]) == modules("a", "room.one")
        assert dependencies(["mdl_physpretrain.b"]) == modules("b", "room", "room.one", "room.two")
        assert dependencies(["mdl_physpretrain.c", "no_such_module"]) == modules("c")
    finally:
        for cached in caches:
            cached.cache_clear()


def test_code_of_other_packages_is_followed_in_their_own_modules_and_in_ours(tmp_path, monkeypatch):
    package = tmp_path / "foreign_network"
    for name, text in {
        "__init__.py": "",
        "model.py": "import torch\nfrom .layers import A\nfrom mdl_physpretrain.potentials.switch import switch\n",
        "layers.py": "A = 1\n",
        "unused.py": "B = 1\n",
    }.items():
        package.mkdir(exist_ok=True)
        (package / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    reached = dependencies(["foreign_network.model"])
    assert {"foreign_network.model", "foreign_network.layers"} | modules("potentials.switch") <= reached
    assert not [name for name in reached if name.startswith(("torch", "foreign_network.unused"))]
    assert [name for name in dependencies(["ase.calculators.lj"]) if name.startswith("ase")] == ["ase.calculators.lj"]
    assert "foreign_network.model" not in sys.modules, "looked at, not imported"
    first = code_hash(["foreign_network.model"])
    (package / "layers.py").write_text("A = 2\n")
    source_graph._digest.cache_clear()
    assert code_hash(["foreign_network.model"]) != first
    assert code_hash(["gone_network"]) != code_hash(["gone_network_2"])


@pytest.mark.parametrize(
    ("module", "changed"),
    [
        ("teachers", "teachers.py"),
        ("teachers", "beside.py"),
        ("teachers", "deeper.py"),
        ("teachers", "weights.json"),
        ("teachers", "parts/tables.py"),
        ("parts.other", "parts/tables.py"),
        ("parts.other", "teachers.py"),
    ],
)
def test_files_of_a_users_own_module_count(tmp_path, monkeypatch, module, changed):
    """A teacher whose module, helper or data file is edited labels otherwise."""
    sources = {
        "teachers.py": "import beside\nfrom parts import tables\nW = open('weights.json')\n",
        "beside.py": "def f():\n    from deeper import x\n",
        "deeper.py": "x = 1\n",
        "weights.json": "{}",
        "parts/__init__.py": "",
        "parts/tables.py": "y = 2\n",
        "parts/other.py": "from . import tables\nimport teachers\n",
        "unrelated.py": "z = 3\n",
    }
    (tmp_path / "parts").mkdir()
    for name, text in sources.items():
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    _forget()  # the module of that name of another test
    before = code_hash([module])
    (tmp_path / "unrelated.py").write_text("z = 4\n")
    _forget()
    assert code_hash([module]) == before
    (tmp_path / changed).write_text(sources[changed] + ("w = 1\n" if changed.endswith(".py") else " "))
    _forget()
    assert code_hash([module]) != before
    assert companions("numpy") == companions("json") == companions("mdl_physpretrain.files") == []


def _forget() -> None:
    for function in (source_graph._imported, source_graph._tree, source_graph._digest):
        function.cache_clear()
    importlib.invalidate_caches()
