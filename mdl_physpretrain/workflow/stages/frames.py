"""Probes of the trajectories on disk: radial distribution, diffusion."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pandas as pd

from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.probes.base import Simulated
from mdl_physpretrain.workflow.suite import SuiteMaker

__all__ = ["read_frames"]


def read_frames(
    config: Any, folder: Path, show: bool, *, suite: SuiteMaker, arm: str, seed: int, probe: str
) -> list[str]:
    """Write the tables of one probe of the main simulation of a potential."""
    judge = suite(config, folder)
    asked, tables = judge.probe(probe), {}
    starts = judge.starts()
    try:
        simulated = Simulated(starts, None, judge.frames_folder(arm, seed), judge.references())
        tables = asked.tables(simulated)
    except (ConfigError, StructureError) as error:
        if not judge.flags_failures:
            raise
        warnings.warn(f"{arm}, seed {seed}: no {probe}: {error}", stacklevel=2)
    for kind in asked.kinds(references=judge.has_references):
        tables.setdefault(kind, pd.DataFrame(columns=list(asked.files[kind])))
    return judge.write(asked, tables, (arm, seed, ""))
