"""Fingerprint of a potential: its kind, its parameters, its code, the versions of its packages."""

from __future__ import annotations

import hashlib
import json
import sys
from importlib import metadata
from pathlib import Path

import numpy as np

from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.source_graph import PACKAGE, used_packages

__all__ = ["is_calculator", "package_versions", "potential_fingerprint"]


def is_calculator(potential: object) -> bool:
    """Whether this is an ASE calculator (not a class or a function that makes one)."""
    return not isinstance(potential, type) and hasattr(potential, "get_potential_energy")


def potential_fingerprint(potential: object) -> str:
    """Weights of a model; name, parameters and source file of a calculator or of the function that makes one."""
    digest = hashlib.sha256()
    if isinstance(potential, EnergyModel):
        digest.update(json.dumps([potential.registry_name, potential.hparams], sort_keys=True, default=str).encode())
        for name, tensor in potential.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    elif is_calculator(potential):
        parameters = getattr(potential, "parameters", {})
        text = json.dumps([type(potential).__qualname__, dict(parameters or {})], sort_keys=True, default=_describe)
        digest.update(text.encode())
        digest.update(_source(type(potential).__module__))
    else:
        name = str(getattr(potential, "__qualname__", type(potential).__qualname__))
        digest.update(name.encode())
        module, colon, _ = name.partition(":")  # "module:factory" of the command line
        digest.update(_source(module if colon else str(getattr(potential, "__module__", ""))))
    return digest.hexdigest()


def package_versions(module: str) -> dict[str, str]:
    """Versions of the installed package that a module belongs to; of those that it imports, where it belongs to none.

    The second is for the user's own file, which makes the calculator of a package.
    """
    owners = metadata.packages_distributions()
    first = module.partition(".")[0]
    packages = {first} if first in owners else used_packages(module)
    names = {name for package in packages - {PACKAGE} for name in owners.get(package, ())}
    return {name: metadata.version(name) for name in sorted(names)}


def _source(module: str) -> bytes:
    """The file a module was loaded from."""
    path = getattr(sys.modules.get(module), "__file__", None)
    try:
        return Path(path).read_bytes() if path else b""
    except OSError:
        return b""


def _describe(value: object) -> str:
    return value.tobytes().hex() if isinstance(value, np.ndarray) else type(value).__qualname__
