"""What a check asks one potential besides MD, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from ase import Atoms
from ase.io import read
from ase.io.extxyz import key_val_str_to_dict

from mdl_physpretrain.dynamics import simulate
from mdl_physpretrain.dynamics.traces import trajectory_name
from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.graphs.batch import build_batch
from mdl_physpretrain.potentials.base import EnergyModel, Prediction
from mdl_physpretrain.potentials.errors import ErrorSums, evaluate
from mdl_physpretrain.probes.compression import compression_curve, compression_flags
from mdl_physpretrain.probes.diatomic_flags import diatomic_flags
from mdl_physpretrain.probes.diatomics import diatomic_curve, element_pairs
from mdl_physpretrain.probes.rdf import rdf, rdf_error
from mdl_physpretrain.structures.labels import get_labels
from mdl_physpretrain.teacher.label import label

if TYPE_CHECKING:
    from mdl_physpretrain.probes.single_points import Potential

__all__ = ["compress", "curves_of_pairs", "errors", "labelled", "probe", "rdfs", "read_references", "reference_rdfs"]

DISTANCES = np.round(np.linspace(0.4, 6.0, 141), 4)  # Å
SETTLING = 0.2  # share of a trajectory that is not averaged over


def probe(potentials: Mapping[str, Potential], structures: Sequence[Atoms]) -> None:
    """Let every potential see every element once, before any long work.

    Raises
    ------
    ConfigError
        If a potential fails; the message names it and the structure.
    """
    first: dict[str, Atoms] = {}
    for atoms in sorted(structures, key=len):
        for symbol in set(atoms.symbols):
            first.setdefault(symbol, atoms)
    chosen = list({id(a): a for a in first.values()}.values())
    for name, potential in potentials.items():
        try:
            simulate(potential, chosen, ensemble="nve", steps=0)
        except (ConfigError, StructureError) as error:
            raise ConfigError(f"potential {name}: {error}") from error


def labelled(structures: Sequence[Atoms]) -> list[Atoms]:
    """Structures with an energy, forces or a stress."""
    return [a for a in structures if any(v is not None for v in vars(get_labels(a)).values())]


def errors(potential: Potential, structures: Sequence[Atoms]) -> dict[str, pd.DataFrame]:
    """``efs``: mean absolute errors of energy, forces and stress, one row (``split`` is ``test``).

    A calculator without stress has none to be wrong about.
    """
    found = (
        evaluate(potential, structures) if isinstance(potential, EnergyModel) else _calculated(potential, structures)
    )
    return {"efs": pd.DataFrame([{"split": "test", **found}])}


def _calculated(potential: Any, structures: Sequence[Atoms]) -> dict[str, Any]:
    given = {str(a.info["structure_id"]): a for a in structures}
    sums = ErrorSums()
    found = label(structures, potential)
    for atoms in found:
        own = get_labels(atoms)
        batch = build_batch(given[str(atoms.info["structure_id"])], 1.0, torch.float64)
        stress = batch.stress if own.stress is None else torch.as_tensor(own.stress)[None]
        batch.has_stress &= own.stress is not None
        sums.add(Prediction(torch.tensor([own.energy]).double(), torch.as_tensor(own.forces), stress), batch)
    return {**sums.means(), "n_structures": len(found)}


def curves_of_pairs(potential: Potential, elements: Sequence[str]) -> dict[str, pd.DataFrame]:
    """``diatomics``, the curves of all pairs of elements, and ``diatomic_flags``, what is wrong with them."""
    curves, flags = [], []
    for pair in element_pairs(elements):
        energy, force = diatomic_curve(potential, pair, DISTANCES)
        name = "-".join(pair)
        curves.append(pd.DataFrame({"pair": name, "r": DISTANCES, "energy": energy, "force": force}))
        flags.append({"pair": name, **diatomic_flags(pair, DISTANCES, energy, force)})
    return {"diatomics": pd.concat(curves, ignore_index=True), "diatomic_flags": pd.DataFrame(flags)}


def compress(potential: Potential, structures: Sequence[Atoms]) -> dict[str, pd.DataFrame]:
    """``compression``, the curves of structures, and ``compression_flags``, what is wrong with them."""
    curves, flags = [], []
    for atoms in structures:
        name = str(atoms.info["structure_id"])
        curve = compression_curve(potential, atoms)
        flags.append({"structure_id": name, **compression_flags(curve)})
        curve.insert(0, "structure_id", name)
        curves.append(curve)
    return {"compression": pd.concat(curves, ignore_index=True), "compression_flags": pd.DataFrame(flags)}


def read_references(files: Sequence[str], structures: Sequence[Atoms]) -> dict[str, list[Atoms]]:
    """Reference trajectories by structure.

    Parameters
    ----------
    files
        That ASE reads, or patterns. A frame belongs to the structure in its
        ``info["structure_id"]``, else to that of the file's stem.
    structures
        Those that are simulated.

    Raises
    ------
    StructureError
        If a file is missing or damaged.
    ConfigError
        If no frame belongs to any of the structures.
    """
    names = {str(a.info["structure_id"]) for a in structures}
    by_file = {trajectory_name(name): name for name in names}
    by_text = {_as_ase_reads(name): name for name in names}
    found: dict[str, list[Atoms]] = {}
    for pattern in files:
        paths = sorted(glob(pattern, recursive=True)) if has_magic(pattern) else [pattern]  # noqa: PTH207 - may be absolute
        if not paths:
            raise StructureError("no file matches", file=pattern, field="reference")
        for path in map(Path, paths):
            of_file = path.stem if path.stem in names else by_file.get(f"{path.stem}.extxyz", "")
            for atoms in _frames(path):
                own = str(atoms.info.get("structure_id", of_file))
                name = own if own in names else of_file or by_text.get(own, "")
                if name:
                    found.setdefault(name, []).append(atoms)
    if not found:
        raise ConfigError(
            f"no reference trajectory in {', '.join(files)} is of one of the structures: frames need "
            "info['structure_id'], or the file's name must be the id"
        )
    return found


def rdfs(
    folder: Path, structures: Sequence[Atoms], references: Mapping[str, Sequence[Atoms]], r_max: float
) -> dict[str, pd.DataFrame]:
    """``rdf`` of a simulation's trajectories (the mean over structures is ``"all"``), and ``rdf_errors``.

    Where there are reference trajectories, only structures with one count.
    """
    curves, wrong = [], []
    for atoms in structures:
        name = str(atoms.info["structure_id"])
        if references and name not in references:
            continue
        frames = _frames(folder / trajectory_name(name))
        own = _rdf(frames, r_max)
        curves.append(own.assign(structure_id=name))
        if references:
            error = rdf_error(own, _rdf(references[name], r_max))
            wrong.append(error.assign(structure_id=name, n_frames=len(frames)))
    found = {"rdf": _with_mean(curves)}
    return found | ({"rdf_errors": pd.concat(wrong, ignore_index=True)} if wrong else {})


def reference_rdfs(references: Mapping[str, Sequence[Atoms]], r_max: float) -> pd.DataFrame:
    """RDFs of the reference trajectories themselves, as arm ``"reference"``."""
    curves = [_rdf(frames, r_max).assign(structure_id=name) for name, frames in references.items()]
    return _with_mean(curves).assign(arm="reference", seed=0)


def _as_ase_reads(name: str) -> str:
    """What becomes of an id in ASE's extxyz, which takes ``007`` for a number."""
    try:
        return str(key_val_str_to_dict(f"structure_id={name}").get("structure_id", name))
    except (ValueError, KeyError, IndexError):
        return name


def _rdf(frames: Sequence[Atoms], r_max: float) -> pd.DataFrame:
    return rdf(frames, r_max=r_max, skip=int(SETTLING * len(frames)))


def _with_mean(curves: Sequence[pd.DataFrame]) -> pd.DataFrame:
    together = pd.concat(curves, ignore_index=True)
    mean = together.groupby(["pair", "r"], as_index=False, sort=False)["g"].mean().assign(structure_id="all")
    return pd.concat([together, mean], ignore_index=True).round(5)


def _frames(file: Path) -> list[Atoms]:
    if not file.is_file():
        raise StructureError("no such file", file=file)
    try:
        return read(file, ":")  # type: ignore[return-value]
    except Exception as error:  # every reader has its own way of failing on a damaged file
        raise StructureError(f"cannot be read: {error}", file=file) from error
