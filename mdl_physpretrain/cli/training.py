"""Commands of training: pretrain, finetune, train."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from mdl_physpretrain.cli.application import app
from mdl_physpretrain.cli.options import (
    ON_REFERENCE,
    REPLAY,
    TRAINING,
    Parents,
    Seed,
    Structures,
    named_arguments,
    progress_bars,
    read_all,
    recipe_options,
    shared_options,
)
from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.presets import over_preset
from mdl_physpretrain.recipe import BACKBONE, MD, Finetune, Pretrain, Training

Folder = Annotated[Path, typer.Option("--output", "-o", help="Folder for best.pt, last.ckpt, history.csv.")]
ShiftEnergies = Annotated[
    bool, typer.Option("--shift-energies/--no-shift-energies", help="Fit energies per element to the labels first.")
]
TrialTemperature = Annotated[
    float | None,
    typer.Option("--trial-temperature", min=0, help="Temperature (K) of a run's MD, for --replay-trial."),
]


@app.command()
@recipe_options(Pretrain, "pretrain")
@shared_options(TRAINING)
def pretrain(
    structures: Annotated[list[str], typer.Argument(help="Structures with the teacher's labels.")],
    output: Folder,
    options: Pretrain,
    parents: Parents = None,
    shift_energies: ShiftEnergies = False,
    split_seed: Annotated[
        int, typer.Option("--split-seed", min=0, help="Seed of the choice of validation structures.")
    ] = 0,
    seed: Seed = 0,
    **shared: Any,
) -> None:
    """Train on a teacher's labels, as a run does; the network is made from the parents' data."""
    from mdl_physpretrain import training

    _train(
        training.pretrain, structures, output, options, parents=parents, split_seed=split_seed,
        shift_energies=shift_energies, seed=seed, **shared,
    )  # fmt: skip


@app.command()
@recipe_options(Finetune, "finetune")
@shared_options(TRAINING | ON_REFERENCE)
def finetune(
    structures: Structures,
    output: Folder,
    options: Finetune,
    trial_temperature: TrialTemperature = None,
    seed: Seed = 0,
    **shared: Any,
) -> None:
    """Train on reference labels, from a pretrained network (or afresh), as a run does."""
    from mdl_physpretrain import training
    from mdl_physpretrain.loop.replay_trial import ReplayTrial

    if (trial_temperature is not None) != bool(options.replay_trial):
        raise ConfigError("--replay-trial (structures) and --trial-temperature (K) go together")
    if trial_temperature is not None:
        md = MD.model_copy(update={"temperature": trial_temperature})
        number, show = options.replay_trial, progress_bars()
        shared["trial"] = ReplayTrial(read_all(structures), md, number, seed=seed, progress=show)
    _train(training.finetune, structures, output, options, seed=seed, **shared)


@app.command()
@recipe_options(
    Training,
    "finetune",
    also=dict.fromkeys(REPLAY, "finetune"),
)
@shared_options(TRAINING | ON_REFERENCE)
def train(
    structures: Structures,
    output: Folder,
    options: Training,
    replay_fraction: Annotated[
        float, typer.Option("--replay-fraction", help="Share of replayed structures in an epoch.")
    ] = REPLAY["replay_fraction"],
    replay_tolerance: Annotated[
        float,
        typer.Option(
            "--replay-tolerance", min=0, help="Smaller replayed errors, in those of the teacher, do not count."
        ),
    ] = REPLAY["replay_tolerance"],
    replay_final_weight: Annotated[
        float,
        typer.Option("--replay-final-weight", min=0, max=1, help="Of replayed errors at the end; it falls from 1."),
    ] = REPLAY["replay_final_weight"],
    shift_energies: ShiftEnergies = False,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Seed of the initial weights and of the order of structures.")
    ] = 0,
    **shared: Any,
) -> None:
    """Train a potential; the same command goes on after an interruption."""
    from mdl_physpretrain import training

    shared |= {"replay_fraction": replay_fraction, "replay_tolerance": replay_tolerance}
    shared |= {"replay_final_weight": replay_final_weight, "shift_energies": shift_energies}
    _train(training.train, structures, output, options, seed=seed, **shared)


def _train(
    step: Callable[..., Any],
    structures: list[str],
    output: Path,
    options: Training,
    *,
    model: str | None,
    arg: list[str] | None,
    core: str | None,
    preset: str,
    devices: str,
    **further_options: Any,
) -> None:
    """One training with the network that model, arguments, core and preset describe."""
    from mdl_physpretrain.locking import is_first_rank, locked
    from mdl_physpretrain.ownership import claim_folder
    from mdl_physpretrain.training.network import is_name

    args = named_arguments(arg)
    if model is None or is_name(model):
        chosen = {key: value for key, value in (("name", model), ("args", args), ("core", core)) if value is not None}
        backbone = over_preset({"preset": preset, "backbone": chosen})["backbone"]
        model, args, core = backbone.get("name", BACKBONE.name), backbone["args"], backbone.get("core")
    read = ("val", "replay", "eam", "parents")
    claim_folder(output, "training", inputs=[model, structures, [further_options.get(name) for name in read]])
    for name in ("parents", "val", "replay"):
        if name in further_options:
            found = read_all(further_options[name])
            further_options[name] = found or (() if name == "replay" else None)
    with locked(output):
        result = step(
            model, read_all(structures), model_args=args or None, core=core, directory=output, progress=progress_bars(),
            devices=int(devices) if devices.isdecimal() else devices, **options.model_dump(), **further_options,
        )  # fmt: skip
        if is_first_rank():
            result.save(str(output / "best.pt"))
    if is_first_rank():
        scope = {"all": "; all labels replayed", "beyond_data": "; labels beyond the data replayed"}
        replayed = scope.get(result.metadata.get("replay_scope"), "")
        typer.echo(f"Wrote {output / 'best.pt'} (validation total {result.metadata['best_val_loss']:.4g}{replayed})")
