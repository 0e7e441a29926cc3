"""Pretraining on a teacher's labels and finetuning on reference labels, with the recipe's defaults and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ase import Atoms

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.option_types import shows_options, validated
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.presets import PRESETS
from mdl_physpretrain.recipe import Finetune, Pretrain, Training
from mdl_physpretrain.structures import split_by_parent
from mdl_physpretrain.structures.randomness import derived_seed
from mdl_physpretrain.training.network import is_name
from mdl_physpretrain.training.train import train

__all__ = ["finetune", "pretrain"]

#: What :func:`train` takes besides the recipe's options.
OF_TRAIN = {
    "eam", "freeze_eam", "references", "model_args", "core", "shift_energies", "refit_energies", "replay_weights",
    "directory", "resume", "accelerator", "devices", "strategy", "progress",
}  # fmt: skip


@shows_options(Pretrain, PRESETS["default"]["pretrain"])
def pretrain(
    model: str | Path | EnergyModel,
    labelled: Sequence[Atoms],
    *,
    parents: Sequence[Atoms] | None = None,
    model_args: dict[str, Any] | None = None,
    core: str | None = None,
    split_seed: int = 0,
    seed: int = 0,
    preset: str = "default",
    **options: Any,
) -> EnergyModel:
    """Train on the teacher's labels, as ``physpretrain run`` does.

    Parameters
    ----------
    model
        Registered name, native checkpoint, or a model.
    labelled
        Augmented structures with the teacher's labels. The children of some
        parents (``val_fraction``) choose the best state.
    parents
        Reference structures that a new network is made from, like one without
        pretraining of the same seed: reference energies, normalisation and the
        reach of a core are then those of the data, not of compressed structures.
    model_args, core
        See :func:`mdl_physpretrain.training.new_network`.
    split_seed
        Of the choice of the validation structures.
    seed
        Of a run; that of the weights and of the order is derived from it.
    preset
        Whose options stand below those that are given: ``"default"``,
        ``"algorithm1"`` or ``"paper"``.
    **options
        Of :class:`mdl_physpretrain.recipe.Pretrain`, and further ones of
        :func:`mdl_physpretrain.training.train`.

    Returns
    -------
    EnergyModel
        In its best state.

    Raises
    ------
    ConfigError
        If an option is unknown or out of range.
    StructureError
        If there is nothing to learn from.
    """
    section, train_options = _divided(Pretrain, "pretrain", preset, options)
    train_set, val_set = split_by_parent(labelled, section.val_fraction, split_seed)
    return train(
        model,
        train_set,
        val=val_set or None,
        parents=parents if is_name(model) else None,
        model_args=model_args,
        core=core,
        seed=derived_seed(seed, "student"),
        **train_options,
    )


@shows_options(Finetune, PRESETS["default"]["finetune"])
def finetune(
    model: str | Path | EnergyModel,
    structures: Sequence[Atoms],
    *,
    val: Sequence[Atoms] | None = None,
    replay: Sequence[Atoms] = (),
    seed: int = 0,
    preset: str = "default",
    **options: Any,
) -> EnergyModel:
    """Train on the reference labels, from a pretrained network or afresh, as ``physpretrain run`` does.

    Parameters
    ----------
    model
        A pretrained network or its checkpoint, whose reference energies are
        fitted to the labels first (``shift_energies``); or a registered name,
        for a network without pretraining.
    structures, val
        With reference labels.
    replay
        The labelled structures of the pretraining; ``replay_fraction`` of an
        epoch are some of these.
    seed
        Of a run; that of the weights and of the order is derived from it.
    preset
        Whose options stand below those that are given: ``"default"``,
        ``"algorithm1"`` or ``"paper"``.
    **options
        Of :class:`mdl_physpretrain.recipe.Finetune`, and further ones of
        :func:`mdl_physpretrain.training.train`.

    Returns
    -------
    EnergyModel
        In its best state.

    Raises
    ------
    ConfigError
        If an option is unknown or out of range.
    StructureError
        If there is nothing to learn from.
    """
    section, train_options = _divided(Finetune, "finetune", preset, options)
    return train(
        model,
        structures,
        val=val,
        replay=replay,
        replay_fraction=section.replay_fraction,
        replay_tolerance=section.replay_tolerance,
        replay_final_weight=section.replay_final_weight,
        shift_energies=section.shift_energies,
        refit_energies=section.refit_energies,
        seed=derived_seed(seed, "student" if is_name(model) else "finetune"),
        **train_options,
    )


def _divided(section: type[Any], key: str, preset: str, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The options of a section, over those of the preset, and those that are for :func:`train`."""
    if preset not in PRESETS:
        raise ConfigError(f"preset must be one of {', '.join(PRESETS)}, not {preset!r}")
    further = {k: v for k, v in options.items() if k in OF_TRAIN and k not in section.model_fields}
    given = {k: v for k, v in options.items() if k not in further}
    values = validated(section, {**PRESETS[preset].get(key, {}), **given})
    return values, values.model_dump(include=set(Training.model_fields)) | further
