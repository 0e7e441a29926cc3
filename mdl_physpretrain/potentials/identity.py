"""Fingerprint of a potential: its kind, its parameters, its code, the versions of its packages."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from mdl_physpretrain.files import file_hash
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.source_graph import PACKAGE, companions, used_packages

__all__ = ["is_calculator", "named_files", "package_versions", "potential_fingerprint"]


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
        digest.update(_source(type(potential).__module__, parameters))
        for part in _parts(potential):
            digest.update(part.encode())
    else:
        name = str(getattr(potential, "__qualname__", type(potential).__qualname__))
        digest.update(name.encode())
        module, colon, _ = name.partition(":")  # "module:factory" of the command line
        origin = module if colon else str(getattr(potential, "__module__", ""))
        digest.update(_source(origin, getattr(potential, "options", {})))
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


def _parts(calculator: object) -> list[str]:
    """Fingerprints of our models inside a calculator, and of the calculators that it adds up, with their weights."""
    models = [value for value in vars(calculator).values() if isinstance(value, EnergyModel)]
    mixer = getattr(calculator, "mixer", None)  # ASE's sums, averages and mixtures
    calculators = list(getattr(mixer, "calcs", ()))
    weights = [str(weight) for weight in getattr(mixer, "weights", ())]
    return [potential_fingerprint(part) for part in (*models, *calculators)] + weights


def _source(module: str, arguments: Any) -> bytes:
    """The file a module was loaded from, and hashes of the files that it or its arguments name."""
    path = getattr(sys.modules.get(module), "__file__", None)
    try:
        source = Path(path).read_bytes() if path else b""
        hashes = [file_hash(file) for file in companions(module)] + [digest for _, digest in named_files(arguments)]
    except OSError:
        return b""
    return source + "".join(hashes).encode()


def named_files(arguments: Any) -> list[tuple[str, str]]:
    """Names and hashes of the files among arguments of a calculator."""
    values = list(arguments.values()) if isinstance(arguments, Mapping) else arguments
    if isinstance(values, list | tuple):
        return [pair for value in values for pair in named_files(value)]
    try:
        is_file = isinstance(values, str | Path) and Path(values).is_file()
    except (OSError, ValueError):  # a text that no file can be called
        return []
    return [(str(values), file_hash(Path(values)))] if is_file else []


def _describe(value: object) -> str:
    return value.tobytes().hex() if isinstance(value, np.ndarray) else type(value).__qualname__
