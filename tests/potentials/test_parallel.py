"""Kernels on several threads: same sums, also from several Python threads and after a fork."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from ase.build import bulk

from mdl_physpretrain.compiled.threads import threads_for
from mdl_physpretrain.graphs.batch import build_batch
from mdl_physpretrain.potentials import CGCNN
from mdl_physpretrain.potentials.cgcnn.autograd import Neighbours


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)  # in every Python thread, without PyTorch's own pool
    if threads_for(8, 1, 1) < 2:
        pytest.skip("one core")


@pytest.fixture
def gradient() -> Callable[[], torch.Tensor]:
    atoms = bulk("MgO", "rocksalt", 4.2, cubic=True)
    atoms.rattle(0.1, seed=1)
    torch.manual_seed(0)
    model = CGCNN(cutoff=8.0, dim1=20, dim2=10, gc_count=2).eval()
    batch = build_batch(atoms, 8.0)
    assert len(Neighbours.from_edges(batch.edge_index, 8).bounds) == 3
    return lambda: model.energy_and_gradient(batch, batch.edge_vectors())[1]


@pytest.mark.usefixtures("two_threads")
def test_threads_change_rounding_only_and_always_in_the_same_way(gradient, monkeypatch: pytest.MonkeyPatch) -> None:
    found = gradient()
    assert all(torch.equal(gradient(), found) for _ in range(20))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    torch.testing.assert_close(gradient(), found, rtol=1e-4, atol=1e-7)


@pytest.mark.usefixtures("two_threads")
def test_several_python_threads_at_once(gradient) -> None:
    found = gradient()
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(x, found) for x in pool.map(lambda _: gradient(), range(40)))


@pytest.mark.usefixtures("two_threads")
@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_forked_child_computes_on(gradient) -> None:
    found = gradient()  # the parent's threads do not exist in the child
    context = multiprocessing.get_context("fork")
    answer = context.SimpleQueue()
    child = context.Process(target=lambda: answer.put(torch.equal(gradient(), found)))
    child.start()
    child.join(60)
    alive = child.is_alive()
    child.kill()
    assert not alive
    assert child.exitcode == 0
    assert answer.get()
