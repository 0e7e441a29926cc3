"""What the stages after the training will need, looked at before it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from ase import Atoms

from mdl_physpretrain.dynamics.simulate import prepared_structures
from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.workflow.data import read_part
from mdl_physpretrain.workflow.run_suite import RunSuite

if TYPE_CHECKING:
    from mdl_physpretrain.workflow.config import RunConfig

__all__ = ["check_prepared"]


def check_prepared(config: RunConfig, folder: Path, stages: Collection[str]) -> None:
    """Compare the prepared data with what errors and MD will ask of the networks.

    Parameters
    ----------
    config
        Of the run.
    folder
        Of the run, in which the data are prepared.
    stages
        That are done.

    Raises
    ------
    ConfigError, StructureError
        If a structure that is predicted has an element that no training
        structure has; if MD has nothing to start from, or cannot start from a
        structure; if a reference trajectory is of none of them.
    """
    known = {s for atoms in read_part(folder, "train") for s in atoms.symbols}
    if not known:
        return
    if "evaluate" in stages:
        for part in ("val", "test"):
            _check_elements(read_part(folder, part), known, f"data/{part}.extxyz")
    if "md" in stages:
        judge = RunSuite(config, folder)
        for label, md in config.md.conditions().items():
            starts = judge.starts(label)
            _check_elements(starts, known, "md.source")
            prepared_structures(starts, md.settings())
        if judge.has_references:
            judge.references()


def _check_elements(structures: Collection[Atoms], known: set[str], where: str) -> None:
    for atoms in structures:
        if strange := sorted(set(atoms.symbols) - known):
            raise StructureError(
                f"no training structure has {', '.join(strange)} (they have {', '.join(sorted(known))})",
                file=where,
                structure=atoms.info.get("structure_id"),
                field="numbers",
            )
