"""Stage loop: rounds of the closed loop of an arm, and what they end with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdl_physpretrain.files import replacing, write_atomic
from mdl_physpretrain.loop import LoopData, round_table, run_round
from mdl_physpretrain.potentials import load_model
from mdl_physpretrain.structures import read_structures
from mdl_physpretrain.training.replay_scope import beyond_data
from mdl_physpretrain.workflow.data import read_part
from mdl_physpretrain.workflow.layout import LABELLED, arm_folder, loop_folder
from mdl_physpretrain.workflow.stages.labels import labelling_teacher
from mdl_physpretrain.workflow.training import drop_damaged

if TYPE_CHECKING:
    from mdl_physpretrain.workflow.config import RunConfig

__all__ = ["end_loop", "loop_round"]


def loop_round(config: RunConfig, folder: Path, show: bool, *, seed: int, arm: str, number: int) -> list[str]:
    """One round; after the last the network is examined once more, and not trained."""
    place = loop_folder(seed, arm)
    out = f"{place}/round-{number}"
    best, gathered = f"{arm_folder(seed, arm)}/best.pt", []
    finetuned = load_model(folder / best).metadata
    start = finetuned["best_val_loss"]
    for earlier in range(1, number):
        facts = json.loads((folder / place / f"round-{earlier}" / "round.json").read_text())
        if facts.get("passed"):  # nothing is left to do
            write_atomic(folder / out / "round.json", json.dumps({"round": number, "passed": True, "skipped": True}))
            return [f"{out}/round.json"]
        best = f"{place}/round-{earlier}/best.pt"
        gathered += read_structures(folder / place / f"round-{earlier}" / "labelled.extxyz") if facts["n_new"] else []
    drop_damaged(folder / out / "last.ckpt")
    train, val = read_part(folder, "train"), read_part(folder, "val")
    chosen, replay = config.arms[arm], config.replay_of(arm)
    labelled = read_structures(folder / LABELLED)
    data = LoopData(
        train,
        val or None,
        beyond_data(labelled, train) if finetuned.get("replay_scope") == "beyond_data" else labelled,
        labelling_teacher(config, folder),
        config.loop,
        config.augment,
        config.finetune.model_copy(update=chosen.changes() | {"replay_fraction": replay}),
        md=config.md,
        seed=seed,
        force=config.teacher.force,
        device=config.device,
        trainer={"accelerator": config.accelerator, "devices": config.devices, "strategy": config.strategy},
    )
    last = number > config.rounds_of(arm)
    done = run_round(
        data,
        load_model(folder / best),
        gathered,
        number=number,
        start_total=start,
        train=not last,
        directory=folder / out,
        progress=show,
    )
    files = ["best.pt", "round.json", "trajectories.csv", *(["labelled.extxyz"] if done.labelled else [])]
    return [f"{out}/{name}" for name in files]


def end_loop(config: RunConfig, folder: Path, show: bool, *, seed: int, arm: str) -> list[str]:
    """The network of the last round, and the table of all."""
    place = folder / loop_folder(seed, arm)
    rounds: list[dict[str, Any]] = []
    best = place
    for number in range(1, config.rounds_of(arm) + 2):
        facts = json.loads((place / f"round-{number}" / "round.json").read_text())
        if facts.get("skipped"):
            break
        best = place / f"round-{number}" / "best.pt"
        rounds.append(facts | json.loads((place / f"round-{number}" / "seconds.json").read_text()))
    with replacing(place / "best.pt") as part:
        shutil.copyfile(best, part)
    write_atomic(place / "rounds.csv", round_table(rounds).to_csv(index=False))
    return [f"{loop_folder(seed, arm)}/{name}" for name in ("best.pt", "rounds.csv")]
