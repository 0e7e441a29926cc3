"""The native checkpoint: name, hyper-parameters, weights, metadata.

A checkpoint is a ``torch.save`` of a plain dictionary that loads with
``weights_only=True``::

    {"format": "mdl_physpretrain", "version": 1, "model": "cgcnn",
     "hparams": {...}, "state_dict": {...}, "metadata": {...}}

A model without floating-point weights adds ``"dtype"``; one of another package
``"package"``, the name by which pip installs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from ase.data import atomic_numbers
from torch import Tensor

from mdl_physpretrain.errors import CheckpointError
from mdl_physpretrain.files import replacing
from mdl_physpretrain.potentials.entry_points import providing_package
from mdl_physpretrain.potentials.safe_load import load_foreign

__all__ = ["is_native", "read_checkpoint", "save_model", "write_checkpoint"]

FORMAT = "mdl_physpretrain"
VERSION = 1
ENTRIES: dict[str, type] = {"version": int, "model": str, "hparams": dict, "state_dict": dict, "metadata": dict}
OWN_PACKAGE = "mdl-physpretrain"


class Saved(Protocol):
    """What is stored of a model."""

    registry_name: str
    hparams: dict[str, Any]
    metadata: dict[str, Any]

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the weights."""

    def state_dict(self) -> Mapping[str, Tensor]:
        """The weights."""


def save_model(model: Saved, path: str | Path, *, metadata: dict[str, Any] | None = None) -> Path:
    """Write a checkpoint atomically (an interrupted write leaves the old file).

    Parameters
    ----------
    model
        Any :class:`~mdl_physpretrain.potentials.base.EnergyModel` that is registered.
    path
        File to write; parents are created.
    metadata
        Plain values (numbers, strings, lists, dicts, tensors) stored beside it.

    Raises
    ------
    CheckpointError
        If it cannot be written, or arguments of the model are no plain values, which could not be read.
    """
    strange = next((name for name, value in model.hparams.items() if not _is_plain(value)), None)
    if strange is not None:
        raise CheckpointError(f"{path}: {strange!r} in the model's hparams is no number, text, list or dictionary")
    content: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "model": model.registry_name,
        "hparams": model.hparams,
        "state_dict": {k: v.detach().cpu() for k, v in model.state_dict().items()},
        "metadata": {**model.metadata, **(metadata or {})},
    }
    if not any(v.is_floating_point() for v in content["state_dict"].values()):
        content["dtype"] = str(model.dtype).removeprefix("torch.")  # no weight tells it
    package = providing_package(model.registry_name)
    if package not in {None, OWN_PACKAGE}:
        content["package"] = package
    return write_checkpoint(content, path)


def write_checkpoint(content: Any, path: str | Path) -> Path:
    """``torch.save`` that is atomic and makes the folders; raises CheckpointError."""
    path = Path(path)
    try:
        with replacing(path) as part:
            torch.save(content, part)
    except OSError as error:
        raise CheckpointError(f"cannot write checkpoint {path}: {error}") from error
    return path


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint's dictionary, read without executing anything.

    Raises CheckpointError if it is missing or not one of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist")
    content = load_foreign(path)
    if not is_native(content):
        raise CheckpointError(f"{path} is not a checkpoint of this package (no format tag {FORMAT!r})")
    _check_entries(content, path)
    return content


def _check_entries(content: dict[str, Any], path: Path) -> None:
    """Refuse a dictionary whose entries are missing or of another kind."""
    for name, kind in ENTRIES.items():
        if not isinstance(content.get(name), kind) or isinstance(content[name], bool):
            raise CheckpointError(f"{path} is damaged: its entry {name!r} is missing or no {kind.__name__}")
    if content["version"] > VERSION:
        raise CheckpointError(f"{path} was written by a newer version of this package (format {content['version']})")
    for name in ("hparams", "state_dict", "metadata"):
        if not all(isinstance(key, str) for key in content[name]):
            raise CheckpointError(f"{path} is damaged: a name in its entry {name!r} is no text")
    if not all(isinstance(value, Tensor) and not value.is_complex() for value in content["state_dict"].values()):
        raise CheckpointError(f"{path} is damaged: not all entries of its state_dict are tensors of real numbers")
    strange = next((name for name, value in content["hparams"].items() if not _is_plain(value)), None)
    if strange is not None:
        raise CheckpointError(f"{path} is damaged: {strange!r} in its hparams is no number, text, list or dictionary")
    elements = content["metadata"].get("elements")
    if elements is not None and not (
        isinstance(elements, list) and all(isinstance(e, str) and e in atomic_numbers for e in elements)
    ):
        raise CheckpointError(f"{path} is damaged: the elements in its metadata are no chemical symbols")
    for name in ("examination", "fit", "converted"):
        if not isinstance(content["metadata"].get(name, {}), dict):
            raise CheckpointError(f"{path} is damaged: {name!r} in its metadata is no dictionary")


def is_native(content: Any) -> bool:
    """Whether what a file holds says that it is a checkpoint of this package."""
    tag = content.get("format") if isinstance(content, dict) else None
    return isinstance(tag, str) and tag == FORMAT


def _is_plain(value: Any) -> bool:
    """Whether a value is made of numbers, texts, lists and dictionaries only."""
    if isinstance(value, dict):
        return all(isinstance(key, str | int) and _is_plain(inner) for key, inner in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(inner) for inner in value)
    return value is None or isinstance(value, bool | int | float | str)
