"""Task that joins the tables of all seeds and potentials."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pandas as pd

from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.files import write_atomic
from mdl_physpretrain.probes.base import Probe
from mdl_physpretrain.probes.registry import probe_classes
from mdl_physpretrain.probes.tables import joined, read_table
from mdl_physpretrain.statistics.reference import REFERENCE_POTENTIAL, beside_reference
from mdl_physpretrain.workflow.records import remove_written
from mdl_physpretrain.workflow.suite import Cell, Suite, SuiteMaker

__all__ = ["collect", "collected_kinds", "joint_table"]


def collect(
    config: Any, folder: Path, show: bool, *, suite_class: SuiteMaker, applies_to: Collection[str]
) -> list[str]:
    """``efs.csv``, ``physicality.csv`` ... of all seeds and arms; those of a run with other options are removed."""
    suite = suite_class(config, folder)
    kinds = collected_kinds(suite, applies_to)
    for name, cls in probe_classes().items():
        if cls.applies_to in applies_to:
            for kind in set(cls.files) - set(kinds):
                remove_written(folder, f"{kind}.csv")
            for kind in (kind for kind in cls.files if kind in kinds):
                probe = suite.probe(name)
                write_atomic(folder / f"{kind}.csv", joined(joint_table(suite, probe, kind, suite.cells(probe))))
    return [f"{kind}.csv" for kind in kinds]


def collected_kinds(suite: Suite, applies_to: Collection[str]) -> list[str]:
    """Kinds of tables of the suite's probes."""
    probes = [suite.probe(name) for name, cls in probe_classes().items() if cls.applies_to in applies_to]
    return [kind for p in probes if suite.includes(p) for kind in p.kinds(references=suite.has_references)]


def joint_table(
    suite: Suite, probe: Probe, kind: str, cells: Collection[Cell], *, written: Collection[str] | None = None
) -> list[pd.DataFrame]:
    """Tables of a kind of several potentials, with what says whose they are.

    Verdicts on trajectories have the reference potential's beside them, where it was simulated (its table is among
    ``written``, if that is given), and its own come last.
    """
    tables = []
    references: dict[tuple[int, str], pd.DataFrame] = {}
    for cell in cells:
        table = read_table(suite.folder / suite.table_file(probe, kind, cell), texts=probe.texts)
        arm, seed, label = cell
        if "arm" not in table:
            table = table.assign(seed=seed, arm=arm)
        if kind == "physicality":
            conditions = suite.conditions(label)
            noise = suite.reference_seed(seed)
            file = "" if noise is None else suite.table_file(probe, kind, (REFERENCE_POTENTIAL, noise, label))
            if noise is not None and (suite.folder / file).is_file() and (written is None or file in written):
                its_own = read_table(suite.folder / file, texts=probe.texts)
                table = beside_reference(table, its_own)
                references[noise, label] = its_own.assign(seed=noise, arm=REFERENCE_POTENTIAL, **conditions)
            table = table.assign(**conditions)
        tables.append(table)
    tables += references.values()
    if suite.has_references:
        try:
            reference = probe.reference_tables(suite.references())
            tables += [reference[kind]] if kind in reference else []
        except (ConfigError, StructureError) as error:
            warnings.warn(f"reference trajectories: no {probe.name}: {error}", stacklevel=2)
    return tables
