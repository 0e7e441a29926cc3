"""Labels by executors: the same bits, in any order, through deaths of workers and of the parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from labelled_cells import rocksalt_cells
from mortal_executors import Killing, Mortal, Shuffling, Springs

from mdl_physpretrain.augmentation import augment
from mdl_physpretrain.errors import ConfigError, StructureError, TeacherRefused
from mdl_physpretrain.executors import distribute
from mdl_physpretrain.potentials import CGCNN, EAM
from mdl_physpretrain.teacher import label, outcomes
from mdl_physpretrain.teacher.journal import Journal


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
    monkeypatch.setattr(outcomes, "UNIT_BATCHES", 0.01)


@pytest.fixture
def many():
    return augment(rocksalt_cells(), n_aug=5, pull=0.3, perturb=0.3)


def _eam() -> EAM:
    torch.manual_seed(0)
    model = EAM(["Mg", "O"], cutoff=5.0)
    with torch.no_grad():
        model.B.mul_(0.01)
    return model.eval()


def _cgcnn() -> CGCNN:
    torch.manual_seed(0)
    return CGCNN(cutoff=4.0).eval()


def bits(labelled) -> list[tuple]:
    return [(dict(a.info), {k: np.asarray(v).tobytes() for k, v in a.calc.results.items()}) for a in labelled]


@pytest.mark.parametrize(
    "teacher", [_eam(), _cgcnn(), Springs(), Springs], ids=["eam", "cgcnn", "calculator", "factory"]
)
def test_the_same_bits_in_any_order(many, teacher):
    serial = label(many, teacher, batch_size=5)
    with Shuffling(3) as executor:
        assert bits(label(many, teacher, batch_size=5, executor=executor)) == bits(serial)


def made_once() -> Springs:
    made_once.times += 1
    return Springs()


def test_a_worker_makes_its_calculator_once(many):
    made_once.times = 0
    executor = Mortal()
    label(many, made_once, executor=executor)
    assert len(executor.seen) == 40
    assert made_once.times == 2  # here for its name, and there


def test_anchored_labels_and_their_parents(many):
    parents = rocksalt_cells()
    serial = label(many, _eam(), anchor=True, parents=parents)
    executor = Mortal()
    assert bits(label(many, _eam(), anchor=True, parents=parents, executor=executor)) == bits(serial)
    assert len(executor.seen) > 4
    assert sum(len(arguments[0]) for arguments in executor.seen) == len(many) + len(parents)


def test_units_by_edges_and_by_number(many, monkeypatch):
    monkeypatch.setattr(outcomes, "UNIT_BATCHES", 4)

    class Model:
        cutoff, max_edges = 5.0, 1000

    parts = outcomes.work_units(many, Model())
    assert [k for part in parts for k in part] == list(range(40))
    assert 1 < len(parts) < 20
    edges = [sum(outcomes._edges(many[k], 5.0) for k in part) for part in parts]
    assert all(4000 <= e < 5000 for e in edges[:-1])
    Model.cutoff = None
    assert [len(p) for p in outcomes.work_units(many, Model())] == [1] * 40
    assert {len(p) for p in outcomes.work_units(many * 52, Model())} == {8}


def test_a_structure_that_kills_every_worker_is_a_failure(many, tmp_path):
    fatal = many[7].info["structure_id"]

    def dies(arguments):
        return fatal in {a.info["structure_id"] for a in arguments[0]}

    serial = label(many, _eam())
    with pytest.warns(UserWarning, match="failed on 1 of 40"):
        found = label(many, _eam(), executor=Mortal(dies), resume=tmp_path / "j")
    assert [f.structure_id for f in found.failures] == [fatal]
    assert "every worker process that took it died" in found.failures[0].reason
    assert bits(found) == bits(serial[:7] + serial[8:])
    with pytest.raises(StructureError, match=f"{fatal}.*died.*recorded in"):
        label(many, _eam(), executor=Mortal(), resume=tmp_path / "j", on_error="raise")


def test_what_came_back_before_the_parent_ended_is_kept(many, tmp_path):
    class Interrupted(Mortal):
        def submit(self, fn, /, *args):
            if len(self.seen) == 6:
                raise KeyboardInterrupt
            return super().submit(fn, *args)

    path, serial = tmp_path / "labels.journal", label(many, _eam())

    def backwards(executor, work, units, arguments):  # results of the last units first
        first = list(distribute(executor, work, list(units)[:-6:-1], arguments))
        yield from first
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outcomes, "distribute", backwards)
        with pytest.raises(KeyboardInterrupt):
            label(many, _eam(), executor=Mortal(), resume=path)
    rest = Mortal()
    assert bits(label(many, _eam(), executor=rest, resume=path)) == bits(serial)
    again = sum(len(arguments[0]) for arguments in rest.seen)
    assert 0 < again < 40
    with pytest.raises(KeyboardInterrupt):
        label(many, _eam(), executor=Interrupted(), resume=tmp_path / "other")
    nothing = Mortal()
    assert bits(label(many, _eam(), executor=nothing, resume=path)) == bits(serial)
    assert not nothing.seen


def test_what_does_not_fit(many):
    refused = _eam()
    refused.metadata = {"examination": {"passed": False, "failures": ["flat"]}}
    executor = Mortal()
    with pytest.raises(TeacherRefused):
        label(many, refused, executor=executor)
    with pytest.raises(ConfigError, match="cannot be sent to another process"):
        label(many, lambda: Springs(), executor=executor)
    with pytest.raises(ConfigError, match="executor must be"):
        label(many, _eam(), executor=4)
    assert not executor.seen


@pytest.mark.long
def test_a_worker_killed_in_the_middle_costs_nothing(many):
    serial = label(many, _eam())
    with Killing(2) as executor:
        assert bits(label(many, _eam(), executor=executor)) == bits(serial)
        assert len(executor.killed) == 1
        assert executor.killed[0] not in executor.pids()


PARENT = """
    import sys
    from mdl_physpretrain.executors import Processes
    from mdl_physpretrain.augmentation import augment
    from mdl_physpretrain.teacher import label, outcomes
    from labelled_cells import rocksalt_cells
    from mortal_executors import Springs

    if __name__ == "__main__":
        outcomes.FLUSH_SECONDS = 0
        with Processes(1) as executor:
            executor.submit(len, "").result()
            print(*executor.pids(), flush=True)
            many = augment(rocksalt_cells(), n_aug=5, pull=0.3, perturb=0.3)
            label(many, Springs, executor=executor, resume=sys.argv[1])
