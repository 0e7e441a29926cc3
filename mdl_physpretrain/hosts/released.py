"""The checkpoints released with the paper: download them and convert what can be converted.

They are MatDeepLearn and MatterTune checkpoints in a dataset repository of the
Hugging Face hub. How its folders are laid out is not assumed: every checkpoint
is paired with the nearest YAML file that fits it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from mdl_physpretrain.errors import CheckpointError, ConfigError, PhysPretrainError
from mdl_physpretrain.hosts.convert import detect, read_checkpoint_of
from mdl_physpretrain.hosts.matdeeplearn.checkpoint import read_matdeeplearn
from mdl_physpretrain.hosts.matdeeplearn.config import read_host_config
from mdl_physpretrain.ownership import keep_existing
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.checkpoint import save_model

__all__ = ["REPOSITORY", "Released", "fetch_released", "list_released"]

REPOSITORY = "qzheng75/EAM-Physical-MLIP"
CHECKPOINTS = {".pt", ".pth", ".ckpt"}
CONFIGS = {".yml", ".yaml"}
CONFIG_FOLDERS = {"config", "configs"}


@dataclass
class Released:
    """A checkpoint of the repository and what became of it."""

    path: str
    config: str = ""  # in the repository; empty when none was found or needed
    kind: str = ""
    model: str = ""
    outcome: str = ""  # "converted", or why not
    target: str = ""  # the native checkpoint


def list_released(names: Sequence[str] = (), *, repo: str = REPOSITORY) -> list[Released]:
    """Checkpoints of a repository, each with the first YAML file that would be tried.

    Parameters
    ----------
    names
        Files, folders or patterns such as ``"silica/*"``; none for all.
    repo
        A dataset repository of the Hugging Face hub.

    Raises
    ------
    ConfigError
        If ``huggingface_hub`` is missing, or a name matches nothing.
    CheckpointError
        If the hub cannot be reached.
    """
    files = _files(repo)
    configs = {path: candidates(path, files) for path in _chosen(files, names, repo)}
    return [Released(path, groups[0][0] if groups else "") for path, groups in configs.items()]


def fetch_released(
    names: Sequence[str] = (), *, repo: str = REPOSITORY, directory: str | Path = "released"
) -> list[Released]:
    """Download checkpoints and convert what this package has models for.

    Parameters
    ----------
    names, repo
        See :func:`list_released`.
    directory
        Receives ``originals/`` (as downloaded), ``native/`` and
        ``released.csv``, a table of the results.

    Returns
    -------
    list of Released
        One per checkpoint; what cannot be converted says why and does not
        stop the others.

    Raises
    ------
    ConfigError, CheckpointError
        See :func:`list_released`.
    """
    directory = Path(directory)
    files = _files(repo)
    results = []
    for path in _chosen(files, names, repo):
        result = Released(path)
        try:
            _fetch_one(result, files, repo, directory)
        except PhysPretrainError as error:
            result.outcome = str(error).splitlines()[0]
        results.append(result)
    table = directory / "released.csv"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        columns = [field.name for field in fields(Released)]
        with keep_existing(table):
            pd.DataFrame([asdict(r) for r in results], columns=columns).to_csv(table, index=False)
    except OSError as error:
        raise CheckpointError(f"cannot write {table}: {error}") from error
    return results


def candidates(path: str, files: Sequence[str]) -> list[list[str]]:
    """YAML files that may describe a checkpoint, in groups, the nearest first.

    A file of the same name is a group of its own; then come those in the
    checkpoint's folder and its ``config(s)`` folder, then those of the parent
    folder, and so on.
    """
    place = PurePosixPath(path)
    configs = [PurePosixPath(f) for f in files if PurePosixPath(f).suffix.lower() in CONFIGS]
    groups = [[str(c) for c in configs if c.parent == place.parent and c.stem == place.stem]]
    for folder in place.parents:
        near = [
            c
            for c in configs
            if c.parent == folder or (c.parent.parent == folder and c.parent.name.lower() in CONFIG_FOLDERS)
        ]
        same_name = [str(c) for c in near if c.stem == place.stem]
        groups += [same_name, [str(c) for c in near if str(c) not in same_name]]
    unique: list[list[str]] = []
    for group in groups:
        if group and group not in unique:
            unique.append(sorted(group))
    return unique


def _fetch_one(result: Released, files: Sequence[str], repo: str, directory: Path) -> None:
    place = PurePosixPath(result.path)
    if place.is_absolute() or ".." in place.parts:
        raise CheckpointError(f"{result.path}: a path that leaves the folder")
    if place.stem == "data" or place.stem.startswith("data_") or "processed" in place.parts:
        result.outcome = "not downloaded: a processed data set of MatDeepLearn by its name"
        return
    originals = directory / "originals"
    local = _download(repo, result.path, originals)
    result.kind = detect(local)
    if result.kind == "matdeeplearn":
        model = _with_config(result, local, candidates(result.path, files), lambda c: _download(repo, c, originals))
    else:
        model = read_checkpoint_of(local, result.kind)
    result.model = model.registry_name
    # a.pt and a.ckpt may stand side by side
    target = directory / "native" / (result.path if place.suffix == ".pt" else f"{result.path}.pt")
    save_model(model, target, metadata={"released": {"repository": repo, "file": result.path}})
    result.target, result.outcome = str(target), "converted"


def _with_config(
    result: Released, local: Path, groups: list[list[str]], download: Callable[[str], Path]
) -> EnergyModel:
    """Try the YAML files from near to far; of those in one place only one network may fit."""
    reasons = []
    for group in groups:
        fitting: dict[str, EnergyModel] = {}
        descriptions: list[Any] = []
        for name in group:
            config = download(name)
            try:
                model = read_matdeeplearn(local, config)
                description = replace(read_host_config(config), source="")
            except PhysPretrainError as error:
                reasons.append(str(error).splitlines()[0])
                continue
            if description not in descriptions:
                descriptions.append(description)
                fitting[name] = model
        if len(fitting) > 1:
            raise ConfigError(f"several YAML files fit ({', '.join(fitting)}): convert it by hand with --config")
        if fitting:
            result.config, model = next(iter(fitting.items()))
            return model
    raise ConfigError(reasons[0] if reasons else "a MatDeepLearn checkpoint without a YAML file near it")


def _chosen(files: Sequence[str], names: Sequence[str], repo: str) -> list[str]:
    checkpoints = [f for f in files if PurePosixPath(f).suffix.lower() in CHECKPOINTS]
    if not checkpoints:
        raise ConfigError(f"{repo} holds no checkpoints ({', '.join(sorted(CHECKPOINTS))})")
    if not names:
        return checkpoints
    chosen: list[str] = []
    for name in names:
        folder = name.rstrip("/") + "/"
        hits = [f for f in checkpoints if f == name or f.startswith(folder) or fnmatch(f, name)]
        if not hits:
            raise ConfigError(f"{repo} has no checkpoint {name!r}; see --list")
        chosen += [h for h in hits if h not in chosen]
    return chosen


def _files(repo: str) -> list[str]:
    with _hub(f"list the dataset {repo} of the Hugging Face hub") as hub:
        return sorted(hub.HfApi().list_repo_files(repo, repo_type="dataset"))


def _download(repo: str, name: str, folder: Path) -> Path:
    with _hub(f"download {name}") as hub:
        return Path(hub.hf_hub_download(repo, name, repo_type="dataset", local_dir=str(folder)))


@contextmanager
def _hub(task: str) -> Iterator[Any]:
    """``huggingface_hub``, with its errors as ours."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise ConfigError(
            "downloading needs the package huggingface_hub: pip install 'mdl-physpretrain[hub]'"
        ) from error
    try:
        yield huggingface_hub
    except Exception as error:  # its own kinds, and those of two HTTP libraries
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise CheckpointError(f"cannot {task}: {reason}") from error
