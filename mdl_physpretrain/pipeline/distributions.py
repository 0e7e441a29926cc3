"""Radial distribution functions of a run's trajectories, and their error against reference trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase import Atoms

from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.pipeline.md_options import MD

if TYPE_CHECKING:
    import pandas as pd

    from mdl_physpretrain.pipeline.config import RunConfig

__all__ = ["distributions", "reference_rdf", "reference_trajectories"]

SETTLING = 0.2  # share of a trajectory that is not averaged over


def distributions(trajectories: Path, md: MD) -> dict[str, Any]:
    """Tables ``rdf`` and, with reference trajectories, ``rdf_errors`` of one arm.

    With reference trajectories only the structures they hold count.

    Parameters
    ----------
    trajectories
        Folder of ``<structure_id>.extxyz``.
    md
        Options of the simulation that wrote them.

    Raises
    ------
    StructureError
        If a trajectory cannot be read.
    """
    import pandas as pd

    from mdl_physpretrain.physicality.rdf import rdf_error

    reference = reference_trajectories(md.reference) if md.reference is not None else {}
    curves, errors = [], []
    for file in sorted(trajectories.glob("*.extxyz")):
        frames = _frames(file)
        name = str(frames[0].info.get("structure_id", file.stem))
        if reference and name not in reference:
            continue
        own = _rdf(frames, md)
        curves.append(own.assign(structure_id=name))
        if reference:
            error = rdf_error(own, _rdf(reference[name], md))
            errors.append(error.assign(structure_id=name, n_frames=len(frames)))
    if not curves:
        raise ConfigError("md.reference: no trajectory is of one of the simulated structures (structure_id, file name)")
    found = {"rdf": pd.concat([*curves, _mean(curves)], ignore_index=True).round(5)}
    if errors:
        found["rdf_errors"] = pd.concat(errors, ignore_index=True)
    return found


def reference_rdf(config: RunConfig, folder: Path) -> pd.DataFrame:
    """The reference's own RDFs of the simulated structures, as arm ``"reference"``."""
    import pandas as pd

    from mdl_physpretrain.pipeline.judging import md_structures

    md = config.md
    assert md.reference is not None
    known = reference_trajectories(md.reference)
    names = [str(a.info["structure_id"]) for a in md_structures(config, folder)]
    curves = [_rdf(known[name], md).assign(structure_id=name) for name in names if name in known]
    table = pd.concat([*curves, _mean(curves)], ignore_index=True).round(5)
    return table.assign(arm="reference", seed=0)


def reference_trajectories(sources: Sequence[str]) -> dict[str, list[Atoms]]:
    """Frames by structure id (``info["structure_id"]``, else the file's name)."""
    from mdl_physpretrain.pipeline.plan import external_inputs

    found: dict[str, list[Atoms]] = {}
    for file in map(Path, external_inputs(sources)[0]):
        for atoms in _frames(file):
            found.setdefault(str(atoms.info.get("structure_id", file.stem)), []).append(atoms)
    return found


def _rdf(frames: Sequence[Atoms], md: MD) -> pd.DataFrame:
    from mdl_physpretrain.physicality.rdf import rdf

    return rdf(frames, r_max=md.r_max, skip=int(SETTLING * len(frames)))


def _mean(curves: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Mean over structures, each with the same weight."""
    import pandas as pd

    together = pd.concat(curves, ignore_index=True)
    return together.groupby(["pair", "r"], as_index=False, sort=True)["g"].mean().assign(structure_id="all")


def _frames(file: Path) -> list[Atoms]:
    from ase.io import read

    if not file.is_file():
        raise StructureError("no such file", file=str(file), field="md.reference")
    try:
        frames: Any = read(file, ":")
        return frames
    except Exception as error:  # every reader has its own way of failing on a damaged file
        raise StructureError(f"cannot be read: {error}", file=str(file)) from error
