"""Ends a run with SIGKILL in every stage; a process of its own, so that forks start without torch's threads.

``python kill_driver.py CONFIG FOLDER [--all]`` does the run of CONFIG in FOLDER/whole without interruption and in
FOLDER/killed with one kill in every stage (in the long ones without ``--all``), and prints what happened as JSON.
"""

import importlib
import json
import os
import signal
import sys
from pathlib import Path

import torch

from mdl_physpretrain.workflow import load_config
from mdl_physpretrain.workflow.run import run_pipeline

for name in ("training", "dynamics", "report", "augmentation", "teacher", "structures", "probes"):
    importlib.import_module(f"mdl_physpretrain.{name}")  # before the forks: once

# stage: module, attribute to die in, at which call of it, before or after the real work
KILLS = {
    "prepare": ("mdl_physpretrain.workflow.stages.prepare", "write_structures", 2, "after"),
    "teacher": ("mdl_physpretrain.potentials.error_metrics", "ErrorSums.means", 2, "after"),
    "augment": ("mdl_physpretrain.teacher.journal", "Journal.append", 1, "after"),
    "pretrain": ("mdl_physpretrain.training.module", "KeepBest._write", 3, "after"),
    "finetune": ("mdl_physpretrain.training.module", "KeepBest._write", 2, "before"),
    "finished training": ("mdl_physpretrain.workflow.records", "Records.finish", 1, "before"),
    "loop md": ("mdl_physpretrain.dynamics.records", "Runs.save", 1, "after"),
    "loop labels": ("mdl_physpretrain.teacher.journal", "Journal.append", 2, "after"),
    "loop training": ("mdl_physpretrain.training.module", "KeepBest._write", 1, "after"),
    "loop round": ("mdl_physpretrain.loop.rounds", "_write", 1, "before"),
    "loop end": ("mdl_physpretrain.workflow.stages.loop", "write_atomic", 1, "before"),
    "reference": ("mdl_physpretrain.dynamics.records", "Runs.save", 1, "after"),
    "evaluate": ("mdl_physpretrain.probes.diatomics", "diatomic_curve", 2, "before"),
    "md": ("mdl_physpretrain.dynamics.records", "Runs.save", 1, "after"),
    "collect": ("mdl_physpretrain.workflow.stages.collect", "joined", 2, "before"),
    "report": ("mdl_physpretrain.report.build", "_page", 1, "before"),
}
if "--all" not in sys.argv:  # the others take as long again
    KILLS = {k: KILLS[k] for k in ("augment", "pretrain", "finetune", "loop end", "reference", "evaluate", "md")}


def die_in(module: str, path: str, call: int, when: str) -> None:
    *outer, attribute = path.split(".")
    owner = importlib.import_module(module)
    for part in outer:
        owner = getattr(owner, part)
    real, calls = getattr(owner, attribute), [0]

    def deadly(*args: object, **options: object) -> object:
        calls[0] += 1
        if calls[0] == call and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*args, **options)
        if calls[0] == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, attribute, deadly)


def attempt(config: str, folder: Path, kill: tuple[str, str, int, str] | None) -> dict[str, object]:
    """One call of the pipeline in a fork; how it ended and what was done, skipped or resumed."""
    report = folder.with_suffix(".events")
    report.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            simulation = importlib.import_module("mdl_physpretrain.dynamics.simulate")
            simulation.BATCH_ATOMS = {"cpu": 8, "cuda": 8}  # a batch of MD is one structure
            if kill is not None:
                die_in(*kill)
            with report.open("a") as events:

                def listen(event: str, task: object, seconds: float) -> None:
                    print(event, task.name, sep="\t", file=events, flush=True)  # type: ignore[attr-defined]

                run_pipeline(load_config(config), output=folder, listener=listen)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(3)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return {"code": os.waitstatus_to_exitcode(status), "events": report.read_text().splitlines()}


if __name__ == "__main__":
    config, folder = sys.argv[1], Path(sys.argv[2])
    told: dict[str, object] = {"whole": attempt(config, folder / "whole", None)}
    for stage, kill in KILLS.items():
        told[stage] = attempt(config, folder / "killed", kill)
    told["last"] = attempt(config, folder / "killed", None)
    print(json.dumps(told))
