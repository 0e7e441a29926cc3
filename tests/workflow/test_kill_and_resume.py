"""``kill -9`` in every stage, then the same command: the same result."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mdl_physpretrain.structures import write_structures

DRIVER = Path(__file__).with_name("kill_driver.py")
CONFIG = """\
preset: algorithm1
data: {source: mgo.extxyz, fractions: [0.5, 0.25, 0.25]}
seeds: [0]
teacher: {epochs: 2, cutoff: 4.5, force: true}
augment: {n_aug: 2, pull: 0.3, perturb: 0.3, max_force: null, batch_size: 3}
backbone: {name: cgcnn, args: {dim1: 8, dim2: 8, gc_count: 1, cutoff: 4.0}}
pretrain: {epochs: 3}
finetune: {epochs: 3, replay_fraction: 0.3}
loop: {rounds: 1, n_structures: 2, steps: 15, epochs: 2, per_bin: 1, tolerance: 1.0}
md:
  n_structures: 2
  steps: 15
  source: [test, val]
  reference_potential: ase.calculators.lj:LennardJones
  reference_potential_args: {sigma: 1.8, epsilon: 0.2}
"""

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")


def _environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


@pytest.fixture
def config(tmp_path, rocksalt):
    write_structures(tmp_path / "mgo.extxyz", rocksalt)
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return path


def test_killed_in_every_stage_ends_with_the_same_result(config, tmp_path, pytestconfig):
    everywhere = ["--all"] if pytestconfig.getoption("--long") else []
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(config), str(tmp_path), *everywhere],
        capture_output=True,
        text=True,
        timeout=900,  # a busy machine
        env=_environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    whole, last = told.pop("whole"), told.pop("last")
    assert (whole["code"], last["code"]) == (0, 0), done.stderr
    assert {stage: part["code"] for stage, part in told.items()} == dict.fromkeys(told, -9), done.stderr
    for stage, begun in (("augment", "augment"), ("pretrain", "pretrain"), ("finetune", "finetune"),
                         ("reference", "reference md"), ("md", "md")):  # fmt: skip
        assert told[stage]["events"][-1].startswith(f"start\t{begun}"), stage
    resumed = [line for part in [*told.values(), last] for line in part["events"] if line.startswith("resume\t")]
    assert {line.split()[1] for line in resumed} >= {"augment", "pretrain", "finetune", "reference", "md"}
    for name in (
        "seed-0/pretrained/loop/round-1/labelled.extxyz",
        "efs.csv",
        "physicality.csv",
        "reference/md-seed-0.csv",
        "diatomics.csv",
        "augment/labelled.extxyz",
        "augment/filter.json",
    ):
        ours, theirs = ((tmp_path / run / name).read_bytes() for run in ("killed", "whole"))
        assert ours == theirs, name
    assert (tmp_path / "killed" / "report" / "index.html").is_file()
    assert not list((tmp_path / "killed").rglob("*.part"))


def test_workers_die_with_a_killed_run(config, tmp_path):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "mdl_physpretrain", "run", str(config), "-o", str(run), "--jobs", "2"]
    command += ["seeds=[0,1]", "finetune.epochs=100000", "finetune.replay_fraction=0", "arms={a: {pretrain: false}}"]
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(command, env=_environment(), stdout=file, stderr=file)
    checkpoints = [run / f"seed-{seed}" / "a" / "last.ckpt" for seed in (0, 1)]
    deadline = time.monotonic() + 90
    while not all(c.is_file() for c in checkpoints):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    process.kill()
    process.wait()
    before, deadline = None, time.monotonic() + 30  # workers notice within a second, more on a busy machine
    while before != (state := [(c.stat().st_mtime_ns, c.stat().st_size) for c in checkpoints]):
        assert time.monotonic() < deadline, "a worker outlived the run"
        before = state
        time.sleep(2.0)
