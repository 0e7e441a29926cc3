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

from mdl_physpretrain.errors import CheckpointError, ConfigError
from mdl_physpretrain.files import replacing
from mdl_physpretrain.potentials.registry import model_class, providing_package

if TYPE_CHECKING:
    from mdl_physpretrain.potentials.base import EnergyModel

__all__ = ["load_model", "read_checkpoint", "save_model", "write_checkpoint"]

FORMAT = "mdl_physpretrain"
VERSION = 1
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
    """
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
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged or foreign file
        reason = str(error).splitlines()[0][:200]
        raise CheckpointError(f"checkpoint {path} is damaged or not a plain torch checkpoint: {reason}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of this package (no format tag {FORMAT!r})")
    if content["version"] > VERSION:
        raise CheckpointError(f"{path} was written by a newer version of this package (format {content['version']})")
    return content


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
        kind = model_class(content["model"])
    except ConfigError as error:
        package = content.get("package")
        origin = f" of the package {package!r}" if package else ""
        raise CheckpointError(f"{path} holds a {content['model']!r} model{origin}: {error}") from error
    try:
        model = kind(**content["hparams"])
        dtypes = {v.dtype for v in content["state_dict"].values() if v.is_floating_point()}
        if dtypes == {torch.float64} or content.get("dtype") == "float64":
            model = model.double()
        model.load_state_dict(content["state_dict"])
    except (RuntimeError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path}: weights do not fit the model {content['model']!r}: {error}") from error
    model.metadata = content["metadata"]
    return model.eval()
