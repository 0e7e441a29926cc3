"""Construction of the network to train: new by name, or from a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeGuard

import torch
from ase import Atoms
from ase.data import atomic_numbers

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.graphs.batch import build_batch, collate
from mdl_physpretrain.graphs.bonds import core_ends, nearest_distances
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.checkpoint import load_model
from mdl_physpretrain.potentials.registry import construct_model
from mdl_physpretrain.potentials.sum import Sum
from mdl_physpretrain.potentials.zbl import ZBL
from mdl_physpretrain.structures.reference_energies import references_if_labelled
from mdl_physpretrain.training.references import shift_reference_energies

__all__ = ["copied_network", "is_name", "new_network"]


def is_name(model: Any) -> TypeGuard[str]:
    """Whether this names an architecture; otherwise it is a model or a checkpoint."""
    return isinstance(model, str) and not model.endswith((".pt", ".ckpt"))


def new_network(
    name: str,
    structures: Sequence[Atoms],
    *,
    model_args: dict[str, Any] | None = None,
    core: str | None = None,
    eam: str | Path | EnergyModel | None = None,
    freeze_eam: bool = False,
    references: dict[str, float] | None = None,
    seed: int = 0,
) -> EnergyModel:
    """A freshly initialised model with what it needs to know of the data.

    Reference energies per element and the typical number of neighbours are
    taken from ``structures`` unless ``model_args`` gives the latter.

    Parameters
    ----------
    name
        Registered model, e.g. ``"cgcnn"``.
    structures
        Labelled training structures.
    model_args
        Constructor arguments of the model.
    core
        ``"zbl"`` adds a fixed ZBL repulsion, ``E = E_MLIP + E_ZBL``, which
        ends before the closest distance in the data.
    eam
        A fitted EAM (or its checkpoint) added to the network, ``E = E_MLIP +
        E_EAM`` (the direct combination of the paper's Appendix B). It is
        copied.
    freeze_eam
        Keep the EAM's parameters; otherwise they are trained with the network's.
    references
        Reference energy per element in eV, from ``structures`` by default.
        Give those of the DFT data when ``structures`` are compressed ones.
    seed
        Of the initial weights.

    Raises
    ------
    ConfigError
        If the model or one of its arguments is unknown.
    """
    if core not in {None, "none", "zbl"}:
        raise ConfigError(f"core must be 'none' or 'zbl', not {core!r}")
    if freeze_eam and eam is None:
        raise ConfigError("freeze_eam needs an eam to keep as it is")
    args = dict(model_args or {})
    model = _construct(name, args, seed)
    from_data = {key: value for key, value in model.data_arguments(structures).items() if key not in args}
    if from_data:
        model = _construct(name, {**args, **from_data}, seed)
    step = max(1, len(structures) // 64)
    sample = collate([build_batch(a, model.cutoff, model.dtype) for a in structures[::step]])
    model.initialise(sample, torch.Generator().manual_seed(seed))
    if "reference_energies" in model.state_dict():
        for symbol, energy in (references or references_if_labelled(structures)).items():
            model.reference_energies[atomic_numbers[symbol]] = energy
    parts = [model]
    if eam is not None:
        added = load_model(eam, expect="eam") if isinstance(eam, str | Path) else deepcopy(eam)
        parts.append(added.to(model.dtype))
    if core == "zbl":
        parts.append(_core(model, structures))
    if len(parts) == 1:
        return model
    total = Sum(parts, frozen=[1] if eam is not None and freeze_eam else [])
    if eam is not None:
        shift_reference_energies(total, structures)  # the EAM has atomic energies of its own
        total.train()
    return total


def copied_network(model: str | Path | EnergyModel, structures: Sequence[Atoms], core: str | None) -> EnergyModel:
    """A copy of a model, or of the one in a checkpoint, in training mode; ``core="zbl"`` adds one if it has none."""
    start = deepcopy(model) if isinstance(model, EnergyModel) else load_model(model)
    if core == "zbl" and not any(part.role == "core" for part in start.leaves()):
        parts: list[Any] = list(start.parts) if isinstance(start, Sum) else [start]
        metadata, frozen = start.metadata, start.hparams.get("frozen", []) if isinstance(start, Sum) else []
        start = Sum([*parts, _core(start, structures)], frozen=frozen)
        start.metadata = metadata
    return start.train()


def _construct(name: str, args: dict[str, Any], seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = construct_model(name, args)
        except TypeError as error:
            raise ConfigError(f"model {name!r}: {error}") from error
    if not all(weight.numel() for weight in model.parameters()):
        raise ConfigError(f"model {name!r}: a layer is empty with the arguments {args}")
    return model


def _core(model: EnergyModel, structures: Sequence[Atoms]) -> ZBL:
    return ZBL(ends=core_ends(nearest_distances(structures, min(model.cutoff, 6.0))))
