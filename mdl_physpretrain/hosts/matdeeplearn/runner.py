"""Run MatDeepLearn's own ``main.py`` with the plugin loaded and the environment it needs."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml
from ase.data import chemical_symbols

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.hosts.matdeeplearn import register
from mdl_physpretrain.hosts.matdeeplearn.eam_layout import symbols_of
from mdl_physpretrain.hosts.matdeeplearn.host import main_script
from mdl_physpretrain.hosts.matdeeplearn.job_checks import check_job, check_training_state
from mdl_physpretrain.hosts.matdeeplearn.paper_jobs import as_yaml, read_job

__all__ = ["check_config", "run_host"]

#: torch >= 2.6 refuses MatDeepLearn's processed files (pickled ``Data`` objects) otherwise.
ENVIRONMENT = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
RUN_MODES = ("train", "predict", "finetune")


def run_host(
    config_path: str | Path,
    *,
    run_mode: str | None = None,
    seed: int | None = None,
    script: str | Path | None = None,
    gpus: int = 1,
    system: str | None = None,
    backbone: str | None = None,
) -> None:
    """Run a MatDeepLearn job in this process, in the current folder.

    Parameters
    ----------
    config_path
        Its YAML file.
    run_mode
        ``"train"``, ``"predict"`` or ``"finetune"``; by default the file's
        ``task.run_mode``, or ``"train"``.
    seed
        Instead of ``task.seed``.
    script
        MatDeepLearn's ``main.py`` or its folder, where it is not beside the
        installed package.
    gpus
        More than one: started with ``torchrun``, ``task.parallel: True`` in the file.
    system, backbone
        See :func:`~mdl_physpretrain.hosts.matdeeplearn.paper_jobs.read_job`.

    Raises
    ------
    ConfigError
        If MatDeepLearn is missing or incompatible, or the file cannot work.
    """
    config = check_config(config_path, system, backbone)
    run_mode = run_mode or config["task"].get("run_mode") or "train"
    if run_mode not in RUN_MODES:
        raise ConfigError(f"run_mode must be one of {', '.join(RUN_MODES)}, not {run_mode!r}")
    if run_mode != "train" and not config["task"].get("checkpoint_path"):
        raise ConfigError(f"{config_path}: {run_mode} needs task.checkpoint_path, the checkpoint to start from")
    check_training_state(config, run_mode)
    with _complete_file(Path(config_path), config) as file:
        if gpus > 1:
            _launch(file, run_mode, seed, script, gpus, bool(config["task"].get("parallel")))
        else:
            _run_here(file, config, run_mode, seed, script)


def _run_here(
    file: Path, config: Mapping[str, Any], run_mode: str, seed: int | None, script: str | Path | None
) -> None:
    register()
    main = main_script(script)
    words = [str(main), f"--config_path={file}", f"--run_mode={run_mode}"]
    words += [] if seed is None else [f"--seed={seed}"]
    pt_path = config["dataset"].get("pt_path")
    if pt_path:
        Path(pt_path).mkdir(parents=True, exist_ok=True)
    # main.py names its log only in the first process of several, but uses the name in all
    log_id = datetime.now().strftime("%Y-%m-%d-%H-%M-%S-%f")[:-3] + f"-{os.environ.get('LOCAL_RANK', '0')}"
    with _environment(words):
        try:
            runpy.run_path(str(main), init_globals={"timestamp_id": log_id}, run_name="__main__")
        except FileNotFoundError as error:
            other_process = os.environ.get("LOCAL_RANK", "0") != "0"
            if not (other_process and str(error.filename or "").startswith("log_")):
                raise


@contextmanager
def _complete_file(path: Path, config: dict[str, Any]) -> Iterator[Path]:
    """The file itself, or where it is not complete (it inherits, another system) one that is."""
    if yaml.safe_load(path.read_text(encoding="utf-8")) == config:
        yield path
        return
    with TemporaryDirectory() as folder:
        file = Path(folder) / path.name
        file.write_text(as_yaml(config), encoding="utf-8")
        yield file


def check_config(path: str | Path, system: str | None = None, backbone: str | None = None) -> dict[str, Any]:
    """Read a MatDeepLearn configuration, see :func:`read_job`, and refuse what fails late or obscurely there."""
    config = read_job(path, system, backbone)
    missing = [k for k in ("task", "model", "optim", "dataset") if not isinstance(config.get(k), dict)]
    if missing:
        raise ConfigError(f"{path} is not a MatDeepLearn configuration: it has no section {', '.join(missing)}")
    check_job(config)
    if "model_ensemble" not in config["model"]:
        raise ConfigError(f"{path}: model.model_ensemble is missing (1 for a single model)")
    if config["dataset"].get("processed"):
        return config
    sources = config["dataset"].get("src")
    files = sources.values() if isinstance(sources, dict) else [sources]
    for file in (f for f in files if f):
        if not Path(file).exists():
            raise ConfigError(f"{path}: dataset.src: {file} does not exist (looked in {Path.cwd()})")
        if not config["dataset"].get("target_path") and Path(file).suffix == ".json":
            _check_data(Path(file), config, path)
    return config


def _check_data(file: Path, config: Mapping[str, Any], path: str | Path) -> None:
    try:
        entries = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: dataset.src: {file} is not valid JSON: {error}") from error
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise ConfigError(f"{path}: dataset.src: {file} is not MatDeepLearn's list of structures")
    keys = [
        "structure_id",
        "atomic_numbers",
        "positions",
        "y",
        *(config["dataset"].get("additional_attributes") or []),
    ]
    types = config["model"].get("atom_types") or (config["model"].get("eam_args") or {}).get("atom_types")
    elements = set(symbols_of(types)) if types else None
    left_handed = [
        e for e in entries if "stress" in keys and np.linalg.det(np.reshape(e.get("cell") or np.eye(3), (3, 3))) < 0
    ]
    if left_handed:
        warnings.warn(
            f"{file}: {len(left_handed)} cells are left-handed: MatDeepLearn's networks get the sign of their stress "
            "wrong; 'physpretrain mdl-data' writes right-handed ones",
            stacklevel=2,
        )
    for k, entry in enumerate(entries):
        name = entry.get("structure_id", k)
        for key in keys:
            if entry.get(key) is None:
                why = " (dataset.additional_attributes)" if key in ("forces", "stress") else ""
                raise ConfigError(f"{file}, structure {name}: {key} is missing{why}")
        if elements is not None:
            strange = sorted({chemical_symbols[int(z)] for z in entry["atomic_numbers"]} - elements)
            if strange:
                raise ConfigError(
                    f"{file}, structure {name}: {', '.join(strange)} is not in model.atom_types of {path}"
                )


@contextmanager
def _environment(words: list[str]) -> Iterator[None]:
    before, arguments = {k: os.environ.get(k) for k in ENVIRONMENT}, sys.argv
    os.environ.update(ENVIRONMENT)
    sys.argv = words
    try:
        yield
    finally:
        sys.argv = arguments
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def _launch(
    config_path: str | Path, run_mode: str, seed: int | None, script: str | Path | None, gpus: int, parallel: bool
) -> None:
    if not parallel:
        raise ConfigError(f"{config_path}: {gpus} GPUs need 'task.parallel: True'")
    words = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={gpus}", "-m", "mdl_physpretrain", "mdl"]
    words += [str(config_path), "--run-mode", run_mode]
    words += [] if seed is None else ["--seed", str(seed)]
    words += [] if script is None else ["--matdeeplearn", str(script)]
    result = subprocess.run(words, check=False)
    if result.returncode:
        raise ConfigError(f"MatDeepLearn ended with exit code {result.returncode} (see its messages above)")
