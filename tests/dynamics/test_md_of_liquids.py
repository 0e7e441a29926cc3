"""MD in which melting is no failure."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from ase.build import bulk
from ase.io import write
from typer.testing import CliRunner

from mdl_physpretrain.cli import app
from mdl_physpretrain.dynamics.batched_engine import BatchedRun
from mdl_physpretrain.potentials import EAM


@pytest.fixture
def command(eam: EAM, tmp_path: Path) -> list[str]:
    start = bulk("MgO", "rocksalt", a=4.9, cubic=True)
    start.rattle(0.1, seed=2)
    write(tmp_path / "start.extxyz", start)
    eam.save(tmp_path / "eam.pt")
    words = f"md {tmp_path / 'eam.pt'} {tmp_path / 'start.extxyz'} -o {tmp_path / 'out'} -T 9000 --timestep 2"
    return [*words.split(), "--steps", "600"]


@pytest.mark.parametrize("seeds", [[], ["--seeds", "0,1"]])
def test_melting_is_a_failure_of_solids_only(command: list[str], seeds: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert CliRunner().invoke(app, [*command, *seeds]).exit_code in (0, 1)
    solid = pd.read_csv(out / "physicality.csv")
    assert (solid["lindemann_local"] > 0.25).all()
    assert solid["lindemann_violation"].all()
    result = CliRunner().invoke(app, [*command, *seeds, "--variant", "liquid"])
    assert result.exit_code in (0, 1), result.output
    liquid = pd.read_csv(out / "physicality.csv")
    assert not liquid["lindemann_violation"].any()
    assert list(solid["lindemann_local"]) == list(liquid["lindemann_local"])
    if seeds:
        assert "melting not judged" in " ".join(result.output.split())
        assert set(liquid["lindemann_variant"]) == {"liquid"}


def test_finished_md_is_judged_anew_and_not_simulated(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert CliRunner().invoke(app, [*command, "--variant", "liquid"]).exit_code == 0

    def simulated(*_: object, **__: object) -> None:
        raise AssertionError("simulated again")

    monkeypatch.setattr(BatchedRun, "__init__", simulated)
    assert CliRunner().invoke(app, command).exit_code == 0
    solid = pd.read_csv(tmp_path / "out" / "physicality.csv")
    assert solid["lindemann_violation"].all()
    assert solid["first_unphysical_step"].iloc[0] < 600  # dated while it ran as a liquid
