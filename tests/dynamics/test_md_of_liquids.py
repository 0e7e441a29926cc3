"""MD in which melting is no failure."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from ase.build import bulk
from ase.io import write
from typer.testing import CliRunner

from mdl_physpretrain.cli import app
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
    result = CliRunner().invoke(app, [*command, *seeds, "--variant", "liquid"])
    assert result.exit_code in (0, 1), result.output
    rows = pd.read_csv(tmp_path / "out" / "physicality.csv")
    assert (rows["lindemann_local"] > 0.25).all()
    assert not rows["lindemann_violation"].any()
    again = [str(tmp_path / "solid") if word == str(tmp_path / "out") else word for word in command]
    assert CliRunner().invoke(app, [*again, *seeds]).exit_code in (0, 1)
    solid = pd.read_csv(tmp_path / "solid" / "physicality.csv")
    assert solid["lindemann_violation"].all()
    assert list(solid["lindemann_local"]) == list(rows["lindemann_local"])  # the same trajectories


def test_a_folder_keeps_to_one_verdict(command: list[str], tmp_path: Path) -> None:
    assert CliRunner().invoke(app, [*command, "--seeds", "0,1", "--variant", "liquid"]).exit_code in (0, 1)
    assert json.loads((tmp_path / "out" / "check.json").read_text())["settings"]["lindemann_variant"] == "liquid"
    result = CliRunner().invoke(app, [*command, "--seeds", "0,1"])
    assert result.exit_code == 2
    assert "lindemann_variant liquid instead of literature" in " ".join(result.output.split())
