"""Transfer of potentials to other processes: as a checkpoint, a name, or a plain calculator."""

from __future__ import annotations

import hashlib
import importlib
import os
import pickle
import socket
import sys
import tempfile
import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from mdl_physpretrain import __version__
from mdl_physpretrain.errors import ConfigError, PhysPretrainError
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.calculator import ASECalculator
from mdl_physpretrain.potentials.checkpoint import load_model
from mdl_physpretrain.potentials.identity import potential_fingerprint

__all__ = ["SentPotential", "receive", "send"]

KEPT = 2  # potentials that a worker remembers
_worker = threading.local()  # threads must not share a calculator or a model


@dataclass(frozen=True)
class SentPotential:
    """What a worker needs to make a potential again.

    Attributes
    ----------
    kind
        ``"model"``, ``"calculator"`` (an ASE calculator around a model) or
        ``"pickle"`` (an ASE calculator or a function that makes one).
    content
        Bytes of a native checkpoint, or a pickle.
    device
        Of a model.
    module
        Whose import registers the model.
    version
        Of this package.
    home
        Host and process that sent it.
    """

    kind: str
    content: bytes
    device: str
    module: str
    version: str
    home: tuple[str, int]

    @cached_property
    def digest(self) -> str:
        """Hash by which a worker recognises what it has made already.

        Not the potential's fingerprint: that leaves the metadata of a model and
        the arguments of a factory out.
        """
        return hashlib.sha256(f"{self.kind} {self.device} ".encode() + self.content).hexdigest()


def send(potential: Any) -> SentPotential:
    """Pack a potential.

    Parameters
    ----------
    potential
        An :class:`EnergyModel` (its checkpoint is sent), an ASE calculator
        without networks in it, or a function of a module that makes one.

    Raises
    ------
    ConfigError
        If it cannot be made again in another process.
    """
    kind, device, module = "pickle", "", ""
    if isinstance(potential, EnergyModel | ASECalculator):
        kind, model = ("model", potential) if isinstance(potential, EnergyModel) else ("calculator", potential.model)
        content, device, module = _checkpoint_bytes(model), str(model.device), type(model).__module__
    else:
        content = _pickled(potential)
    return SentPotential(kind, content, device, module, __version__, (socket.gethostname(), os.getpid()))


def receive(sent: SentPotential) -> Any:
    """Make a potential again; a worker does so once and keeps it.

    Elsewhere than in the process that sent it, torch gets a single thread.

    Raises
    ------
    ConfigError
        If this is another version of the package.
    """
    if sent.version != __version__:
        raise ConfigError(
            f"the worker on {socket.gethostname()} has mdl_physpretrain {__version__}, its client {sent.version}"
        )
    if sent.home != (socket.gethostname(), os.getpid()):
        torch.set_num_threads(1)
    kept: OrderedDict[str, Any] = _worker.__dict__.setdefault("kept", OrderedDict())
    if sent.digest not in kept:
        kept[sent.digest] = _rebuilt(sent)
        while len(kept) > KEPT:
            kept.popitem(last=False)
    kept.move_to_end(sent.digest)
    return kept[sent.digest]


def _rebuilt(sent: SentPotential) -> Any:
    if sent.kind == "pickle":
        try:
            return pickle.loads(sent.content)
        except Exception as error:  # the import of a foreign module may fail in any way
            raise ConfigError(
                f"the worker on {socket.gethostname()} cannot make the potential: {type(error).__name__}: {error}"
            ) from error

    model = _loaded(sent.content, sent.module).to(sent.device)
    return ASECalculator(model) if sent.kind == "calculator" else model


def _checkpoint_bytes(model: Any) -> bytes:
    name = model.registry_name or type(model).__name__
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        try:
            model.save(path)
            content = path.read_bytes()
            same = potential_fingerprint(_loaded(content, type(model).__module__)) == potential_fingerprint(model)
        except (PhysPretrainError, TypeError, pickle.PicklingError) as error:
            raise ConfigError(f"the model {name} cannot be sent to another process: {error}") from error
    if not same:
        raise ConfigError(f"the model {name} cannot be sent to another process: its checkpoint gives another model")
    return content


def _loaded(content: bytes, module: str) -> Any:
    if module not in sys.modules and module != "__main__":
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ConfigError(
                f"the worker on {socket.gethostname()} lacks the package of the model, {module}: {error}"
            ) from error
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        path.write_bytes(content)
        return load_model(path)


def _pickled(potential: Any) -> bytes:
    name = getattr(potential, "__qualname__", type(potential).__qualname__)
    attributes = list(getattr(potential, "__dict__", {}).items())
    network = next((key for key, value in attributes if isinstance(value, torch.nn.Module)), None)
    if isinstance(potential, torch.nn.Module) or network is not None:
        raise ConfigError(
            f"{name} holds a network ({network or 'itself'}), which is not sent to other processes: "
            "pass a function of a module that makes the calculator"
        )
    try:
        return pickle.dumps(potential, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # whatever a foreign object raises when it is pickled
        raise ConfigError(
            f"{name} cannot be sent to another process ({error}): pass a function of a module that makes the calculator"
        ) from error
