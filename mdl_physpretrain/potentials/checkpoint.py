"""The native checkpoint: name, hyper-parameters, weights, metadata.

A checkpoint is a ``torch.save`` of a plain dictionary that loads with
``weights_only=True``::

    {"format": "mdl_physpretrain", "version": 1, "model": "cgcnn",
     "hparams": {...}, "state_dict": {...}, "metadata": {...}}

A model without floating-point weights adds ``"dtype"``; one of another package
``"package"``, the name by which pip installs it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ase.data import atomic_numbers
from torch import Tensor, nn

from mdl_physpretrain.errors import CheckpointError, ConfigError
from mdl_physpretrain.files import replacing
from mdl_physpretrain.potentials.construction import constructed
from mdl_physpretrain.potentials.registry import construct_model, model_class, providing_package
from mdl_physpretrain.potentials.safe_load import load_foreign

if TYPE_CHECKING:
    from mdl_physpretrain.potentials.base import EnergyModel

__all__ = [
    "has_finite_weights",
    "load_model",
    "read_checkpoint",
    "refuse_infinite_weights",
    "save_model",
    "write_checkpoint",
]

FORMAT = "mdl_physpretrain"
VERSION = 1
ENTRIES: dict[str, type] = {"version": int, "model": str, "hparams": dict, "state_dict": dict, "metadata": dict}
OWN_PACKAGE = "mdl-physpretrain"


def save_model(model: EnergyModel, path: str | Path, *, metadata: dict[str, Any] | None = None) -> Path:
    """Write a checkpoint atomically (an interrupted write leaves the old file).

    Parameters
    ----------
    model
        Any registered model.
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


def load_model(path: str | Path, *, expect: str | None = None) -> EnergyModel:
    """Rebuild the model stored in a checkpoint.

    Parameters
    ----------
    path
        A native checkpoint.
    expect
        Refuse any other model name.

    Returns
    -------
    EnergyModel
        In evaluation mode on the CPU, with the stored metadata as
        ``model.metadata``.

    Raises
    ------
    CheckpointError
        If the file cannot be used, or the package of its model is missing.
    """
    content = read_checkpoint(path)
    if expect is not None and content["model"] != expect:
        raise CheckpointError(f"{path} holds a {content['model']!r} model, not {expect!r}")
    try:
        model_class(content["model"])
    except ConfigError as error:
        package = content.get("package")
        origin = f" of the package {package!r}" if package else ""
        raise CheckpointError(f"{path} holds a {content['model']!r} model{origin}: {error}") from error
    try:
        model = constructed(lambda: construct_model(content["model"], content["hparams"]), content["state_dict"], path)
        dtypes = {v.dtype for v in content["state_dict"].values() if v.is_floating_point()}
        if dtypes == {torch.float64} or content.get("dtype") == "float64":
            model = model.double()
        model.load_state_dict(content["state_dict"])
    except CheckpointError:
        raise
    except Exception as error:  # a constructor of any package, with arguments of any kind
        reason = (str(error).splitlines() or [""])[0][:300] or type(error).__name__
        raise CheckpointError(f"{path}: weights do not fit the model {content['model']!r}: {reason}") from error
    refuse_infinite_weights(model, path)
    model.metadata = content["metadata"]
    return model.eval()


def has_finite_weights(model: nn.Module) -> bool:
    """Whether no weight and no buffer is NaN or infinite."""
    return all(bool(v.isfinite().all()) for v in model.state_dict().values())


def refuse_infinite_weights(model: nn.Module, path: str | Path) -> None:
    """Refuse what a training that diverged has left.

    Raises
    ------
    CheckpointError
        Naming the first weight that is NaN or infinite.
    """
    for name, value in model.state_dict().items():
        if not bool(value.isfinite().all()):
            raise CheckpointError(f"{path}: the weight {name} is NaN or infinite: its training diverged")
