"""Checkpoints of all kinds: detect the kind, read, write as another kind.

Kinds: ``native`` (this package), ``matdeeplearn`` (``.pt`` and YAML),
``mattertune`` (Lightning ``.ckpt``), ``mattersim`` (``.pth``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from ase import Atoms

from mdl_physpretrain.errors import CheckpointError, ConfigError
from mdl_physpretrain.graphs.batch import build_batch
from mdl_physpretrain.hosts.matdeeplearn.checkpoint import read_matdeeplearn, reference_table, write_matdeeplearn
from mdl_physpretrain.hosts.mattertune.checkpoint import read_mattertune, write_mattertune
from mdl_physpretrain.potentials.base import EnergyModel, predict
from mdl_physpretrain.potentials.checkpoint import load_model, refuse_infinite_weights, save_model
from mdl_physpretrain.potentials.checkpoint_file import is_native
from mdl_physpretrain.potentials.m3gnet.model import M3GNet
from mdl_physpretrain.potentials.safe_load import load_foreign
from mdl_physpretrain.potentials.zbl import ZBL

__all__ = ["CONFIG_SUFFIXES", "KINDS", "Conversion", "convert", "detect", "differences", "read_checkpoint_of"]

KINDS = ("native", "matdeeplearn", "mattertune", "mattersim")
CONFIG_SUFFIXES = (".yml", ".yaml")


@dataclass
class Conversion:
    """What :func:`convert` found and wrote.

    Attributes
    ----------
    source_kind, target_kind
        See :data:`KINDS`.
    model
        As it was read.
    files
        What was written.
    config
        The YAML file the source was read with, if any.
    notes
        What to mind about the result.
    """

    source_kind: str
    target_kind: str
    model: EnergyModel
    files: list[Path]
    config: Path | None = None
    notes: list[str] = field(default_factory=list)


def detect(path: str | Path) -> str:
    """The kind of a checkpoint, from what is in it.

    Raises
    ------
    CheckpointError
        If the file is unsafe, damaged, or none of the known kinds.
    """
    content = load_foreign(path)
    if isinstance(content, dict):
        if is_native(content):
            return "native"
        if {"model_name", "model", "model_args"} <= content.keys():
            return "mattersim"
        if "pytorch-lightning_version" in content:
            settings = content.get("hyper_parameters")
            if isinstance(settings, dict) and "properties" in settings:
                return "mattertune"
            raise CheckpointError(f"{path} is a Lightning checkpoint, but not one of MatterTune")
    entries = content[0] if isinstance(content, list) and content else content
    state = entries.get("state_dict", entries) if isinstance(entries, dict) else None
    if isinstance(state, dict) and state and all(isinstance(v, torch.Tensor) for v in state.values()):
        return "matdeeplearn"
    raise CheckpointError(f"{path} is a torch file, but none of a model: {', '.join(KINDS)}")


def read_checkpoint_of(
    path: str | Path,
    kind: str | None = None,
    *,
    config: str | Path | Mapping[str, Any] | None = None,
    elements: Sequence[str] | None = None,
    member: int | None = None,
) -> EnergyModel:
    """A native model from a checkpoint of any kind.

    Parameters
    ----------
    path
        The checkpoint.
    kind
        One of :data:`KINDS`; by default found out.
    config, elements, member
        For MatDeepLearn, see
        :func:`~mdl_physpretrain.hosts.matdeeplearn.checkpoint.read_matdeeplearn`.

    Raises
    ------
    CheckpointError, ConfigError
        If it cannot be read or is of another kind.
    """
    path = Path(path)
    kind = _known_kind(kind or detect(path))
    if kind == "native":
        return load_model(path)
    if kind == "mattertune":
        model: EnergyModel = read_mattertune(path)
    elif kind == "mattersim":
        model = M3GNet.from_mattersim(path)
    elif config is None:
        raise ConfigError(f"{path} is a MatDeepLearn checkpoint: give the YAML file of its run (--config)")
    else:
        model = read_matdeeplearn(path, config, elements=elements, member=member)
    refuse_infinite_weights(model, path)
    return model


def convert(
    source: str | Path,
    target: str | Path,
    *,
    source_kind: str | None = None,
    target_kind: str | None = None,
    config: str | Path | None = None,
    elements: Sequence[str] | None = None,
    member: int | None = None,
    references: str = "refuse",
    drop_core: bool = False,
    force: bool = False,
) -> Conversion:
    """Read a checkpoint of one kind and write it as another.

    Parameters
    ----------
    source, target
        Files.
    source_kind, target_kind
        See :data:`KINDS`. By default the source's is found out; a foreign
        source becomes ``native``; a native one becomes ``mattertune`` where the
        target is called ``.ckpt``, else ``mattersim`` (M3GNet) or
        ``matdeeplearn``.
    config
        MatDeepLearn's YAML file; read with a foreign source (by default the
        only one beside it), written with a foreign target.
    elements, member
        See :func:`read_checkpoint_of`.
    references, drop_core
        See :func:`~mdl_physpretrain.hosts.matdeeplearn.checkpoint.write_matdeeplearn`.
    force
        Overwrite.

    Raises
    ------
    CheckpointError, ConfigError
        If it cannot be read, or the target's program cannot have this model.
    """
    source, target = Path(source), Path(target)
    source_kind = source_kind or detect(source)
    read_with = None
    if source_kind == "matdeeplearn":
        read_with = Path(config) if config is not None else config_beside(source)
    model = read_checkpoint_of(source, source_kind, config=read_with, elements=elements, member=member)
    target_kind = _known_kind(target_kind or _default_target(source_kind, model, target))
    written_config = target.with_suffix(".yml")
    if target_kind == "matdeeplearn" and source_kind != "matdeeplearn" and config is not None:
        written_config = Path(config)
    planned = [target] + ([written_config] if target_kind == "matdeeplearn" else [])
    for path in planned:
        if path.resolve() in {p.resolve() for p in (source, read_with) if p is not None}:
            raise ConfigError(f"{path} would overwrite what is read")
        if path.exists() and not force:
            raise ConfigError(f"{path} exists; give another name, or --force")
    notes = list(model.metadata.get("converted", {}).get("notes", []))
    if target_kind == "native":
        save_model(model, target)
    elif target_kind == "mattertune":
        write_mattertune(model, target)
    elif target_kind == "mattersim":
        if model.registry_name != "m3gnet":
            raise CheckpointError(f"MatterSim cannot hold a {model.registry_name!r} model, only 'm3gnet'")
        model.to_mattersim(target)  # type: ignore[operator]
    else:
        write_matdeeplearn(model, target, config=written_config, references=references, drop_core=drop_core)
        if drop_core and any(isinstance(part, ZBL) for part in model.modules()):
            notes.append("the ZBL core is left out: another potential at short distances")
        table = reference_table(model)
        if references == "beside" and table is not None and table.any():
            notes.append("MatDeepLearn's energies leave out the reference energies; the YAML lists them")
    return Conversion(source_kind, target_kind, model, planned, config=read_with, notes=notes)


def _known_kind(kind: str) -> str:
    if kind not in KINDS:
        raise ConfigError(f"kind of checkpoint must be one of {', '.join(KINDS)}, not {kind!r}")
    return kind


def _default_target(source_kind: str, model: EnergyModel, target: Path) -> str:
    if source_kind != "native":
        return "native"
    if target.suffix == ".ckpt":
        return "mattertune"
    return "mattersim" if model.registry_name == "m3gnet" else "matdeeplearn"


def differences(model: EnergyModel, other: EnergyModel, structures: Sequence[Atoms]) -> dict[str, float]:
    """Largest differences between two models over structures.

    Returns
    -------
    dict
        ``energy`` (eV per structure), ``forces`` (eV/Å), ``stress`` (eV/Å³),
        ``longest_list`` (neighbours of an atom within the cutoff).
    """
    largest = {"energy": 0.0, "forces": 0.0, "stress": 0.0, "longest_list": 0.0}
    for atoms in structures:
        batch = build_batch(atoms, max(model.cutoff, other.cutoff), dtype=torch.float64)
        ours = predict(model, batch.to(dtype=model.dtype))
        two = predict(other, batch.to(dtype=other.dtype))
        for name in ("energy", "forces", "stress"):
            gap = (getattr(ours, name).double() - getattr(two, name).double()).abs().max()
            largest[name] = max(largest[name], float(gap))
        if batch.edge_index.shape[1]:
            longest = float(torch.bincount(batch.edge_index[0]).max())
            largest["longest_list"] = max(largest["longest_list"], longest)
    return largest


def config_beside(path: Path) -> Path:
    """The YAML file of a checkpoint: of the same name, or the only one in its folder.

    Raises
    ------
    ConfigError
        If there is none, or there are several.
    """
    for suffix in CONFIG_SUFFIXES:
        if path.with_suffix(suffix).is_file():
            return path.with_suffix(suffix)
    configs = sorted(p for p in path.parent.iterdir() if p.suffix in CONFIG_SUFFIXES)
    if len(configs) != 1:
        count = f"{len(configs)} YAML files" if configs else "no YAML file"
        raise ConfigError(
            f"{path} is a MatDeepLearn checkpoint with {count} beside it: name that of its run (--config)"
        )
    return configs[0]
