"""``load_potential``: any potential from a text, be it our checkpoint, a host's, or an ASE calculator."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mdl_physpretrain.errors import CheckpointError, ConfigError
from mdl_physpretrain.hosts.convert import CONFIG_SUFFIXES, config_beside, detect, read_checkpoint_of
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.devices import resolve_device
from mdl_physpretrain.potentials.factories import FACTORY, calculator_factory

if TYPE_CHECKING:
    from ase.calculators.calculator import BaseCalculator

__all__ = ["load_potential", "named_potentials", "potential_name"]

NAMED = re.compile(r"(?P<name>\w[\w.+-]*)=(?P<text>.+)")
KINDS = (
    "a potential is a checkpoint (of this package, MatDeepLearn, MatterTune or MatterSim), MatDeepLearn's with its "
    "configuration as 'checkpoint.pt:config.yml', or 'module:factory' of an ASE calculator"
)


def load_potential(text: str, device: str = "auto") -> EnergyModel | Callable[[], BaseCalculator]:
    """What a text names.

    Parameters
    ----------
    text
        A file: a native checkpoint, a MatDeepLearn checkpoint (its YAML file
        beside it, or named as ``checkpoint.pt:config.yml``), a MatterTune
        ``.ckpt``, a MatterSim ``.pth``. Or ``module:factory``, a function or
        class that makes an ASE calculator without arguments, such as
        ``chgnet.model.dynamics:CHGNetCalculator``; modules of the current
        folder are found, too.
    device
        Of a checkpoint: ``auto``, ``cpu``, ``cuda``, ... A calculator decides
        for itself.

    Returns
    -------
    EnergyModel or callable
        In evaluation mode on the device; or the function that makes the
        calculator.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, unsafe or of no known kind.
    ConfigError
        If the text, the module, the factory or the device cannot be used.
    """
    match = FACTORY.fullmatch(text)
    if match and not Path(text).exists() and not _is_file_and_yaml(text):
        return calculator_factory(text)

    path, config = Path(text), None
    if not path.exists() and _is_file_and_yaml(text):
        file, _, yaml = text.rpartition(":")
        path, config = Path(file), Path(yaml)
        if not config.is_file():
            raise ConfigError(f"{text}: the configuration {config} does not exist")
    if not path.is_file():
        problem = "is a folder, no checkpoint" if path.is_dir() else "does not exist"
        raise CheckpointError(f"{path} {problem}; {KINDS}")
    target = resolve_device(device)
    kind = detect(path)
    if kind != "matdeeplearn" and config is not None:
        raise ConfigError(f"{text}: only a MatDeepLearn checkpoint needs a configuration, {path} is {kind}")
    if kind == "matdeeplearn" and config is None:
        try:
            config = config_beside(path)
        except ConfigError as error:
            reason = str(error).split(":")[0]
            raise ConfigError(f"{reason}: name that of its run as '{path}:config.yml'") from error
    return read_checkpoint_of(path, kind, config=config).to(target).eval()


def potential_name(text: str) -> str:
    """A short name for a potential: of the factory, or of the file.

    Examples
    --------
    >>> potential_name("chgnet.model.dynamics:CHGNetCalculator"), potential_name("runs/a/best.pt")
    ('CHGNetCalculator', 'best')
    """
    match = FACTORY.fullmatch(text)
    if match and not _is_file_and_yaml(text):
        return match["name"]
    file = text.rpartition(":")[0] if _is_file_and_yaml(text) else text
    return re.sub(r"[^\w.+-]", "_", Path(file).stem) or "potential"


def named_potentials(texts: Sequence[str]) -> dict[str, str]:
    """Texts such as ``name=net.pt`` or ``net.pt`` by their name, in order; raises ConfigError if two share one."""
    potentials: dict[str, str] = {}
    for text in texts:
        match = NAMED.fullmatch(text)
        name, rest = (match["name"], match["text"]) if match and not Path(text).exists() else ("", text)
        name = name or potential_name(rest)
        if name in potentials:
            raise ConfigError(
                f"two potentials are called {name!r} ({potentials[name]} and {rest}): name them, as in other={rest}"
            )
        potentials[name] = rest
    return potentials


def _is_file_and_yaml(text: str) -> bool:
    file, colon, config = text.rpartition(":")
    return bool(colon and file) and config.endswith(CONFIG_SUFFIXES)
