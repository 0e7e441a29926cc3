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
from mattertune.recipes import RecipeConfigBase, recipe_registry
from torch import Tensor

from mdl_physpretrain.errors import CheckpointError, ConfigError
from mdl_physpretrain.hosts.convert import read_checkpoint_of
from mdl_physpretrain.hosts.mattertune.backbone_native import NativeBackbone
from mdl_physpretrain.hosts.mattertune.loading import ModuleCalculator
from mdl_physpretrain.hosts.mattertune.properties import training_structures
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
    """Fit the energies per element of our networks to the training data; forces stay as they are."""

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
        count = load_pretrained(pl_module, self.config.checkpoint, skip=self.config.skip)
        log.info("%d pretrained tensors from %s", count, self.config.checkpoint)
        if self.config.shift_energies and isinstance(pl_module, NativeBackbone):
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
    return len(weights)


def _weights(module: Any, path: str | Path) -> dict[str, Tensor]:
    if isinstance(module, NativeBackbone):
        return {f"backbone.{k}": v for k, v in named_as_in_host(read_checkpoint_of(path)).state_dict().items()}
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


def _shift(module: NativeBackbone, trainer: Trainer) -> None:
    """Fit the energies per element, through the host's normalisers if there are any."""
    calculator = ModuleCalculator(module)
    residuals = []
    for atoms in training_structures(trainer, SAMPLE):
        energy = get_labels(atoms).energy
        if energy is not None:
            residual = energy - calculator.get_potential_energy(atoms)
            residuals.append(set_labels(atoms.copy(), Labels(residual, None, None)))
    if residuals:
        with torch.no_grad():
            for symbol, shift in reference_energies(residuals).items():
                module.backbone.reference_energies[atomic_numbers[symbol]] += shift
