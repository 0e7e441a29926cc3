"""Records survive on disk, and finished structures are not run again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mdl_physpretrain.dynamics import Runs, simulate
from mdl_physpretrain.dynamics.assessment import assess
from mdl_physpretrain.dynamics.batched_engine import BatchedRun
from mdl_physpretrain.errors import CheckpointError

OPTIONS = {"temperature": 600, "steps": 20, "max_batch_atoms": 8, "seed": 4}


def same(a, b) -> None:
    assert assess(a).equals(assess(b))
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x.positions, y.positions)
        np.testing.assert_array_equal(x.trace_energy, y.trace_energy)
        assert x.input_hash == y.input_hash


def test_save_and_load(eam, mgo, tmp_path):
    runs = simulate(eam, mgo, **OPTIONS)
    loaded = Runs.load(runs.save(tmp_path / "sub" / "runs.npz"))
    same(runs, loaded)
    assert loaded.fingerprint == runs.fingerprint
    assert loaded.settings["temperature"] == 600
    assert len(loaded[1:3]) == 2
    assert loaded[0].final_atoms().get_temperature() == pytest.approx(runs[0].final_atoms().get_temperature())
    with np.load(tmp_path / "sub" / "runs.npz", allow_pickle=False) as content:
        assert all(content[name].dtype != object for name in content)


def test_an_interrupted_run_goes_on_where_it_was(eam, mgo, tmp_path, monkeypatch):
    path = tmp_path / "md.npz"
    complete = simulate(eam, mgo, **OPTIONS)
    original = BatchedRun.simulate
    calls = []

    def interrupted(model, structures, *args, **kwargs):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(structures[0].info["structure_id"])
        original(model, structures, *args, **kwargs)

    monkeypatch.setattr(BatchedRun, "simulate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        simulate(eam, mgo, checkpoint=path, **OPTIONS)
    assert [r.structure_id for r in Runs.load(path)] == ["mgo-0", "mgo-1"]
    calls.clear()
    resumed = simulate(eam, mgo, checkpoint=path, **OPTIONS)
    assert calls == ["mgo-2", "mgo-3"]
    same(resumed, complete)
    calls.clear()
    same(simulate(eam, mgo[::-1], checkpoint=path, **OPTIONS), complete[::-1])
    assert calls == []


def test_a_checkpoint_of_something_else_is_refused(eam, mgo, tmp_path):
    path = tmp_path / "md.npz"
    simulate(eam, mgo[:2], checkpoint=path, **OPTIONS)
    with pytest.raises(CheckpointError, match=r"md.npz.*other options \(temperature\)"):
        simulate(eam, mgo[:2], checkpoint=path, **{**OPTIONS, "temperature": 700})
    mgo[0].positions[0] += 0.01
    with pytest.raises(CheckpointError, match="another structure mgo-0"):
        simulate(eam, mgo[:2], checkpoint=path, **OPTIONS)
    with torch.no_grad():
        eam.D[0] += 0.01
    try:
        with pytest.raises(CheckpointError, match="another potential"):
            simulate(eam, mgo[1:2], checkpoint=path, **OPTIONS)
    finally:
        with torch.no_grad():
            eam.D[0] -= 0.01


def test_damaged_files_are_named(eam, mgo, tmp_path):
    path = tmp_path / "md.npz"
    simulate(eam, mgo[:2], checkpoint=path, **OPTIONS)
    path.write_bytes(path.read_bytes()[:-200])
    for act in (lambda: Runs.load(path), lambda: simulate(eam, mgo[:2], checkpoint=path, **OPTIONS)):
        with pytest.raises(CheckpointError, match=r"md.npz.*damaged"):
            act()
    with pytest.raises(CheckpointError, match="does not exist"):
        Runs.load(tmp_path / "nothing.npz")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(CheckpointError, match="other"):
        Runs.load(tmp_path / "other.npz")
