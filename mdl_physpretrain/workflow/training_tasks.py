"""Tasks of a run that train: pretraining, finetuning, closed loops."""

from __future__ import annotations

from functools import partial
from typing import Any

from mdl_physpretrain.loop.motion import conditions
from mdl_physpretrain.loop.replay_trial import TRIED
from mdl_physpretrain.potentials.identity import named_files
from mdl_physpretrain.recipe import Augment, Augmentation, MolecularDynamics
from mdl_physpretrain.teacher.registry import kind_modules
from mdl_physpretrain.training.references import is_another_energy_scale
from mdl_physpretrain.workflow.config import RunConfig
from mdl_physpretrain.workflow.dependencies import calculator_section, network_modules, teacher_modules
from mdl_physpretrain.workflow.layout import FITTED, LABELLED, TEACHER, arm_folder, loop_folder, pretrain_folder
from mdl_physpretrain.workflow.stages.finetune import finetune_arm
from mdl_physpretrain.workflow.stages.loop import end_loop, loop_round
from mdl_physpretrain.workflow.stages.pretrain import pretrain_network
from mdl_physpretrain.workflow.task import Task

__all__ = ["TRAIN_AND_VAL", "loop_tasks", "training_tasks"]

TRAIN_AND_VAL = ("data/train.extxyz", "data/val.extxyz")


def training_tasks(config: RunConfig, seed: int) -> list[Task]:
    """Pretraining of a seed's networks, and finetuning of its arms."""
    common = [seed, config.accelerator, config.devices, config.strategy, config.data.references]
    foreign = is_another_energy_scale(config.teacher, anchor=config.augment.anchor)
    backbone = [config.backbone.name, config.backbone.args]
    tasks = []
    cores = dict.fromkeys(config.core_of(name) for name, arm in config.arms.items() if arm.pretrain)
    for core in cores:
        tasks.append(
            Task(
                name=_pretrain_name(seed, core),
                stage="pretrain",
                work=partial(pretrain_network, seed=seed, core=core),
                section=[*common, *backbone, core, config.pretrain.model_dump(), config.data.seed, foreign],
                inputs=(LABELLED, "data/train.extxyz"),
                needs=("prepare", "augment"),
                scratch=(pretrain_folder(seed, core),),
                modules=network_modules(config, core, "none"),
                parallel=True,
                own_process=str(config.devices) != "1",
            )
        )
    for name, arm in config.arms.items():
        core, replay = config.core_of(name), config.replay_of(name)
        unused = {"replay_fraction": True, "shift_energies": not arm.pretrain, "replay_tolerance": not replay}
        unused |= dict.fromkeys(("replay_final_weight", "replay_scope", "replay_trial"), not replay)
        options = config.finetune.model_dump(exclude={k for k, v in unused.items() if v}) | arm.changes()
        inputs, needs = list(TRAIN_AND_VAL), ["prepare"]
        if arm.pretrain:
            inputs.append(f"{pretrain_folder(seed, core)}/best.pt")
            needs.append(_pretrain_name(seed, core))
        if replay > 0:
            inputs.append(LABELLED)
            needs.append("augment")
        if arm.hybrid != "none":
            inputs.append(TEACHER)
            needs.append("teacher")
        section = [*common, None if arm.pretrain else backbone, core, arm.hybrid, replay, options]
        if replay > 0 and config.finetune.replay_trial and config.finetune.replay_scope == "auto":
            section += [config.device, config.md.model_dump(include=set(TRIED))]
        tasks.append(
            Task(
                name=_finetune_name(seed, name),
                stage="finetune",
                work=partial(finetune_arm, seed=seed, arm=name),
                section=section,
                inputs=tuple(inputs),
                needs=tuple(needs),
                scratch=(arm_folder(seed, name),),
                modules=network_modules(config, core, arm.hybrid),
                parallel=True,
                own_process=str(config.devices) != "1",
            )
        )
    return tasks


def loop_tasks(config: RunConfig, seed: int) -> list[Task]:
    """Rounds of the closed loops of a seed, each with what the one before left; a last one that only examines."""
    tasks = []
    for name, arm in config.arms.items():
        rounds, place = config.rounds_of(name), loop_folder(seed, name)
        if not rounds:
            continue
        taught = ("teacher",) if config.uses_native_teacher else ()
        modules = teacher_modules(config)
        chosen_before = {"replay_fraction", "replay_scope", "replay_trial"}
        options = config.finetune.model_dump(exclude=chosen_before) | arm.changes()
        simulated = set(MolecularDynamics.model_fields) - {"source", "n_structures", "max_atoms", "compiled"}
        md = conditions(config.loop, config.md).model_dump(include=simulated)
        section = [seed, config.accelerator, config.devices, config.strategy, config.replay_of(name), options, md]
        section += calculator_section(config)
        section += [
            config.loop.model_dump(exclude={"rounds"}),
            config.augment.model_dump(include=set(Augment.model_fields) - set(Augmentation.model_fields)),
        ]
        inputs = [*TRAIN_AND_VAL, LABELLED, f"{arm_folder(seed, name)}/best.pt", *([TEACHER] if taught else [])]
        if config.teacher.with_fitted:
            inputs.append(FITTED)
            modules = (*modules, *kind_modules(config.teacher.kind))
        before = _finetune_name(seed, name)
        common: dict[str, Any] = {"stage": "loop", "parallel": True}
        for number in range(1, rounds + 2):
            folder = f"{place}/round-{number}"
            task = Task(
                name=f"loop seed {seed} {name} {'end' if number > rounds else number}",
                work=partial(loop_round, seed=seed, arm=name, number=number),
                section=[*section, number, number > rounds],
                inputs=tuple(inputs),
                needs=("prepare", "augment", before, *taught),
                scratch=(folder,),
                fixed=tuple(named_files(config.teacher.calculator_args)),
                modules=(*network_modules(config, config.core_of(name), arm.hybrid), *modules),
                own_process=str(config.devices) != "1",
                **common,
            )
            tasks.append(task)
            before = task.name
            inputs += [f"{folder}/best.pt", f"{folder}/labelled.extxyz", f"{folder}/round.json"]
        tasks.append(
            Task(
                name=f"loop seed {seed} {name}",
                work=partial(end_loop, seed=seed, arm=name),
                section=[rounds],
                inputs=tuple(i for i in inputs if i.startswith(place)),
                needs=tuple(t.name for t in tasks if t.name.startswith(f"loop seed {seed} {name} ")),
                **common,
            )
        )
    return tasks


def _finetune_name(seed: int, arm: str) -> str:
    return f"finetune seed {seed} {arm}"


def _pretrain_name(seed: int, core: str) -> str:
    return f"pretrain seed {seed}" + ("" if core == "none" else f" {core}")
