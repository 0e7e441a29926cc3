"""MD by executors: the same bits, in any order, through deaths of workers."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest
from mortal_executors import Killing, Mortal, Shuffling, Springs

from mdl_physpretrain.dynamics import Runs, execution, simulate
from mdl_physpretrain.dynamics.assessment import assess
from mdl_physpretrain.errors import ConfigError, StructureError

OPTIONS = {"temperature": 600, "steps": 20, "max_batch_atoms": 16, "seed": 4}


def same(a, b) -> None:
    assert assess(a).equals(assess(b))
    assert a.fingerprint == b.fingerprint
    for x, y in zip(a, b, strict=True):
        assert (x.structure_id, x.input_hash, x.steps_done) == (y.structure_id, y.input_hash, y.steps_done)
        for name in ("positions", "velocities", "cell", "trace_energy", "trace_temperature", "trace_step"):
            np.testing.assert_array_equal(getattr(x, name), getattr(y, name), strict=True)


@pytest.mark.parametrize(
    "options",
    [{}, {"engine": "ase"}, {"ensemble": "npt"}, {"initial_velocities": "keep", "ensemble": "nve"}],
    ids=["nvt", "ase", "npt", "keep"],
)
def test_the_same_bits_in_any_order(eam, mgo, options):
    options = OPTIONS | {"max_batch_atoms": 8} | options
    for k, atoms in enumerate(mgo):
        atoms.set_velocities(np.full((len(atoms), 3), 0.01 * k))
    before = [a.copy() for a in mgo]
    serial = simulate(eam, mgo, **options)
    with Shuffling(3) as executor:
        same(simulate(eam, mgo, executor=executor, **options), serial)
    assert mgo == before


@pytest.mark.parametrize("potential", [Springs(), Springs], ids=["calculator", "factory"])
def test_calculators(mgo, potential):
    executor = Mortal()
    same(simulate(potential, mgo, executor=executor, steps=5), simulate(potential, mgo, steps=5))
    assert [len(arguments[2]) for arguments in executor.seen] == [1, 1, 1, 1]


def test_trajectory_files_of_a_second_attempt(eam, mgo, tmp_path):
    options = OPTIONS | {"trajectory_interval": 5}
    simulate(eam, mgo, trajectory_dir=tmp_path / "serial", **options)
    left = tmp_path / "files" / ".unfinished-of-a-dead-worker"
    left.mkdir(parents=True)
    (left / "mgo-0.extxyz").write_text("torn")
    deaths = iter([True, False, True])
    executor = Mortal(lambda arguments: next(deaths, False))
    simulate(eam, mgo, trajectory_dir=tmp_path / "files", executor=executor, **options)
    assert executor.deaths == 2
    names = sorted(path.name for path in (tmp_path / "serial").iterdir())
    assert names == [f"mgo-{k}.extxyz" for k in range(4)]
    assert sorted(path.name for path in (tmp_path / "files").iterdir()) == names
    for name in names:
        assert (tmp_path / "files" / name).read_bytes() == (tmp_path / "serial" / name).read_bytes()


def test_what_is_finished_is_kept_and_only_the_rest_is_done(eam, mgo, tmp_path):
    path = tmp_path / "runs.npz"
    complete = simulate(eam, mgo, **OPTIONS)

    def interrupted(arguments):
        if len(executor.seen) == 2:
            raise KeyboardInterrupt
        return False

    executor = Mortal(interrupted)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("mdl_physpretrain.executors.distribute"), "IN_FLIGHT", 1)
        with pytest.raises(KeyboardInterrupt):
            simulate(eam, mgo, executor=executor, checkpoint=path, **OPTIONS)
    assert [r.structure_id for r in Runs.load(path)] == ["mgo-0", "mgo-1"]
    rest = Mortal()
    same(simulate(eam, mgo, executor=rest, checkpoint=path, **OPTIONS), complete)
    assert [[a.info["structure_id"] for a in arguments[2]] for arguments in rest.seen] == [["mgo-2", "mgo-3"]]


def test_a_structure_that_kills_every_worker_is_named_after_the_others_are_done(eam, mgo, tmp_path):
    path = tmp_path / "runs.npz"
    executor = Mortal(lambda arguments: any(a.info["structure_id"] == "mgo-1" for a in arguments[2]))
    with pytest.raises(StructureError, match=r"mgo-1.*every worker process that took it died"):
        simulate(eam, mgo, executor=executor, checkpoint=path, **OPTIONS)
    assert [r.structure_id for r in Runs.load(path)] == ["mgo-0", "mgo-2", "mgo-3"]


def test_what_does_not_fit(eam, mgo, tmp_path):
    with pytest.raises(ConfigError, match="cannot be sent"):
        simulate(lambda: Springs(), mgo, executor=Mortal())
    with pytest.raises(ConfigError, match="executor must be"):
        simulate(eam, mgo, executor="processes")
    with pytest.raises(ConfigError, match="lacks what MD needs"):  # raised in the worker
        simulate(Springs, mgo, ensemble="npt", executor=Mortal())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execution, "run_batch", elsewhere)
        with pytest.raises(Exception, match="a folder that all machines share"):
            simulate(eam, mgo, trajectory_dir=tmp_path, executor=Mortal(), **OPTIONS)


def elsewhere(run, sent, structures):
    return [], "/no/such/folder/on/this/machine", None


@pytest.mark.long
def test_a_worker_killed_in_the_middle_costs_nothing(eam, mgo):
    options = OPTIONS | {"max_batch_atoms": 8, "steps": 100}
    serial = simulate(eam, mgo, **options)
    with Killing(2) as executor:
        same(simulate(eam, mgo, executor=executor, **options), serial)
        assert len(executor.killed) == 1
        assert executor.killed[0] not in executor.pids()
