"""Frames that a record keeps: evenly spaced over whatever length, the same with both engines, and stored."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.io import read

from mdl_physpretrain.dynamics import Runs, simulate
from mdl_physpretrain.dynamics.batched_engine import BatchedRun
from mdl_physpretrain.dynamics.frame_blocks import FrameBlock
from mdl_physpretrain.dynamics.sampled_frames import FrameSampler
from mdl_physpretrain.dynamics.settings import MDSettings


@pytest.mark.parametrize("n_frames", [8, 10, 64])
def test_frames_are_even_over_any_length(n_frames):
    for length in (0, 3, n_frames - 1, n_frames, 2 * n_frames + 1, 1000, 1023, 1024):
        sampler = FrameSampler(n_frames)
        for step in range(length + 1):
            if sampler.due(step):
                sampler.add(step, "a", np.full((2, 3), 0.01 * step), np.eye(3))
        taken = sampler.take("a")
        steps = taken["frame_step"]
        assert len(set(np.diff(steps))) <= 1
        assert steps[0] == 0
        assert min(length + 1, n_frames // 2) <= len(steps) <= n_frames
        assert length - steps[-1] < max(1, 4 * length / n_frames)
        assert (taken["frame_positions"][:, 0, 0] == steps).all()
        assert sampler.take("a") == {}


@pytest.mark.parametrize(("engine", "ensemble"), [("batched", "npt"), ("ase", "nvt")])
def test_kept_frames_are_those_of_the_trajectory(engine, ensemble, eam, mgo, tmp_path):
    mgo = mgo[2:]
    options = {"ensemble": ensemble, "steps": 19, "temperature": 800.0, "seed": 3, "engine": engine}
    runs = simulate(eam, mgo, **options, n_frames=8, trajectory_dir=tmp_path, trajectory_interval=1,
                    checkpoint=tmp_path / "runs.npz")  # fmt: skip
    plain = simulate(eam, mgo, **options)
    for record, stored, other in zip(runs, Runs.load(tmp_path / "runs.npz"), plain, strict=True):
        frames = read(tmp_path / f"{record.structure_id}.extxyz", ":")
        assert stored.frame_step.tolist() == [0, 4, 8, 12, 16]
        for step, positions, cell in zip(stored.frame_step, stored.frame_positions, stored.frame_cells, strict=True):
            assert np.allclose(0.01 * positions, frames[step].positions, atol=0.00501)
            assert np.allclose(cell, frames[step].cell, atol=1e-4)
        assert len(other.frame_step) == 0
        assert np.array_equal(record.positions, other.positions)  # keeping frames changes nothing


def test_steps_in_blocks_keep_the_same_frames(eam, mgo):
    """As on a GPU, where frames are looked at several steps later (in NPT lists are the same on a CPU)."""
    kept = []
    for block in (False, True):
        records, settings = [], MDSettings(ensemble="npt", steps=37, temperature=500.0)
        for atoms in mgo[:2]:
            atoms.set_velocities(np.random.default_rng(1).normal(scale=0.02, size=(len(atoms), 3)))
        generators = [np.random.default_rng(k) for k in range(2)]
        with torch.no_grad():
            run = BatchedRun(eam, mgo[:2], generators, settings, finished=records.append, sampler=FrameSampler(16))
            run.block = FrameBlock(run) if block else None
            while run.done < settings.steps:
                run.step()
            run.finish()
        kept.append(records)
    for one, other in zip(*kept, strict=True):
        assert other.frame_step.tolist() == one.frame_step.tolist() == list(range(0, 37, 4))
        assert np.abs(other.frame_positions - one.frame_positions).max() <= 1
        assert np.allclose(other.positions, one.positions, atol=1e-6)
