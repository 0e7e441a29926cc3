"""The whole method in one call: teacher, labels, pretraining, finetuning, closed loop."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from ase import Atoms
from pydantic import BaseModel

from mdl_physpretrain.augmentation.filter import FilterResult
from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.locking import locked
from mdl_physpretrain.loop import LoopData, close_loop
from mdl_physpretrain.loop.replay_trial import ReplayTrial
from mdl_physpretrain.option_types import validated
from mdl_physpretrain.ownership import claim_folder
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.devices import resolve_device
from mdl_physpretrain.potentials.network_check import check_network
from mdl_physpretrain.presets import over_preset
from mdl_physpretrain.recipe import MD, Recipe
from mdl_physpretrain.structures import Split, write_structures
from mdl_physpretrain.structures.outliers import warn_of_outliers
from mdl_physpretrain.structures.validation import refuse_no_anchors, validate_structures
from mdl_physpretrain.teacher.labelled_set import augmented_labels
from mdl_physpretrain.teacher.source import obtain_teacher
from mdl_physpretrain.training import pretrain_finetune
from mdl_physpretrain.training.references import is_another_energy_scale
from mdl_physpretrain.training.replay_scope import beyond_data

__all__ = ["PretrainedPotential", "pretrain_and_finetune"]


@dataclass(frozen=True)
class PretrainedPotential:
    """What :func:`pretrain_and_finetune` makes.

    Attributes
    ----------
    potential
        The finetuned network.
    pretrained
        The network before finetuning.
    labelled
        The structures it was pretrained on, with the teacher's labels.
    teacher
        The examined EAM, or whatever labelled.
    filter
        What the label filter kept and removed.
    recipe
        Every option.
    rounds
        Of the closed loop (:func:`mdl_physpretrain.loop.round_table`), where there was one.
    """

    potential: EnergyModel
    pretrained: EnergyModel
    labelled: list[Atoms]
    teacher: Any
    filter: FilterResult
    recipe: Recipe
    rounds: pd.DataFrame | None = None


def pretrain_and_finetune(
    structures: Split | Sequence[Atoms],
    *,
    val: Sequence[Atoms] | None = None,
    model: str | None = None,
    model_args: Mapping[str, Any] | None = None,
    core: str | None = None,
    preset: str = "default",
    teacher: Any = None,
    augment: Mapping[str, Any] | BaseModel | None = None,
    pretrain: Mapping[str, Any] | BaseModel | None = None,
    finetune: Mapping[str, Any] | BaseModel | None = None,
    loop: Mapping[str, Any] | BaseModel | None = None,
    seed: int = 0,
    split_seed: int = 0,
    directory: str | Path | None = None,
    device: str = "auto",
    progress: bool = False,
    **trainer: Any,
) -> PretrainedPotential:
    """The whole method: a teacher, its labels, a network pretrained on them and finetuned on the data.

    The result is that of ``physpretrain run`` with the same data, options and seed.

    Parameters
    ----------
    structures
        Labelled training structures, or a split of
        :func:`mdl_physpretrain.structures.split_structures` (of which the test
        structures are not looked at).
    val
        Labelled; choose the best state of the teacher and of the finetuning.
    model, model_args, core
        The network, see :func:`mdl_physpretrain.training.new_network`;
        ``None``: that of the preset, of which ``model_args`` change some.
    preset
        ``"paper"``: the paper's settings below those that are given.
    teacher, augment, pretrain, finetune, loop
        Options, where they are not the defaults of
        :class:`mdl_physpretrain.recipe.Recipe`. ``teacher`` may also be one
        that exists: an EAM, any ASE calculator, or a function that makes one.
        The loop simulates as :class:`mdl_physpretrain.recipe.MolecularDynamics`
        says by default (300 K) where ``loop`` says nothing else.
    seed
        Of the network.
    split_seed
        Of the choice of the structures that validate the pretraining
        (``data.seed`` of a run).
    directory
        The teacher, the labelled structures and both trainings are written
        there; after an interruption the same call goes on with the training that
        was under way. Another call needs another folder, and is refused in this one.
    device
        Of the labelling.
    progress
        Show progress bars.
    **trainer
        ``accelerator``, ``devices`` and ``strategy`` of the trainings.

    Raises
    ------
    ConfigError
        If an option is unknown or out of range.
    StructureError
        If structures cannot be used.
    TeacherRefused
        If the teacher fails its examination and is not forced.
    CheckpointError
        If ``directory`` holds a training of other data, options or seeds.
    """
    if isinstance(structures, Split):
        val = structures.val if val is None else val
        structures = structures.train
    is_options = teacher is None or isinstance(teacher, Mapping | BaseModel)
    sections = {
        "teacher": teacher if is_options else None,
        "augment": augment,
        "backbone": {
            key: value
            for key, value in (("name", model), ("args", dict(model_args or {})), ("core", core))
            if value is not None
        },
        "pretrain": pretrain,
        "finetune": finetune,
        "loop": loop,
    }
    content = {k: v.model_dump() if isinstance(v, BaseModel) else v for k, v in sections.items() if v is not None}
    merged = over_preset({"preset": preset, **content})
    recipe = validated(Recipe, {k: v for k, v in merged.items() if k not in ("md", "arms")})  # of runs
    if recipe.loop.rounds and not recipe.finetune.replay_fraction:
        raise ConfigError("loop.rounds puts new labels into replay: finetune.replay_fraction must be above 0")
    check_network(recipe.backbone.name, recipe.backbone.args, fields=("model", "model_args"))
    structures, val = list(structures), list(val or ()) or None
    validate_structures(structures, require=(), partial="allow")
    warn_of_outliers(structures)
    if recipe.augment.anchor:
        refuse_no_anchors(structures)
    folder = None if directory is None else claim_folder(directory, "pretraining with its finetuning")
    with locked(folder):
        if is_options:
            teacher = obtain_teacher(
                structures, val, recipe.teacher, device=device, directory=folder, progress=progress
            )
        elif isinstance(teacher, EnergyModel):
            teacher = teacher.to(resolve_device(device))
        journal = None if folder is None else folder / "labels.journal"
        labels = augmented_labels(
            structures, teacher, recipe.augment, force=recipe.teacher.force, resume=journal, progress=progress
        )
        labelled = labels.filtered.kept
        if folder is not None and journal is not None:
            write_structures(folder / "labelled.extxyz", labelled)
            journal.unlink(missing_ok=True)
            shutil.rmtree(journal.with_name(f"{journal.name}.motion"), ignore_errors=True)

        common: dict[str, Any] = {"seed": seed, "progress": progress, **trainer}
        network = recipe.backbone
        pretrained = pretrain_finetune.pretrain(
            network.name,
            labelled,
            parents=structures,
            model_args=network.args,
            core=network.core,
            split_seed=split_seed,
            shift_energies=is_another_energy_scale(teacher, anchor=recipe.augment.anchor),
            directory=None if folder is None else folder / "pretrain",
            **recipe.pretrain.model_dump(),
            **common,
        )
        trial = None
        if number := recipe.finetune.replay_trial:
            trial = ReplayTrial(structures, MD, number, seed=seed, device=device, progress=progress)
        potential = pretrain_finetune.finetune(
            pretrained,
            structures,
            val=val,
            replay=labelled if recipe.finetune.replay_fraction > 0 else (),
            trial=trial,
            directory=None if folder is None else folder / "finetune",
            **recipe.finetune.model_dump(),
            **common,
        )
        rounds = None
        if recipe.loop.rounds:
            beyond = potential.metadata["replay_scope"] == "beyond_data"
            data = LoopData(
                structures,
                val,
                beyond_data(labelled, structures) if beyond else labelled,
                teacher,
                recipe.loop,
                recipe.augment,
                recipe.finetune,
                MD,
                seed=seed,
                force=recipe.teacher.force,
                device=device,
                trainer=trainer,
            )
            place = None if folder is None else folder / "loop"
            potential, _, rounds = close_loop(data, potential, directory=place, progress=progress)
        return PretrainedPotential(potential, pretrained, labelled, teacher, labels.filtered, recipe, rounds)
