"""MACE networks in a file of plain values, for MatterTune's backbone ``mace`` with a path as ``pretrained_model``.

The ``.model`` files that MACE writes are pickled modules: reading one executes
code from the file (torch.fx keeps Python source in it), and nothing in the
file can be checked before. :func:`convert_mace` therefore reads one only with
the SHA-256 that its publisher gives, once; the file that it writes holds
constructor arguments and weights and loads with ``weights_only=True``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mdl_physpretrain.errors import CheckpointError, ConfigError
from mdl_physpretrain.files import file_hash
from mdl_physpretrain.potentials.checkpoint_file import write_checkpoint
from mdl_physpretrain.potentials.safe_load import load_foreign

__all__ = ["convert_mace", "read_mace", "take_local_files", "write_mace"]

FORMAT = "mdl_physpretrain.mace"
IRREPS = ("hidden_irreps", "edge_irreps", "MLP_irreps")
CLASSES = ("interaction_cls", "interaction_cls_first", "readout_cls")
GATES = ("silu", "relu", "tanh", "sigmoid", "elu", "gelu", "softplus")  # of torch or torch.nn.functional


def write_mace(model: Any, path: str | Path) -> Path:
    """Write a ``ScaleShiftMACE`` as plain values.

    Parameters
    ----------
    model
        On any device.
    path
        File to write.

    Raises
    ------
    CheckpointError
        If it is another model, or has a part without a name to rebuild it by.
    """
    _mace()
    from mace.tools.scripts_utils import extract_config_mace_model

    config = extract_config_mace_model(model)
    if "error" in config:
        raise CheckpointError(f"{path}: {config['error']}")
    for name in IRREPS:
        config[name] = None if config[name] is None else str(config[name])
    for name in CLASSES:
        config[name] = config[name].__name__
    gate = config["gate"]
    config["gate"] = None if gate is None else getattr(gate, "__name__", type(gate).__name__).lower()
    if config["gate"] not in (None, *GATES):
        raise CheckpointError(f"{path}: the gate {config['gate']!r} is none of {', '.join(GATES)}")
    if config.pop("cueq_config", None) is not None:
        raise CheckpointError(f"{path}: convert a model without cuequivariance")
    plain = {k: _plain(v) for k, v in config.items()}
    state = {k: v.detach().cpu() for k, v in model.state_dict().items()}
    return write_checkpoint({"format": FORMAT, "version": 1, "arguments": plain, "state_dict": state}, Path(path))


def read_mace(path: str | Path) -> Any:
    """A ``ScaleShiftMACE`` from a file of :func:`write_mace`; nothing in the file is executed.

    Raises
    ------
    CheckpointError
        If the file is another one; a pickled module is refused.
    ConfigError
        If ``mace`` is not installed.
    """
    _mace()
    from e3nn import o3
    from mace.modules import blocks, models

    try:
        content = load_foreign(path)
    except CheckpointError as error:
        raise CheckpointError(
            f"{path} is a pickled module, which would execute code: convert it once with "
            "mdl_physpretrain.hosts.mattertune.mace_file.convert_mace(source, target, sha256=...), where sha256 is "
            f"the publisher's ({error})"
        ) from error
    if not isinstance(content, dict) or str(content.get("format")) != FORMAT:
        raise CheckpointError(f"{path} is not a MACE network in plain values")
    config = dict(content["arguments"])
    for name in IRREPS:
        config[name] = None if config[name] is None else o3.Irreps(config[name])
    for name in CLASSES:
        if not isinstance(getattr(blocks, config[name], None), type):
            raise CheckpointError(f"{path}: this mace has no {config[name]!r}")
        config[name] = getattr(blocks, config[name])
    gate = config["gate"]
    config["gate"] = None if gate is None else getattr(torch.nn.functional, gate, None) or getattr(torch, gate)
    for name in ("atomic_energies", "atomic_inter_scale", "atomic_inter_shift"):
        config[name] = torch.as_tensor(config[name]).numpy()
    before = torch.get_default_dtype()
    state = content["state_dict"]
    try:
        torch.set_default_dtype(next(v.dtype for v in state.values() if v.is_floating_point()))
        model = models.ScaleShiftMACE(**config)
        model.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        raise CheckpointError(f"{path} does not fit this mace: {str(error).splitlines()[0]}") from error
    finally:
        torch.set_default_dtype(before)
    return model


def convert_mace(source: str | Path, target: str | Path, *, sha256: str) -> Path:
    """Write a pickled MACE module as plain values. **This executes code from the file**, once.

    Parameters
    ----------
    source
        ``.model`` file of a publisher you trust.
    target
        See :func:`write_mace`.
    sha256
        Of the file, as published: what is trusted is the file with this sum,
        and no other.

    Raises
    ------
    CheckpointError
        If the sum is another one (nothing is executed then), or the model.
    """
    _mace()
    if (actual := file_hash(Path(source))) != sha256.lower().strip():
        raise CheckpointError(f"{source}: its SHA-256 is {actual}, not {sha256}")
    return write_mace(torch.load(source, map_location="cpu", weights_only=False), target)


def take_local_files() -> None:
    """Let MatterTune's ``mace`` backbone read files of :func:`write_mace`; other names are left to it."""
    try:
        from mattertune.backbones.mace_foundation.model import MACEBackboneModule
    except ImportError:
        return
    original = MACEBackboneModule.create_model
    if getattr(original, "takes_local_files", False):
        return

    def create_model(self: Any) -> None:
        path = Path(self.hparams.pretrained_model)
        if not path.is_file():
            if path.suffix in (".model", ".pt", ".pth") or len(path.parts) > 1:
                raise ConfigError(f"model.pretrained_model: {path} does not exist")
            _mace()
            return original(self)
        with _loaded_instead(read_mace(path)):
            return original(self)

    create_model.takes_local_files = True  # type: ignore[attr-defined]
    MACEBackboneModule.create_model = create_model  # type: ignore[method-assign]


@contextmanager
def _loaded_instead(model: Any) -> Iterator[None]:
    """The host calls ``torch.load`` on the path, which would execute the file: it gets the network that was read."""
    load = torch.load
    torch.load = lambda *args, **kwargs: model  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.load = load


def _mace() -> None:
    """Import mace; its e3nn 0.4 reads a table of its own that holds slices, which torch 2.6 refuses otherwise."""
    torch.serialization.add_safe_globals([slice])
    try:
        import mace.modules  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"the backbone mace needs the package mace-torch ({error})") from error


def _plain(value: Any) -> Any:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    return value.tolist() if hasattr(value, "tolist") else value
