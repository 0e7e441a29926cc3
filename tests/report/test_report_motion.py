"""Trajectories in the page: continuous, without drift, no larger than the page allows."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from ase import Atoms
from report_page import Page
from report_probe_files import make_check
from test_report_probes import embedded, without_figures

from mdl_physpretrain.dynamics.records import RunRecord, Runs
from mdl_physpretrain.report import motion
from mdl_physpretrain.report.motion import PageRoom, recorded_motion, wrapped
from mdl_physpretrain.stability.verdict import Verdict


def record_of(path: np.ndarray, cells: np.ndarray, *, pbc: bool = True, name: str = "a") -> RunRecord:
    """A trajectory with positions (k, n, 3), one step apart, the last of which is the last frame."""
    atoms = Atoms("H" * path.shape[1], path[-1], cell=cells[-1], pbc=pbc)
    none = np.zeros(0)
    frames = {
        "frame_step": np.arange(len(path) - 1),
        "frame_positions": np.rint(100 * path[:-1]).astype(np.int32),
        "frame_cells": cells[:-1].astype(np.float32),
    }
    return RunRecord.of_last_frame(
        atoms, structure_id=name, steps_done=len(path) - 1, steps=99,
        verdict=Verdict(10, None, None, None, None, 0.7, 0.5, "H-H", none, none), frames=frames,
        traces=dict.fromkeys(("trace_step", "trace_temperature", "trace_energy", "trace_volume"), none),
    )  # fmt: skip


def decoded(shown: motion.Motion, n: int) -> np.ndarray:
    return np.frombuffer(base64.b64decode(shown.moved), "<i2").reshape(len(shown.steps), n, 3) / 100


def test_atoms_are_followed_across_faces_and_drift_is_taken_out():
    start = np.array([[0.2, 0.2, 0.2], [2.0, 2.0, 2.0], [3.9, 1.0, 3.0]])
    own = np.array(
        [[-0.5, 0.0, 0.0], [0.5, 0.3, 0.0], [0.0, -0.3, 0.0]]
    )  # without a common part; atom 0 leaves the cell
    drift = np.array([3.0, -7.0, 0.5])
    path = np.array([start + t * (own + drift) for t in np.linspace(0, 1, 11)])
    cells = np.repeat(4 * np.eye(3)[None], 11, axis=0)
    shown = recorded_motion(record_of(path, cells), PageRoom())
    assert shown.steps == list(range(10))
    assert shown.cells is None
    expected = [(t - 1) * own for t in np.linspace(0, 1, 11)[:-1]]
    assert np.allclose(decoded(shown, 3), expected, atol=0.011)


def test_a_cell_that_breathes_takes_its_atoms_along():
    lengths = np.linspace(4, 5, 6)
    cells = np.array([x * np.eye(3) for x in lengths])
    inside = np.array([[0.1, 0.1, 0.1], [0.6, 0.6, 1.6]])  # the second one lies in the next cell
    shown = recorded_motion(record_of(np.array([inside @ cell for cell in cells]), cells), PageRoom())
    assert np.allclose(np.array(shown.cells)[:, 0, 0], lengths[:-1], atol=1e-3)
    last = wrapped(inside @ cells[-1], cells[-1], np.ones(3, bool))
    assert np.allclose(decoded(shown, 2) + last, [(inside % 1) @ cell for cell in cells[:-1]], atol=0.011)


def test_molecules_have_no_cell():
    path = np.array([[[0, 0, 0], [1 + 0.1 * t, 0, 0]] for t in range(4)]) + 20.0
    shown = recorded_motion(record_of(path, np.zeros((4, 3, 3)), pbc=False), PageRoom())
    assert np.allclose(decoded(shown, 2)[0], [[0.15, 0, 0], [-0.15, 0, 0]], atol=0.011)


def test_the_page_has_room_for_so_much():
    room = PageRoom()
    assert len(room.choose(40, 10)) == 40
    assert (room.crowded, room.left) == (0, motion.PAGE_POSITIONS - 400)
    thin = room.choose(64, 400)
    assert (thin[0], len(thin), room.crowded) == (0, motion.TRAJECTORY_POSITIONS // 400, 1)
    assert len(room.choose(64, 3000)) == 0  # two frames are no motion
    while len(room.choose(60, 100)):
        pass
    assert room.left < 500


@pytest.fixture
def check(tmp_path):
    """A loses every structure; B keeps them, and has frames of all but the last."""
    folder = make_check(tmp_path / "c", structures=3)
    for file in folder.glob("seed-0/md/*.runs.npz"):
        runs = Runs.load(file)
        for k, record in enumerate(runs):
            if file.name.startswith("A") or k < 2:
                n = 20 if file.name.startswith("A") else 200
                record.frame_step = np.arange(0, n, n // 10)
                record.frame_positions = np.rint(100 * np.repeat(record.positions[None], 10, 0)).astype(np.int32)
                record.frame_cells = np.repeat(record.cell[None], 10, 0).astype(np.float32)
        runs.save(file)
    return folder


def test_the_page_plays_failures_beside_the_same_structure_kept(check):
    page = without_figures(check)
    frames = embedded(page.read_text(), "scene")["frames"]
    assert [f["structure"] for f in frames] == ["cell-0", "cell-1", "cell-2"]
    for f in frames:
        assert f["motion"]["steps"] == list(range(0, 20, 2))
        assert f["timestep"] == 1.0
    assert [f["beside"] and (f["beside"]["arm"], f["beside"]["shown"]) for f in frames] == [
        ("B", 200),
        ("B", 200),
        None,
    ]
    parsed = Page(page.read_text())
    assert "3 of 3 can be played" in parsed.text
    assert "beside 2 of them the same structure with another potential" in parsed.text
    assert ("input", "aria-label", "time") in parsed.attributes


def test_little_room_is_said_and_damaged_frames_cost_the_motion_only(check, monkeypatch):
    monkeypatch.setattr(motion, "PAGE_POSITIONS", 100)
    text = without_figures(check).read_text()
    assert "To keep the page small, 3 of these trajectories have fewer frames here" in Page(text).text
    file = check / "seed-0/md/A.runs.npz"
    runs = Runs.load(file)
    for record in runs:
        record.frame_positions = record.frame_positions[:, :3]
    runs.save(file)
    text = without_figures(check).read_text()
    assert "could not be shown: the stored frames do not fit" in Page(text).text
    assert [f["motion"] for f in embedded(text, "scene")["frames"]] == [None] * 3
