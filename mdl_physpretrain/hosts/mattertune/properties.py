"""MatterTune's property list, its normalisation context and its training data, for our backbones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from ase import Atoms
from mattertune.data import MatterTuneDataModule
from mattertune.finetune import properties as props
from mattertune.normalization import NormalizationContext
from torch import Tensor

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.hosts.mattertune.labelling import clean

__all__ = ["PropertyNames", "context_of", "property_names", "training_references", "training_structures"]

N_ELEMENTS = 119  # of the host's composition vectors


@dataclass(frozen=True)
class PropertyNames:
    """Names under which the host wants energy, forces and stress; ``None``: not wanted."""

    energy: str | None = None
    forces: str | None = None
    stress: str | None = None

    def named(self, energy: Tensor, forces: Tensor | None, stress: Tensor | None) -> dict[str, Tensor]:
        """The wanted ones of three tensors under the host's names."""
        pairs = ((self.energy, energy), (self.forces, forces), (self.stress, stress))
        return {name: value for name, value in pairs if name is not None and value is not None}


def property_names(properties: Sequence[Any], backbone: str) -> PropertyNames:
    """Read ``model.properties``; raises ConfigError if there is one that ``backbone`` does not predict."""
    names: dict[str, str] = {}
    kinds = {
        props.EnergyPropertyConfig: "energy",
        props.ForcesPropertyConfig: "forces",
        props.StressesPropertyConfig: "stress",
    }
    for prop in properties:
        kind = kinds.get(type(prop))
        if kind is None:
            raise ConfigError(f"model.properties: {backbone} does not predict {prop.type!r} ({prop.name!r})")
        if getattr(prop, "conservative", True) is not True:
            raise ConfigError(
                f"model.properties: {kind} of {backbone} is a derivative of the energy: set 'conservative: true'"
            )
        names[kind] = prop.name
    return PropertyNames(**names)


def context_of(numbers: Tensor, structure: Tensor, n_structures: int) -> NormalizationContext:
    """The host's normalisation context of atoms with ``numbers`` (N,) in structures (N,)."""
    compositions = torch.zeros(n_structures, N_ELEMENTS, dtype=torch.long, device=numbers.device)
    compositions.index_put_((structure, numbers.long() - 1), torch.ones_like(structure), accumulate=True)
    return NormalizationContext(num_atoms=compositions.sum(1), compositions=compositions)


def training_references(trainer: Any) -> dict[str, float] | None:
    """Reference energies (eV) that the training data bring along, as ``eam_labelled`` does."""
    dataset: Any = trainer.datamodule.datasets["train"]
    while dataset is not None and not hasattr(dataset, "reference_energies"):
        dataset = getattr(dataset, "dataset", getattr(dataset, "base", None))
    return None if dataset is None else dataset.reference_energies


def training_structures(trainer: Any, limit: int | None = None) -> list[Atoms]:
    """Training structures of a host's run, without replay, evenly chosen up to ``limit``; raises ConfigError."""
    module = trainer.datamodule
    if not isinstance(module, MatterTuneDataModule):
        raise ConfigError("the training data are not those of a MatterTune data module")
    dataset: Any = module.datasets["train"]
    dataset = getattr(dataset, "base", dataset)
    step = 1 if limit is None else max(1, -(-len(dataset) // limit))
    return clean([dataset[k] for k in range(0, len(dataset), step)])
