"""Reference trajectories (of DFT MD, say) and the structures that they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from glob import glob, has_magic
from pathlib import Path

from ase import Atoms
from ase.io.extxyz import key_val_str_to_dict

from mdl_physpretrain.dynamics.traces import trajectory_name
from mdl_physpretrain.dynamics.trajectories import trajectory_frames
from mdl_physpretrain.errors import ConfigError, StructureError

__all__ = ["read_references"]


def read_references(files: Sequence[str], structures: Sequence[Atoms]) -> dict[str, list[Atoms]]:
    """Reference trajectories by structure, from files or patterns that ASE reads.

    A frame belongs to the structure in its ``info["structure_id"]``, else to that of the file's stem. Raises
    StructureError for a damaged file, ConfigError if no frame belongs to any of the structures.
    """
    names = {str(a.info["structure_id"]) for a in structures}
    by_file = {trajectory_name(name): name for name in names}
    by_text = {_as_ase_reads(name): name for name in names}
    references: dict[str, list[Atoms]] = {}
    for pattern in files:
        paths = sorted(glob(pattern, recursive=True)) if has_magic(pattern) else [pattern]  # noqa: PTH207 - may be absolute
        if not paths:
            raise StructureError("no file matches", file=pattern, field="reference")
        for path in map(Path, paths):
            of_file = path.stem if path.stem in names else by_file.get(f"{path.stem}.extxyz", "")
            for atoms in trajectory_frames(path):
                identifier = str(atoms.info.get("structure_id", of_file))
                name = identifier if identifier in names else of_file or by_text.get(identifier, "")
                if name:
                    references.setdefault(name, []).append(atoms)
    if not references:
        raise ConfigError(
            f"no reference trajectory in {', '.join(files)} is of one of the structures: frames need "
            "info['structure_id'], or the file's name must be the id"
        )
    return references


def _as_ase_reads(name: str) -> str:
    """What becomes of an id in ASE's extxyz, which takes ``007`` for a number."""
    try:
        return str(key_val_str_to_dict(f"structure_id={name}").get("structure_id", name))
    except (ValueError, KeyError, IndexError):
        return name
