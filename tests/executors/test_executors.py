"""Executors from a text, portions that survive deaths, potentials on their way."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import pytest
import torch
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from mortal_executors import Mortal, Shuffling, die_once, one_thread
from typer.testing import CliRunner

from mdl_physpretrain.cli import app
from mdl_physpretrain.errors import ConfigError, PhysPretrainError
from mdl_physpretrain.executors import LostWork, Processes, distribute, open_executor, receive, send, transfer
from mdl_physpretrain.potentials import CGCNN, EAM, ZBL, ASECalculator, Sum
from mdl_physpretrain.potentials.factories import calculator_factory
from mdl_physpretrain.potentials.identity import potential_fingerprint
from mdl_physpretrain.structures import write_structures


def tens(*values: int) -> list[int]:
    return [10 * v for v in values]


def no(*values: int) -> list[int]:
    raise ZeroDivisionError(f"portion {values}")


# --- distribute -----------------------------------------------------------------------------------


def test_every_portion_comes_back_in_any_order():
    portions = [[k, k + 1] for k in range(0, 400, 2)]  # more than are in flight at a time
    with Shuffling(4) as executor:
        found = {tuple(p): r for p, r in distribute(executor, tens, portions, tuple)}
    assert found == {(k, k + 1): [10 * k, 10 * k + 10] for k in range(0, 400, 2)}
    assert list(found) != sorted(found)


def test_what_is_under_way_is_bounded(monkeypatch):
    under_way, most = set(), []

    class Counting(Shuffling):
        def submit(self, fn, /, *args, **kwargs):
            future = super().submit(fn, *args, **kwargs)
            under_way.add(future)
            most.append(sum(not f.done() for f in under_way))
            return future

    monkeypatch.setattr(import_module("mdl_physpretrain.executors.distribute"), "BYTES_IN_FLIGHT", 3000)
    with Counting(8) as executor:
        found = list(distribute(executor, len, [[k] for k in range(30)], lambda p: (bytes(1000),)))
    assert [r for _, r in found] == [1000] * 30
    assert 1 < max(most) <= 3


def test_a_portion_is_sent_again_after_a_death():
    left = [2]

    def twice(arguments):
        left[0] -= 3 in arguments
        return 3 in arguments and left[0] >= 0

    executor = Mortal(twice)
    found = list(distribute(executor, tens, [[1, 2], [3, 4], [5]], tuple))
    assert sorted(r for _, r in found) == [[10, 20], [30, 40], [50]]
    assert executor.deaths == 2


def test_the_piece_that_always_kills_is_singled_out():
    executor = Mortal(lambda arguments: 3 in arguments)
    found = {tuple(p): r for p, r in distribute(executor, tens, [[1, 2], [3, 4, 5], [6]], tuple)}
    assert isinstance(found.pop((3,)), LostWork)
    assert found == {(1, 2): [10, 20], (4,): [40], (5,): [50], (6,): [60]}
    assert executor.deaths == 3 + 2  # with the others, then alone


def test_an_error_of_the_work_is_no_death():
    executor = Mortal()
    with pytest.raises(ZeroDivisionError, match="portion"):
        list(distribute(executor, no, [[1], [2]], tuple))
    assert len(executor.seen) == 2


def test_work_that_the_executor_cancels_or_refuses():
    class Cancelling(Mortal):
        def submit(self, fn, /, *args):
            future: Future = Future()
            future.cancel()
            future.set_running_or_notify_cancel()
            return future

    with pytest.raises(PhysPretrainError, match="cancelled the same work 3 times"):
        list(distribute(Cancelling(), tens, [[1]], tuple))
    closed = ThreadPoolExecutor(1)
    closed.shutdown()
    with pytest.raises(PhysPretrainError, match="takes no more work"):
        list(distribute(closed, tens, [[1]], tuple))
    with pytest.raises(ConfigError, match="cannot be sent"):
        list(distribute(Mortal(), tens, [[1]], lambda p: (lambda: 0,)))
    with pytest.raises(ConfigError, match=r"concurrent.futures.Executor .* not str"):
        list(distribute("processes:2", tens, [[1]], tuple))  # type: ignore[arg-type]


# --- executors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", "process", "processes:", "processes:-1", "threads:two", "dask", "dask://", "serial:2", "processes:0"]
)
def test_texts_that_mean_nothing(text):
    with pytest.raises(ConfigError, match="executor"), open_executor(text):
        pass


def test_texts():
    with open_executor("serial") as nothing:
        assert nothing is None
    with open_executor("threads:2") as threads:
        assert threads.submit(tens, 1).result() == [10]
    with pytest.raises(ConfigError, match="at least 1"):
        Processes(0)


def test_on_the_command_line(rocksalt, tmp_path):
    EAM(["Mg", "O"], cutoff=4.0).save(tmp_path / "eam.pt")
    write_structures(tmp_path / "in.extxyz", rocksalt)
    found = {}
    for kind in ("serial", "threads:2"):
        labels, folder = tmp_path / f"{kind}.extxyz", tmp_path / kind
        for words in (
            ["label", str(tmp_path / "in.extxyz"), "-o", str(labels), "--teacher", str(tmp_path / "eam.pt")],
            ["md", str(tmp_path / "eam.pt"), str(tmp_path / "in.extxyz"), "-o", str(folder)]
            + ["--steps", "3", "--batch-atoms", "8"],
        ):
            result = CliRunner().invoke(app, [*words, "--executor", kind])
            assert result.exit_code == 0, result.output
        found[kind] = labels.read_bytes(), (folder / "physicality.csv").read_bytes()
    assert found["serial"] == found["threads:2"]
    result = CliRunner().invoke(app, [*words, "--executor", "slurm"])
    assert result.exit_code == 2
    result = CliRunner().invoke(app, [*words, "--executor", "threads:2", "--seeds", "0,1"])
    assert result.exit_code == 2


def test_a_dead_process_is_replaced_and_costs_its_own_task_only(tmp_path):
    marker = str(tmp_path / "died")
    with open_executor("processes:2") as executor:
        assert isinstance(executor, Processes)
        assert executor.submit(one_thread).result() == (1, "1")
        before = set(executor.pids())
        found = sorted(r for _, r in distribute(executor, die_once, [[k] for k in range(6)], lambda p: (marker, p[0])))
        assert found == [0, 10, 20, 30, 40, 50]
        assert Path(marker).exists()
        assert len(before - set(executor.pids())) == 1 or len(before) == 1
        assert os.getpid() not in executor.pids()
        pids = executor.pids()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_no_scheduler_at_that_address(monkeypatch):
    pytest.importorskip("distributed", reason="Dask (extra 'cluster') is not installed")
    from mdl_physpretrain.executors import specification

    monkeypatch.setattr(specification, "CONNECT_SECONDS", 0.3)
    with (
        pytest.raises(PhysPretrainError, match=r"no Dask scheduler at 127\.0\.0\.1:9"),
        open_executor("dask://127.0.0.1:9"),
    ):
        pass


@pytest.mark.long
def test_workers_of_dask_killed_in_the_middle(monkeypatch, capsys):
    pytest.importorskip("distributed", reason="Dask (extra 'cluster') is not installed")
    from mdl_physpretrain.teacher import outcomes

    path = Path(__file__).parents[2] / "scripts" / "show_killed_worker.py"
    spec = importlib.util.spec_from_file_location("show_killed_worker", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(outcomes, "UNIT_BATCHES", 0.3)  # many small units
    monkeypatch.setattr(script, "WORKERS", 2)
    assert script.main(["--structures", "200", "--trajectories", "16", "--steps", "40"]) == 0
    out = capsys.readouterr().out
    assert out.count("  killed ") == 2
    assert out.count("bit for bit equal") == 2


@pytest.mark.long
def test_the_scheduler_of_dask_dies_while_tasks_run(monkeypatch):
    pytest.importorskip("distributed", reason="Dask (extra 'cluster') is not installed")
    monkeypatch.setattr("mdl_physpretrain.executors.specification.CONNECT_SECONDS", 5)  # and of connecting again
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    host, port = address.split(":")
    run = [sys.executable, "-m"]
    words = ["distributed.cli.dask_scheduler", "--host", host, "--port", port, "--no-dashboard", "--no-show"]
    scheduler = subprocess.Popen([*run, *words], stderr=subprocess.DEVNULL)
    words = ["distributed.cli.dask_worker", f"tcp://{address}", "--no-dashboard", "--no-nanny", "--nthreads", "1"]
    worker = subprocess.Popen([*run, *words], stderr=subprocess.DEVNULL)
    finished = []
    try:
        _wait_for(host, int(port))
        with pytest.raises(PhysPretrainError, match=r"takes no more work .*goes on from what is saved"):
            _sleep_on_dask(address, finished, scheduler.kill)
    finally:
        scheduler.kill()
        worker.kill()
    assert 3 <= len(finished) < 500


def _sleep_on_dask(address, finished, kill):
    with open_executor(f"dask://{address}") as executor:
        for (k,), _ in distribute(executor, time.sleep, [[k] for k in range(500)], lambda k: (0.05,)):
            finished.append(k)
            if len(finished) == 3:
                kill()


def _wait_for(host, port):
    for _ in range(600):
        try:
            socket.create_connection((host, port)).close()
        except OSError:
            time.sleep(0.1)
        else:
            return


# --- potentials --------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def forgetful():
    transfer._worker.__dict__.clear()
    yield
    transfer._worker.__dict__.clear()


def test_models_arrive_as_they_were():
    eam = EAM(["Mg", "O"], cutoff=5.0).double()
    for model in (eam, CGCNN(cutoff=4.0), Sum([CGCNN(cutoff=4.0), ZBL()])):
        sent = send(model)
        assert not any(name in sent.content for name in (b"mdl_physpretrain.potentials", b"EnergyModel"))  # no objects
        again = receive(sent)
        assert potential_fingerprint(again) == potential_fingerprint(model)
        assert again.dtype == model.dtype
        assert not again.training
        assert receive(sent) is again  # kept
    wrapped = receive(send(ASECalculator(eam)))
    assert isinstance(wrapped, ASECalculator)
    assert potential_fingerprint(wrapped.model) == potential_fingerprint(eam)
    assert len(transfer._worker.kept) == transfer.KEPT


def test_threads_do_not_share_a_potential():
    sent = send(EMT())
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(receive, sent).result() is not receive(sent)


def test_calculators_and_their_factories_arrive():
    assert receive(send(LennardJones(sigma=2.0))).parameters["sigma"] == 2.0
    assert isinstance(receive(send(EMT))(), EMT)
    factory = receive(send(calculator_factory("ase.calculators.lj:LennardJones", {"sigma": 3.0})))
    assert factory().parameters["sigma"] == 3.0
    assert factory.__qualname__ == "ase.calculators.lj:LennardJones(sigma=3.0)"


class Networked(LennardJones):
    """As those of CHGNet and others."""

    def __init__(self):
        super().__init__()
        self.model = torch.nn.Linear(1, 1)


def test_what_cannot_be_sent():
    with pytest.raises(ConfigError, match=r"<lambda> cannot be sent .* function of a module"):
        send(lambda: EMT())
    with pytest.raises(ConfigError, match="Networked holds a network"):
        send(Networked())
    with pytest.raises(ConfigError, match="Linear holds a network"):
        send(torch.nn.Linear(1, 1))
    mixed = EAM(["Mg", "O"], cutoff=5.0)
    mixed.half()
    with pytest.raises(ConfigError, match="eam cannot be sent"):
        send(mixed)


def test_another_version_is_refused():
    import dataclasses

    sent = dataclasses.replace(send(EMT()), version="0.0.0")
    with pytest.raises(ConfigError, match=r"its client 0\.0\.0"):
        receive(sent)
