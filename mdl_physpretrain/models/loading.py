"""Any potential from a text: a checkpoint of ours, one of a host program, or an ASE calculator."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import io
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdl_physpretrain.errors import CheckpointError, ConfigError
from mdl_physpretrain.models.base import EnergyModel

if TYPE_CHECKING:
    from ase.calculators.calculator import BaseCalculator

__all__ = ["calculator_factory", "load_potential", "named_potentials", "potential_name"]

FACTORY = re.compile(r"(?P<module>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):(?P<name>[A-Za-z_]\w*)")
NAMED = re.compile(r"(?P<name>\w[\w.+-]*)=(?P<text>.+)")
YAML = (".yml", ".yaml")
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
    from mdl_physpretrain.hosts.convert import config_beside, detect, read_checkpoint_of
    from mdl_physpretrain.pipeline.teaching import resolve_device

    path, config = Path(text), None
    if not path.exists() and _is_file_and_yaml(text):
        file, _, yaml = text.rpartition(":")
        path, config = Path(file), Path(yaml)
        if not config.is_file():
            raise ConfigError(f"{text}: the configuration {config} does not exist")
    if not path.is_file():
        what = "is a folder, no checkpoint" if path.is_dir() else "does not exist"
        raise CheckpointError(f"{path} {what}; {KINDS}")
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


def calculator_factory(text: str, arguments: Mapping[str, Any] | None = None) -> Callable[[], BaseCalculator]:
    """The function that makes the ASE calculator named ``module:factory``.

    What the factory prints on standard output (banners) is dropped. The
    returned function carries ``text`` as its name, by which interrupted work
    knows the potential again.

    Parameters
    ----------
    text
        ``module:factory``.
    arguments
        Keyword arguments of the factory.

    Raises
    ------
    ConfigError
        If it cannot be imported, is not callable, or does not take the
        arguments; when called, if it fails or makes no calculator.
    """
    match = FACTORY.fullmatch(text)
    if match is None:
        raise ConfigError(f"{text!r} is not of the form module:factory")
    factory = _imported(text, match["module"], match["name"])
    options = dict(arguments or {})
    if not callable(factory):
        raise ConfigError(f"{text} is a {type(factory).__name__}, not a function that makes a calculator")
    try:
        inspect.signature(factory).bind(**options)
    except TypeError as error:
        given = f"with {', '.join(options)}" if options else "without arguments"
        raise ConfigError(f"{text} cannot be called {given}: {error}; wrap it in a function that can") from error
    except ValueError:
        pass  # has no signature to look at

    return _Factory(text, factory, options)


class _Factory:
    """Makes an ASE calculator; has a name like a function, by which it also travels to other processes."""

    def __init__(self, text: str, factory: Callable[..., Any], options: dict[str, Any]) -> None:
        self.text, self.factory, self.options = text, factory, options
        named = ", ".join(f"{key}={value!r}" for key, value in sorted(options.items()))
        self.__qualname__ = self.__name__ = f"{text}({named})" if named else text

    def __call__(self) -> BaseCalculator:
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                made = self.factory(**self.options)
        except Exception as error:  # whatever a foreign constructor raises
            raise ConfigError(f"{self.text} failed: {type(error).__name__}: {error}") from error
        if not hasattr(made, "get_potential_energy"):
            raise ConfigError(f"{self.text} made a {type(made).__name__}, not an ASE calculator")
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return calculator_factory, (self.text, self.options)


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
    """Texts such as ``name=net.pt`` or ``net.pt`` by their name, in order.

    Raises
    ------
    ConfigError
        If two have the same name.
    """
    found: dict[str, str] = {}
    for text in texts:
        match = NAMED.fullmatch(text)
        name, rest = (match["name"], match["text"]) if match and not Path(text).exists() else ("", text)
        name = name or potential_name(rest)
        if name in found:
            raise ConfigError(
                f"two potentials are called {name!r} ({found[name]} and {rest}): name them, as in other={rest}"
            )
        found[name] = rest
    return found


def _is_file_and_yaml(text: str) -> bool:
    file, colon, config = text.rpartition(":")
    return bool(colon and file) and config.endswith(YAML)


def _imported(text: str, module: str, name: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path and importlib.util.find_spec(module.partition(".")[0]) is None:
        sys.path.append(here)
        importlib.invalidate_caches()
    try:
        return getattr(importlib.import_module(module), name)
    except AttributeError as error:
        raise ConfigError(f"cannot import {text!r}: the module has no {name!r}") from error
    except Exception as error:  # a module may fail in any way while it is imported
        raise ConfigError(f"cannot import {text!r}: {type(error).__name__}: {error}") from error
