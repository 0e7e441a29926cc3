"""A trajectory of a calculator that was interrupted goes on where it was, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import all_changes
from ase.calculators.emt import EMT
from ase.io import read

from mdl_physpretrain.dynamics import Runs, simulate
from mdl_physpretrain.dynamics.assessment import assess
from mdl_physpretrain.dynamics.remembered import RememberingCalculator, memory_file


class Counted(EMT):
    """EMT that counts how often it is asked, can be interrupted, and knows nothing of the frame before."""

    asked, ends_at = 0, None

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, all_changes)
        Counted.asked += 1
        if Counted.asked == Counted.ends_at:
            raise KeyboardInterrupt


@pytest.fixture
def copper():
    found = []
    for k in range(2):
        atoms = bulk("Cu", "fcc", cubic=True)
        atoms.rattle(0.05, seed=k)
        atoms.info["structure_id"] = f"cu/{k}"
        found.append(atoms)
    return found


@pytest.fixture(autouse=True)
def afresh():
    Counted.asked, Counted.ends_at = 0, None


@pytest.mark.parametrize("ensemble", ["nvt", "npt", "nve"])
def test_the_calculator_is_not_asked_again(copper, tmp_path, ensemble):
    def run(name, **options):
        files = {"trajectory_dir": tmp_path / name, "trajectory_interval": 7}
        return simulate(Counted, copper, ensemble=ensemble, temperature=500, steps=40, seed=3, trace_interval=5,
                        n_frames=8, checkpoint=tmp_path / f"{name}.runs.npz", **files, **options)  # fmt: skip

    whole = run("whole")
    total, Counted.asked = Counted.asked, 0
    Counted.ends_at = total * 3 // 4
    with pytest.raises(KeyboardInterrupt):
        run("cut")
    assert [record.structure_id for record in Runs.load(tmp_path / "cut.runs.npz")] == ["cu/0"]
    files = list((tmp_path / "cut.unfinished").iterdir())
    assert len(files) == 1
    files[0].write_bytes(files[0].read_bytes()[:-5])  # the last result is torn
    Counted.ends_at = None
    resumed = run("cut")
    assert Counted.asked <= total + 2, "the one at which it was interrupted, and the torn one"
    assert assess(resumed).equals(assess(whole))
    for a, b in zip(resumed, whole, strict=True):
        for name in ("positions", "velocities", "trace_energy", "trace_temperature", "frame_positions"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    for path in (tmp_path / "whole").iterdir():
        again, first = (read(tmp_path / name / path.name, index=":") for name in ("cut", "whole"))
        assert [a.info["step"] for a in again] == [a.info["step"] for a in first]
        np.testing.assert_array_equal(again[-1].get_forces(), first[-1].get_forces())
    assert not (tmp_path / "cut.unfinished").exists(), "what is stored in the records is not kept twice"


def test_results_of_other_frames_are_dropped(copper, tmp_path):
    path, places = tmp_path / "r/some.results", copper[0].positions.copy()
    for first, calls in ((0.0, 3), (0.0, 0), (0.01, 2)):
        Counted.asked = 0
        atoms = copper[0].copy()
        atoms.calc = RememberingCalculator(Counted(), path, len(atoms))
        for step in range(3):
            atoms.set_positions(places + (0.02 * step if step != 1 else 0.02 + first))
            free = atoms.copy()
            free.calc = EMT()
            np.testing.assert_array_equal(atoms.get_forces(), free.get_forces())
            assert atoms.get_potential_energy() == free.get_potential_energy()
        atoms.calc.close()
        assert Counted.asked == calls
    assert np.isfinite(np.fromfile(path, dtype=atoms.calc.kind)["energy"]).all()


def test_no_memory_without_a_checkpoint_or_of_too_much(copper, tmp_path):
    assert memory_file(None, copper[0], 100, "a") is None
    assert memory_file(tmp_path / "A.runs.npz", copper[0], 10**7, "a") is None
    one, two = (memory_file(tmp_path / "A.runs.npz", copper[0], 100, mark) for mark in "ab")
    assert one.parent == tmp_path / "A.unfinished"
    assert one != two
