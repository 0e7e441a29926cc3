"""Two atoms that fall onto each other: what a check is for must not be what it dies of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes

from mdl_physpretrain.report import write_report
from mdl_physpretrain.workflow.check import check
from mdl_physpretrain.workflow.check_suite import probe_names


class Collapse(Calculator):
    """Pulls the second atom to within ``distance`` of the first in one step of 1 fs from rest."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 - ASE's name

    def __init__(self, distance: float) -> None:
        super().__init__()
        self.distance = distance

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        forces, vector = np.zeros((len(atoms), 3)), atoms.positions[0] - atoms.positions[1]
        length = np.linalg.norm(vector)
        if length > 0.5:
            forces[1] = 2 * atoms.get_masses()[1] / units.fs**2 * vector * (1 - self.distance / length)
        self.results = {"energy": 0.0, "forces": forces}


@pytest.mark.parametrize(("distance", "pbc"), [(0.0, True), (1e-7, False), (1e-3, True)])
def test_a_check_of_a_collapse_is_finished(tmp_path: Path, distance: float, pbc: bool) -> None:
    atoms = Atoms("Cu3", [[0.0, 0, 0], [0, 0, 2], [3, 3, 3]], cell=[7, 7, 7] if pbc else None, pbc=pbc)
    atoms.set_masses([63.5, 1e-3, 63.5])  # light: it is to fall before force or temperature are an explosion
    atoms.info["structure_id"] = "cu3"
    done = check(
        {"collapse": lambda: Collapse(distance)}, [atoms], output=tmp_path / "check", ensemble="nve", temperature=0.0,
        timestep=1.0, steps=3, trajectory_interval=1, skip=probe_names(),
    )  # fmt: skip
    row = done.tables["physicality"].iloc[0]
    assert not row["physical"]
    assert row["min_distance"] == pytest.approx(distance, abs=1e-9)
    assert done.page is not None
    page = write_report(tmp_path / "check").read_text(encoding="utf-8")
    assert "could not be shown" not in page
    assert "Å apart" in page
