"""The monitor of a running simulation and ``assess`` of its frames say the same."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mdl_physpretrain import assess
from mdl_physpretrain.dynamics import simulate
from mdl_physpretrain.dynamics.records import Runs
from mdl_physpretrain.potentials import ASECalculator
from mdl_physpretrain.stability.limits import Limits

EXACT = ("verdict", "reason", "physical", "first_unphysical_step", "closest_pair", "mobile", "detail", "physical_paper",
         "reason_paper", "overlap", "lindemann_violation", "nan", "exploded", "steps_done")  # fmt: skip
CLOSE = ("min_distance", "lindemann_local", "lindemann_global", "start_deviation", "overlap_threshold")


@pytest.mark.parametrize("engine", ["batched", "ase"])
@pytest.mark.parametrize("temperature", [300, 6000, 40000])
def test_same_frames_same_verdict(tmp_path, eam, mgo, engine, temperature):
    limits = Limits(start_deviation=0.15)
    runs = simulate(
        eam if engine == "batched" else _calculator(eam), mgo, temperature=temperature, steps=80, engine=engine,
        trajectory_dir=tmp_path, trajectory_interval=1, trajectory_format="traj", limits=limits,
    )  # fmt: skip
    live = assess(runs, limits=limits).set_index("structure_id")
    files = [tmp_path / f"{name}.traj" for name in live.index]
    offline = assess(files, limits=limits, temperature=temperature).set_index("structure_id")
    assert (set(live.verdict) == {"physical"}) == (temperature == 300)
    for name in live.index:
        for column in EXACT:
            assert str(live.loc[name, column]) == str(offline.loc[name, column]), (name, column)
        np.testing.assert_allclose(
            live.loc[name, list(CLOSE)].astype(float), offline.loc[name, list(CLOSE)].astype(float), rtol=1e-6
        )


def _calculator(model):
    return ASECalculator(model)


def test_records_of_earlier_versions_keep_their_verdict(tmp_path, eam, mgo):
    """They hold the paper's verdict alone."""
    runs = simulate(eam, mgo, temperature=6000, steps=60)
    path = runs.save(tmp_path / "runs.npz")
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    meta = json.loads(str(arrays.pop("meta")))
    new = ("overlap_step_paper", "explosion_step_paper", "lindemann_step_paper", "cause", "overlap_pair",
           "overlap_distance", "elements")  # fmt: skip
    for record in meta["records"]:
        for name in new:
            record["verdict"].pop(name)
    gone = ("element", "compared", "fluctuations", "deviations")
    arrays = {k: v for k, v in arrays.items() if k.rpartition("verdict.")[2] not in gone}
    np.savez(tmp_path / "old.npz", meta=np.array(json.dumps(meta)), **arrays)
    old = assess(Runs.load(tmp_path / "old.npz"))
    paper = assess(runs, limits=Limits(variant="paper"))
    assert old.physical.tolist() == paper.physical.tolist() == old.physical_paper.tolist()


@pytest.mark.parametrize("engine", ["batched", "ase"])
def test_zero_steps_are_not_judged(eam, mgo, engine):
    runs = simulate(eam if engine == "batched" else _calculator(eam), mgo, steps=0, engine=engine)
    table = assess(runs)
    assert set(table.verdict) == {"not judged"}
    assert not table.physical.any()


@pytest.mark.parametrize("engine", ["batched", "ase"])
def test_a_start_that_overlaps_is_unphysical_at_once(eam, mgo, engine):
    mgo[0].positions[1] = mgo[0].positions[0] + [0.8, 0.1, 0.0]
    runs = simulate(eam if engine == "batched" else _calculator(eam), mgo, steps=5, engine=engine)
    row = assess(runs).iloc[0]
    assert (row.verdict, row.first_unphysical_step) == ("unphysical", 0)
    assert "overlap" in row.reason
    assert row.detail.startswith("Mg-O 0.81")
