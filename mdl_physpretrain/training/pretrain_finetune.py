"""Pretraining on a teacher's labels and finetuning on reference labels, with the recipe's defaults and seeds."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ase import Atoms

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.files import replacing
from mdl_physpretrain.locking import is_first_rank
from mdl_physpretrain.option_types import shows_options, validated
from mdl_physpretrain.ownership import claim_folder
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.presets import PRESETS
from mdl_physpretrain.recipe import Finetune, Pretrain, Training
from mdl_physpretrain.structures import split_by_parent, validate_structures
from mdl_physpretrain.structures.randomness import derived_seed
from mdl_physpretrain.structures.validation import refuse_damaged
from mdl_physpretrain.training.network import is_name
from mdl_physpretrain.training.replay_scope import (
    BEYOND_DATA,
    CLOSER,
    SCOPE,
    Frames,
    ScopeChoice,
    beyond_data,
    chosen_scope,
    comparable_frames,
    error_growth,
    noted_error,
    refuse_other_scope,
)
from mdl_physpretrain.training.train import train

__all__ = ["finetune", "pretrain"]

#: Simulates structures with a network (the folder is for records): trajectories lost, trajectories simulated.
Trial = Callable[[EnergyModel, Path | None], tuple[int, int]]

#: Options of the section that are arguments of :func:`train`.
OF_FINETUNING = {
    "replay_fraction", "replay_tolerance", "replay_final_weight", "shift_energies", "refit_energies",
}  # fmt: skip
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
    trial: Trial | None = None,
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
        epoch are some of these. With ``replay_scope: auto`` the network is trained with the labels beyond the data
        first (in ``directory``'s folder ``beyond-data``), and once more, with all, if it then knows changes of force
        not clearly better than the labels say the teacher does
        (:func:`mdl_physpretrain.training.replay_scope.chosen_scope`). Where the labels do not say it, the data have no
        two frames of the same atoms, or fewer labels lie beyond the data than an epoch replays, all are replayed.
    trial
        Of a network that holds to the labels beyond the data less closely (tolerance times
        :func:`mdl_physpretrain.training.replay_scope.error_growth`): called with the network and the folder, the
        numbers of trajectories that it loses and that were simulated come back
        (:class:`mdl_physpretrain.loop.replay_trial.ReplayTrial`). If it loses any, it is trained again with the usual
        tolerance (folder ``beyond-data-closer``), and this network is taken if it loses fewer, or the first one lost
        all. ``None``: the usual tolerance.
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
        In its best state; with replay ``metadata["replay_scope"]`` is ``"all"`` or
        ``"beyond_data"``.

    Raises
    ------
    ConfigError
        If an option is unknown or out of range, or ``replay_trial`` is asked for without a ``trial``.
    StructureError
        If there is nothing to learn from, or a label is odd.
    CheckpointError
        If ``directory`` holds another training.
    """
    section, train_options = _divided(Finetune, "finetune", preset, options)
    train_options |= section.model_dump(include=OF_FINETUNING)
    train_options |= {"val": val, "seed": derived_seed(seed, "student" if is_name(model) else "finetune")}
    directory, resume = train_options.pop("directory", None), train_options.get("resume", True)
    folder = None if directory is None else Path(directory)
    scope: str = section.replay_scope if replay and section.replay_fraction else "all"
    weighted = train_options.get("replay_weights") is not None
    if weighted and scope == "beyond_data":
        raise ConfigError("replay_weights are for all of replay: set replay_scope to 'all'")
    if trial is None and section.replay_trial and scope == "auto":
        raise ConfigError("replay_trial: give 'trial', what simulates the structures (ReplayTrial), or set it to 0")
    frames: list[Frames] = []
    beyond: list[Atoms] = []
    teacher_error = None
    if scope != "all" and not weighted:
        validate_structures(list(structures), require=())  # what is wrong with them is said as elsewhere
        refuse_damaged([*(val or ()), *replay])
        beyond = beyond_data(replay, structures)
    if scope == "auto":
        per_epoch = len(structures) * section.replay_fraction / (1 - section.replay_fraction)
        if not weighted and len(beyond) >= min(per_epoch, len(replay)):  # fewer would be no replay
            teacher_error = noted_error(replay)
            frames = comparable_frames(structures, val) if teacher_error is not None else []
        scope = "auto" if frames else "all"
    elif scope == "beyond_data" and not beyond:
        warnings.warn("no label is beyond the data: nothing is replayed", stacklevel=2)
    if folder is not None:
        claim_folder(folder, "training", inputs=[model], inside=True)
        if resume:
            refuse_other_scope(folder, auto=scope == "auto")
        if is_first_rank():
            (folder / SCOPE).unlink(missing_ok=True)

    def trained(labels: Sequence[Atoms], place: Path | None, growth: float = 1.0) -> EnergyModel:
        tolerance = growth * section.replay_tolerance
        return train(
            model, structures, replay=labels, directory=place, **{**train_options, "replay_tolerance": tolerance}
        )

    if scope != "auto" or teacher_error is None:
        labels = beyond if scope == "beyond_data" else replay
        choice = ScopeChoice(scope, len(labels), None, teacher_error)
        return _noted(trained(labels, folder), choice, folder) if replay else trained(labels, folder)
    first = folder and folder / BEYOND_DATA
    growth = 1.0 if trial is None else error_growth(teacher_error)
    potential = trained(beyond, first, growth)
    choice = chosen_scope(potential, frames, teacher_error, n_beyond=len(beyond), n_all=len(replay))
    if choice.scope == "all":
        return _noted(trained(replay, folder), choice, folder)
    source = BEYOND_DATA
    if trial is not None and growth > 1:
        lost, simulated = trial(potential, first)
        choice = replace(choice, tolerance=growth * section.replay_tolerance, lost=lost, simulated=simulated).agreed()
        if choice.lost:
            place = folder and folder / CLOSER
            closer = trained(beyond, place)
            choice = replace(choice, lost_closer=trial(closer, place)[0]).agreed()
            if choice.closer_is_better:
                potential, source, choice = closer, CLOSER, replace(choice, tolerance=section.replay_tolerance)
    if folder is not None and is_first_rank():
        for name in ("best.pt", "history.csv"):
            with replacing(folder / name) as part:
                shutil.copyfile(folder / source / name, part)
    return _noted(potential, choice, folder)


def _noted(potential: EnergyModel, choice: ScopeChoice, folder: Path | None) -> EnergyModel:
    """The network with what it replayed in its metadata and, with how that was chosen, in its folder."""
    potential.metadata["replay_scope"] = choice.scope
    if choice.tolerance is not None:
        potential.metadata["replay_tolerance"] = choice.tolerance
    if folder is not None and is_first_rank():
        choice.write(folder)
    return potential


def _divided(section: type[Any], key: str, preset: str, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The options of a section, over those of the preset, and those that are for :func:`train`."""
    if preset not in PRESETS:
        raise ConfigError(f"preset must be one of {', '.join(PRESETS)}, not {preset!r}")
    further = {k: v for k, v in options.items() if k in OF_TRAIN and k not in section.model_fields}
    given = {k: v for k, v in options.items() if k not in further}
    values = validated(section, {**PRESETS[preset].get(key, {}), **given})
    return values, values.model_dump(include=set(Training.model_fields)) | further
