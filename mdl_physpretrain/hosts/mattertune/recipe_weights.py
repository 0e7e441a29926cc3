"""Recipe ``physics_pretrain``: start weights from a pretraining on a teacher's labels."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

import torch
from ase.data import atomic_numbers
from lightning.pytorch import Callback, LightningModule, Trainer
from mattertune.finetune.properties import EnergyPropertyConfig
from mattertune.recipes import RecipeConfigBase, recipe_registry
from torch import Tensor

from mdl_physpretrain.errors import CheckpointError, ConfigError
from mdl_physpretrain.hosts.convert import read_checkpoint_of
from mdl_physpretrain.hosts.mattertune.backbone_native import NativeBackbone
from mdl_physpretrain.hosts.mattertune.checkpoint import references_of
from mdl_physpretrain.hosts.mattertune.loading import ModuleCalculator
from mdl_physpretrain.hosts.mattertune.properties import (
    add_references,
    normalizer_references,
    predicted_names,
    require_training_labels,
    training_structures,
)
from mdl_physpretrain.hosts.mattertune.weight_names import named_as_in_host
from mdl_physpretrain.potentials.safe_load import load_foreign
from mdl_physpretrain.recipe import Finetune
from mdl_physpretrain.structures import get_labels, reference_energies, set_labels
from mdl_physpretrain.structures.labels import Labels

__all__ = ["PhysicsPretrainCallback", "PhysicsPretrainRecipeConfig", "load_pretrained"]

log = logging.getLogger(__name__)

NOT_WEIGHTS = ("normalizers.", "train_metrics.", "val_metrics.", "test_metrics.")
SAMPLE = 256  # structures that the energies per element are fitted to


@recipe_registry.register
class PhysicsPretrainRecipeConfig(RecipeConfigBase):
    """Load pretrained weights before training starts; weights that do not fit are refused."""

    name: Literal["physics_pretrain"] = "physics_pretrain"

    checkpoint: str | None = None
    """MatterTune's ``.ckpt`` or, for our networks, also a native ``.pt`` or MatterSim's ``.pth``.

    May be left out in the ``finetune`` part of a job that has a ``pretrain``
    part: the best state of that is taken."""

    skip: Sequence[str] = []
    """Patterns of weights that keep their present values, e.g. ``output_heads.*``."""

    shift_energies: bool = Finetune().shift_energies
    """Fit energies per element to the training data; forces stay as they are.

    Of our networks they are part of the weights; other backbones get them as the host's
    ``per_atom_references`` of the energy, which its checkpoints hold, too."""

    def create_lightning_callback(self) -> PhysicsPretrainCallback:
        if self.checkpoint is None:
            raise ConfigError("recipes.physics_pretrain.checkpoint: give the weights to begin with")
        return PhysicsPretrainCallback(self)


class PhysicsPretrainCallback(Callback):
    """Does what :class:`PhysicsPretrainRecipeConfig` says, in ``setup``."""

    def __init__(self, config: PhysicsPretrainRecipeConfig) -> None:
        self.config = config

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        assert self.config.checkpoint is not None
        if not isinstance(pl_module, NativeBackbone):  # which looks itself
            require_training_labels(trainer, predicted_names(pl_module.hparams.properties))
        count = load_pretrained(pl_module, self.config.checkpoint, skip=self.config.skip)
        log.info("%d pretrained tensors from %s", count, self.config.checkpoint)
        if self.config.shift_energies:
            _shift(pl_module, trainer)


def load_pretrained(module: Any, path: str | Path, *, skip: Sequence[str] = ()) -> int:
    """Give a MatterTune module the weights of a checkpoint, but for names that match ``skip``; return their number.

    Raises CheckpointError if a name or shape does not fit; nothing has been changed then.
    """
    if isinstance(module, NativeBackbone) and not skip:
        module.adopt(read_checkpoint_of(path))
        return len(module.backbone.state_dict())
    weights = _weights(module, path)
    present = {k: v for k, v in module.state_dict().items() if _is_weight(k, skip)}
    weights = {k: v for k, v in weights.items() if _is_weight(k, skip)}
    _check(present, weights, path)
    module.load_state_dict(weights, strict=False)
    if isinstance(module, NativeBackbone):
        module.hparams.initialise = False
    else:
        _take_over_references(module, path)
    return len(weights)


def _take_over_references(module: Any, path: str | Path) -> None:
    """Let a module predict what the checkpoint's did, whose energies per element were the host's normalizers'."""
    content = load_foreign(path)
    try:
        saved = references_of(content.get("hyper_parameters") or {}, content["state_dict"], path)
        present = normalizer_references(module.hparams)
    except (CheckpointError, ConfigError):  # scaled in some other way, which is the user's business
        return
    gaps = {z: float(e) - present.get(z, 0.0) for z, e in enumerate(saved) if z}
    if any(abs(gap) > 1e-9 for gap in gaps.values()):
        add_references(module, gaps)


def _weights(module: Any, path: str | Path) -> dict[str, Tensor]:
    if isinstance(module, NativeBackbone):
        network = named_as_in_host(read_checkpoint_of(path))
        return {f"backbone.{k}": v for k, v in module.without_normalizers(network.state_dict()).items()}
    content = load_foreign(path)
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} is not a Lightning checkpoint (no state_dict)")
    return state


def _is_weight(key: str, skip: Sequence[str]) -> bool:
    return not key.startswith(NOT_WEIGHTS) and not any(fnmatch(key, pattern) for pattern in skip)


def _check(present: Mapping[str, Tensor], saved: Mapping[str, Tensor], path: str | Path) -> None:
    problems = []
    for keys, fault in ((present.keys() - saved.keys(), "missing"), (saved.keys() - present.keys(), "unknown")):
        if keys:
            where = " to the backbone" if fault == "unknown" else ""
            problems.append(
                f"{len(keys)} {fault}{where} ({', '.join(sorted(keys)[:3])}{', ...' if len(keys) > 3 else ''})"
            )
    for key in sorted(k for k in present.keys() & saved.keys() if present[k].shape != saved[k].shape)[:3]:
        problems.append(f"{key} has shape {tuple(saved[key].shape)} instead of {tuple(present[key].shape)}")
    if problems:
        raise CheckpointError(f"{path} does not fit the backbone: {'; '.join(problems)}")


def _shift(module: Any, trainer: Trainer) -> None:
    """Fit the energies per element, through the host's normalisers if there are any."""
    if not any(isinstance(p, EnergyPropertyConfig) for p in module.hparams.properties):
        return
    calculator = ModuleCalculator(module)
    residuals = []
    for atoms in training_structures(trainer, SAMPLE):
        energy = get_labels(atoms).energy
        if energy is not None:
            residual = energy - calculator.get_potential_energy(atoms)
            residuals.append(set_labels(atoms.copy(), Labels(residual, None, None)))
    if not residuals:
        return
    shifts = {atomic_numbers[symbol]: shift for symbol, shift in reference_energies(residuals).items()}
    if not isinstance(module, NativeBackbone):
        add_references(module, shifts)
        return
    with torch.no_grad():
        for z, shift in shifts.items():
            module.backbone.reference_energies[z] += shift
