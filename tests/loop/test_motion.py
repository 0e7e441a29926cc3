"""Frames of molecular dynamics become children of the structures they started from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.lj import LennardJones

from mdl_physpretrain import recipe
from mdl_physpretrain.augmentation.children import frame_child
from mdl_physpretrain.loop.motion import conditions, examined_motion, frame_steps
from mdl_physpretrain.teacher.anchor import parents_of
from mdl_physpretrain.teacher.label import label


def test_frames_crowd_before_a_loss_and_spread_otherwise() -> None:
    every = range(0, 1001, 5)
    assert frame_steps(every, 4, lost=1000, steps=1000) == [500, 780, 945, 1000]
    assert frame_steps(every, 4, lost=103, steps=103) == [50, 80, 95, 100]
    assert frame_steps(every, 2, lost=None, steps=1000) == [500, 1000]
    assert frame_steps(every, 1, lost=100, steps=1000) == [100]


def test_neither_the_start_nor_what_comes_after_the_loss_is_a_frame() -> None:
    assert frame_steps([0, 10, 20, 30], 5, lost=15, steps=30) == [10]
    assert frame_steps([0, 10], 3, lost=4, steps=10) == []
    assert frame_steps([0], 3, lost=None, steps=0) == []


def test_the_loop_simulates_like_md_unless_it_says_otherwise() -> None:
    md = recipe.MolecularDynamics(temperature=900.0, timestep=2.0, ensemble="nve", friction=0.02, interval=7)
    same = conditions(recipe.Loop(steps=600), md)
    assert (same.temperature, same.timestep, same.ensemble, same.friction) == (900.0, 2.0, "nve", 0.02)
    assert (same.steps, same.interval, same.trajectory_interval) == (600, 1, 3)
    other = conditions(recipe.Loop(temperature=300.0, timestep=0.5, ensemble="nvt"), md)
    assert (other.temperature, other.timestep, other.ensemble) == (300.0, 0.5, "nvt")


@pytest.mark.parametrize("ensemble", ["nvt", "npt"])
def test_frames_can_be_anchored_to_their_parents(rocksalt: list[Atoms], tmp_path: Path, ensemble: str) -> None:
    parents = rocksalt[:2]
    options = recipe.Loop(steps=30, ensemble=ensemble, temperature=600.0, frames_physical=2, frames_lost=3)
    md = conditions(options, recipe.MolecularDynamics(taup=20.0, compressibility=1.0))
    soft = LennardJones(sigma=1.9, epsilon=0.05, rc=4.0)
    rows, frames = examined_motion(soft, parents, md, options, seed=1, folder=tmp_path, label="x")  # type: ignore[arg-type]
    assert list(rows["structure_id"]) == ["mgo-0", "mgo-1"]
    assert frames
    assert {f.info["parent_id"] for f in frames} == {"mgo-0", "mgo-1"}
    assert len({f.info["structure_id"] for f in frames}) == len(frames)
    assert set(parents_of(frames, parents)) == {"mgo-0", "mgo-1"}  # raises unless x = (x0 + u)(1 + strain)
    for frame in frames:
        assert np.allclose(frame.arrays["aug_displacement"].mean(axis=0), 0, atol=1e-9)
        assert ("aug_strain" in frame.info) is (ensemble == "npt")
    assert len(label(frames, soft, parents=parents)) == len(frames)


def test_atoms_that_leave_the_cell_keep_their_way(rocksalt: list[Atoms]) -> None:
    parent, frame = rocksalt[0], rocksalt[0].copy()
    frame.positions[0] += [5.0, 0.0, 0.0]  # beyond the cell of 4.1 Å
    frame.positions += 1.0  # the whole drifts
    child = frame_child(parent, frame, "mgo-0", "a")
    moved = child.arrays["aug_displacement"]
    assert np.allclose(moved[0] - moved[1], [5.0, 0.0, 0.0])
    assert np.allclose(child.get_all_distances(mic=True), frame.get_all_distances(mic=True))
