"""Task of the probes of stored trajectories: radial distribution, diffusion."""

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
    config: Any, folder: Path, show: bool, *, suite_class: SuiteMaker, arm: str, seed: int, probe: str
) -> list[str]:
    """Write the tables of one probe of the main simulation of a potential."""
    suite = suite_class(config, folder)
    instance, tables = suite.probe(probe), {}
    starts = suite.starts()
    try:
        simulated = Simulated(starts, None, suite.frames_folder(arm, seed), suite.references())
        tables = instance.tables(simulated)
    except (ConfigError, StructureError) as error:
        if not suite.flags_failures:
            raise
        warnings.warn(f"{arm}, seed {seed}: no {probe}: {error}", stacklevel=2)
    for kind in instance.kinds(references=suite.has_references):
        tables.setdefault(kind, pd.DataFrame(columns=list(instance.files[kind])))
    return suite.write(instance, tables, (arm, seed, ""))
