"""Contents of a run folder besides results: README, environment, timings; and checks before the work."""

from __future__ import annotations

import json
import platform
import sys
import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mdl_physpretrain import __version__
from mdl_physpretrain.errors import ConfigError, PhysPretrainError, StructureError
from mdl_physpretrain.ownership import is_edited, write_again
from mdl_physpretrain.potentials.checkpoint import load_model
from mdl_physpretrain.potentials.devices import resolve_device
from mdl_physpretrain.potentials.network_check import check_network
from mdl_physpretrain.teacher.registry import kind_options
from mdl_physpretrain.teacher.source import calculator_factory
from mdl_physpretrain.training.hardware import check_hardware
from mdl_physpretrain.workflow.config import RunConfig
from mdl_physpretrain.workflow.config_files import dump_config, load_config
from mdl_physpretrain.workflow.dependencies import external_inputs
from mdl_physpretrain.workflow.layout import best_file
from mdl_physpretrain.workflow.plan import STAGES
from mdl_physpretrain.workflow.reference import load_reference

if TYPE_CHECKING:
    from mdl_physpretrain.workflow.task import Task

__all__ = ["describe", "environment", "preflight", "write_timings"]

PACKAGES = ("torch", "lightning", "numpy", "ase", "vesin", "pandas", "pydantic", "chgnet", "load-atoms")


def preflight(config: RunConfig) -> None:
    """Raise now what would otherwise be an error after hours: backbone, device, teacher, their options, files."""
    check_network(config.backbone.name, config.backbone.args, fields=("backbone.name", "backbone.args"))
    resolve_device(config.device)
    check_hardware(config.accelerator, config.devices, config.strategy)
    for label, md in config.md.conditions().items():
        try:
            md.settings()
        except ConfigError as error:
            raise ConfigError(f"md{f' ({label})' if label else ''}: {error}") from None
    if config.teacher.calculator is not None:
        calculator_factory(config.teacher)
    if config.teacher.calculator is None or config.teacher.with_fitted:
        kind_options(config.teacher)
    if config.md.reference_potential is not None:
        load_reference(config.md, config.device)
    files = {}
    for key, sources in (
        *((f"data.{part}", getattr(config.data, part)) for part in ("source", "train", "val", "test")),
        ("md.source", config.md.source),
        ("md.reference", config.md.reference),
        ("teacher.checkpoint", [config.teacher.checkpoint] if config.teacher.checkpoint else None),
    ):
        paths, named = external_inputs(sources)
        if sources and not paths and not named:
            raise StructureError("no file matches", file=", ".join(sources), field=key)
        files.update({name: key for name in paths if Path(name).is_absolute()})
    for name, key in files.items():
        if not Path(name).is_file() and not Path(name).is_dir():
            raise StructureError("does not exist", file=name, field=key)
    if config.teacher.checkpoint is not None and config.uses_native_teacher:
        load_model(config.teacher.checkpoint)


def describe(config: RunConfig, folder: Path) -> None:
    """Write config.yaml, environment.json and README.md; what the user wrote into them is kept."""
    config = config.model_copy(update={"output": str(folder)})
    if not _says(folder / "config.yaml", config):
        write_again(folder, "config.yaml", dump_config(config), unknown=True)
    write_again(folder, "environment.json", json.dumps(environment(sys.argv, config.seeds), indent=1))
    text = _readme(config, folder)
    if is_edited(folder, "README.md", unknown=True) and (folder / "README.md").read_bytes() != text.encode():
        warnings.warn(f"{folder / 'README.md'} was edited: it is left as it is", stacklevel=2)
    else:
        write_again(folder, "README.md", text)


def _says(file: Path, config: RunConfig) -> bool:
    """Whether a file with the user's comments and order has this configuration, all of it."""
    try:
        edited = is_edited(file.parent, file.name, unknown=True)
        stored = load_config(file).model_copy(update={"output": config.output})  # a path may be written in many ways
        return edited and dump_config(stored) == dump_config(config)
    except PhysPretrainError:
        return False


def write_timings(folder: Path, tasks: Sequence[Task], status: Mapping[str, str], seconds: Mapping[str, float]) -> None:
    """Write timings.json: what each task took, when it was done, and what happened to it this time."""
    rows = [
        {"stage": t.name, "seconds": round(seconds.get(t.name, 0.0), 3), "status": status[t.name]}
        for t in tasks
        if t.name in status
    ]
    write_again(folder, "timings.json", json.dumps(rows, indent=1))


