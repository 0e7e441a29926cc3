"""MatterTune's property list, its normalisation context and its training data, for our backbones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from ase import Atoms
from mattertune.data import MatterTuneDataModule
from mattertune.finetune import properties as props
from mattertune.normalization import NormalizationContext, PerAtomReferencingNormalizerConfig
from torch import Tensor

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.hosts.mattertune.checkpoint import is_identity
from mdl_physpretrain.hosts.mattertune.labelling import clean, require_labels

__all__ = [
    "PropertyNames",
    "add_references",
    "context_of",
    "normalizer_references",
    "predicted_names",
    "property_names",
    "require_training_labels",
    "training_references",
    "training_structures",
]

N_ELEMENTS = 119  # of the host's composition vectors
KINDS = {
    props.EnergyPropertyConfig: "energy",
    props.ForcesPropertyConfig: "forces",
    props.StressesPropertyConfig: "stress",
}


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
    for prop in properties:
        kind = KINDS.get(type(prop))
        if kind is None:
            raise ConfigError(f"model.properties: {backbone} does not predict {prop.type!r} ({prop.name!r})")
        if getattr(prop, "conservative", True) is not True:
            raise ConfigError(
                f"model.properties: {kind} of {backbone} is a derivative of the energy: set 'conservative: true'"
            )
    return predicted_names(properties)


def predicted_names(properties: Sequence[Any]) -> PropertyNames:
    """Names of energy, forces and stress among all that a backbone predicts."""
    return PropertyNames(**{KINDS[type(p)]: p.name for p in properties if type(p) in KINDS})


def context_of(numbers: Tensor, structure: Tensor, n_structures: int) -> NormalizationContext:
    """The host's normalisation context of atoms with ``numbers`` (N,) in structures (N,)."""
    compositions = torch.zeros(n_structures, N_ELEMENTS, dtype=torch.long, device=numbers.device)
    compositions.index_put_((structure, numbers.long() - 1), torch.ones_like(structure), accumulate=True)
    return NormalizationContext(num_atoms=compositions.sum(1), compositions=compositions)


def normalizer_references(hparams: Any) -> dict[int, float]:
    """Energies per element (eV, by atomic number) that the host adds to what the network predicts.

    References given as a file are replaced by their values: the checkpoint
    then holds plain values.

    Parameters
    ----------
    hparams
        The host's configuration of a model.

    Raises
    ------
    ConfigError
        If predictions are normalised in a way that forces, the derivatives of
        the energy, would not follow, or references cannot be read.
    """
    kinds = {p.name: p.type for p in hparams.properties}
    total: dict[int, float] = {}
    for name, normalizers in hparams.normalizers.items():
        for normalizer in normalizers:
            if hasattr(normalizer, "per_atom_references"):
                try:
                    references = normalizer._references_as_dict()
                except (OSError, ValueError, AttributeError) as error:
                    raise ConfigError(f"model.normalizers.{name}: per_atom_references: {error}") from error
                normalizer.per_atom_references = {int(z): float(value) for z, value in references.items()}
            if not normalizer.only_for_target or is_identity(normalizer.model_dump()):
                continue
            if kinds.get(name) != "energy" or not hasattr(normalizer, "per_atom_references"):
                raise ConfigError(
                    f"model.normalizers.{name}: {type(normalizer).__name__} would scale {name} alone, but forces and "
                    "stress are derivatives of the energy: use per_atom_references of the energy, or only_for_target: "
                    "false, which acts in the loss alone"
                )
            for z, value in normalizer.per_atom_references.items():
                total[z] = total.get(z, 0.0) + value
    total.pop(0, None)  # the host drops it
    return total


def add_references(module: Any, energies: Mapping[int, float]) -> None:
    """Add energies per element to a module's predictions, as the host's own normalizer of the energy.

    Parameters
    ----------
    module
        With any backbone; its configuration, and so its checkpoints, change, too.
    energies
        In eV, by atomic number.
    """
    options = module.hparams
    name = next(p.name for p in options.properties if isinstance(p, props.EnergyPropertyConfig))
    normalizers = list(options.normalizers.get(name, ()))
    old = next((n for n in normalizers if hasattr(n, "per_atom_references") and n.only_for_target), None)
    before = {} if old is None else {int(z): float(e) for z, e in old._references_as_dict().items()}
    total = {z: before.get(z, 0.0) + energies.get(z, 0.0) for z in sorted({*before, *energies} - {0})}
    new = PerAtomReferencingNormalizerConfig(per_atom_references=total)
    kept = [n for n in normalizers if n is not old]
    options.normalizers = {**options.normalizers, name: [new, *kept]}
    module.create_normalizers()
    module.normalizers.to(module.device)


def require_training_labels(trainer: Any, names: PropertyNames) -> None:
    """Look at the labels of all structures before training begins.

    Raises
    ------
    StructureError
        Naming the first structure that lacks one that a loss asks for.
    """
    module = trainer.datamodule
    if not isinstance(module, MatterTuneDataModule):
        return
    for part in ("train", "validation"):
        whole: Any = module.datasets.get(part)
        for data in (getattr(whole, "base", whole), getattr(whole, "replay", ())):
            for k in range(len(data) if hasattr(data, "__len__") else 0):
                require_labels(data[k], forces=names.forces is not None, stress=names.stress is not None)


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
