"""Models written to native checkpoints, and made from them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from mdl_physpretrain.errors import CheckpointError, ConfigError
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.checkpoint_file import read_checkpoint, save_model
from mdl_physpretrain.potentials.construction import constructed
from mdl_physpretrain.potentials.registry import construct_model, model_class

__all__ = ["has_finite_weights", "load_model", "refuse_infinite_weights", "save_model"]


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