"""


@pytest.mark.slow
def test_a_killed_parent_goes_on_and_its_workers_end(many, tmp_path):
    path, script = tmp_path / "labels.journal", tmp_path / "parent.py"
    script.write_text(textwrap.dedent(PARENT))
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{tests}{os.pathsep}{tests / 'executors'}", "SLOW_SPRINGS": "0.05"}
    with subprocess.Popen(
        [sys.executable, str(script), str(path)], env=environment, stdout=subprocess.PIPE, text=True
    ) as parent:
        workers = [int(word) for word in parent.stdout.readline().split()]
        while parent.poll() is None and (not path.exists() or path.stat().st_size < 5_000):
            time.sleep(0.01)
        parent.send_signal(signal.SIGKILL)
    assert parent.returncode == -signal.SIGKILL
    executor = Mortal()
    assert bits(label(many, Springs, executor=executor, resume=path)) == bits(label(many, Springs))
    assert 0 < len(executor.seen) < 40
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in workers):
        time.sleep(0.05)
    assert len(workers) == 1
    assert not Path(f"/proc/{workers[0]}").exists()


def test_a_journal_of_any_order(tmp_path):
    journal = Journal(tmp_path / "j", "abc")
    assert journal.read() == {}
    journal.append({5: "five", 2: "two"})
    journal.append({0: "zero"})
    assert Journal(tmp_path / "j", "abc").read() == {5: "five", 2: "two", 0: "zero"}