def environment(command: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
    """Versions, machine and command of ``environment.json``."""
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    cuda = torch.cuda.is_available()
    return {
        "mdl_physpretrain": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "threads": torch.get_num_threads(),
        "packages": packages,
        "command": [Path(command[0]).name, *command[1:]] if command else [],
        "last_call": datetime.now().astimezone().isoformat(timespec="seconds"),
        "seeds": list(seeds),
    }


def _readme(config: RunConfig, folder: Path) -> str:
    arms = "\n".join(
        f"- `{name}`: {'pretrained on the teacher, then finetuned' if arm.pretrain else 'no pretraining'}"
        f"; core: {config.core_of(name)}; replay: {config.replay_of(name):g}"
        for name, arm in config.arms.items()
    )
    simulations = "; ".join(
        f"{md.ensemble.upper()}, {md.temperature:g} K, {md.steps} steps of {md.timestep:g} fs"
        for md in config.md.conditions().values()
    )
    return f"""# {config.name or folder.name}

A run of `physpretrain` {__version__}. Open `report/index.html`.

Go on or repeat (unchanged stages are skipped, interrupted ones resumed):

    physpretrain run {folder.name}/config.yaml --output {folder.name}

from the folder above this one, or add `--only STAGE`, `--from STAGE`, `--force`. Stages: {", ".join(STAGES)}.
Seeds: {", ".join(map(str, config.seeds))}. Arms:

{arms}

MD: {simulations}.

| file | what |
|---|---|
| `config.yaml` | every option, as resolved |
| `environment.json` | versions, machine, command |
| `plan.json` | estimated time of every task, and what a budget changed |
| `timings.json` | seconds per stage, and whether it was done or skipped in the last call |
| `data/{{train,val,test}}.extxyz` | the structures used (eV, eV/Å, eV/Å³) |
| `data/summary.json` | what they are, how they were split, and the errors of the trivial predictor |
| `teacher/teacher.pt` | the fitted teacher; `examination.json` the verdict on it, `errors.json`, `history.csv` |
| `teacher/curves.csv` | its energy per pair of elements (Å, eV); `decomposition.csv` errors of its parts |
| `augment/labelled.extxyz` | augmented structures with the teacher's labels, after the filter |
| `augment/filter.json` | what the filter removed, and why |
| `augment/min_distances.csv` | smallest distances before and after augmentation (Å) |
| `augment/coverage.csv` | how many structures hold each pair of elements at each distance (Å) |
| `augment/fitted.pt` | the potential that was fitted beside a calculator (`teacher.with_fitted`) |
| `augment/change_errors.csv` | errors of the teacher's changes of force and those expected of labels, by composition |
| `seed-*/<training>/best.pt` | the network with the lowest validation error; `last.ckpt` its last state |
| `seed-*/<training>/history.csv` | learning curve |
| `seed-*/<arm>/replay.json` | which labels were replayed, and why; `beyond-data/` is a training with some of them |
| `seed-*/<arm>/loop/best.pt` | the network after the closed loop; `rounds.csv` what each round did |
| `seed-*/<arm>/loop/round-*/` | a round: trajectories of training structures, what was labelled, the network after it |
| `seed-*/md/<arm>.csv` | verdict on every trajectory (`<arm>@<label>`: further conditions) |
| `seed-*/md/<arm>.runs.npz` | traces, last frames and up to 64 earlier frames of the trajectories |
| `seed-*/md/<arm>.unfinished/` | what a calculator at work gave so far, to go on from after an interruption |
| `reference/` | the reference potential: what it is, its errors, verdict on every trajectory, traces |
| `efs.csv` | energy, force and stress errors of every seed and arm |
| `predictions.csv` | predictions beside the labels of the test structures (eV/atom, eV/Å, eV/Å³), at most 10,000 each |
| `physicality.csv` | verdicts of all seeds and arms, those of the reference potential beside them |
| `diatomics.csv` | energy and force of two atoms alone (Å, eV, eV/Å); `diatomic_flags.csv` what is wrong with them |
| `compression.csv` | energy of compressed test structures (eV/atom); `compression_flags.csv` what is wrong with it |
| `msd.csv`, `diffusion.csv` | mean squared displacement (ps, Å²), and diffusion coefficients (Å²/ps, cm²/s) |
| `rdf.csv`, `rdf_errors.csv` | radial distribution functions of trajectories, and their error against `md.reference` |
| `nve.csv` | drift of the total energy in NVE (meV/atom/ps) |
| `alignment.csv` | angle between the forces of networks and EAM on every atom of test structures (degrees) |
| `report/` | the report with its figures and tables |
| `.stages/` | what lets unchanged stages be skipped |
| `edited/` | what you changed in files that were then written anew |
| `.replaced/` | results that another configuration or version replaced (`unfinished/`: the last one); may be deleted |

Use a potential, the one that the report names under *Use it*; from this folder, for example:

    import mdl_physpretrain as pp
    atoms.calc = pp.ASECalculator(pp.load_model("{best_file(config, config.seeds[0], _first_pretrained(config))}"))
"""


def _first_pretrained(config: RunConfig) -> str:
    """The first arm that pretrains, else the first."""
    return next((name for name, arm in config.arms.items() if arm.pretrain), next(iter(config.arms)))
