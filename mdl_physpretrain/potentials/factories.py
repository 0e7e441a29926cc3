"""ASE calculators by the name of the function that makes them, ``module:factory``."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import io
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdl_physpretrain.errors import ConfigError

if TYPE_CHECKING:
    from ase.calculators.calculator import BaseCalculator

__all__ = ["FACTORY", "calculator_factory"]

FACTORY = re.compile(r"(?P<module>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):(?P<name>[A-Za-z_]\w*)")


def calculator_factory(text: str, arguments: Mapping[str, Any] | None = None) -> Callable[[], BaseCalculator]:
    """The function that makes the ASE calculator named ``module:factory``; its prints (banners) are dropped.

    It carries ``text`` as its name, by which interrupted work recognises the potential. Raises ConfigError if it
    cannot be imported, is not callable, or does not take the arguments; when called, if it fails or makes no
    calculator.
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
        call = f"with {', '.join(options)}" if options else "without arguments"
        raise ConfigError(f"{text} cannot be called {call}: {error}; wrap it in a function that can") from error
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
                calculator = self.factory(**self.options)
        except Exception as error:  # whatever a foreign constructor raises
            raise ConfigError(f"{self.text} failed: {type(error).__name__}: {error}") from error
        if not hasattr(calculator, "get_potential_energy"):
            raise ConfigError(f"{self.text} made a {type(calculator).__name__}, not an ASE calculator")
        return calculator

    def __reduce__(self) -> tuple[Any, ...]:
        return calculator_factory, (self.text, self.options)


def _imported(text: str, module: str, name: str) -> Any:
    folder = str(Path.cwd())
    if folder not in sys.path and importlib.util.find_spec(module.partition(".")[0]) is None:
        sys.path.append(folder)
        importlib.invalidate_caches()
    try:
        return getattr(importlib.import_module(module), name)
    except AttributeError as error:
        raise ConfigError(f"cannot import {text!r}: the module has no {name!r}") from error
    except Exception as error:  # a module may fail in any way while it is imported
        raise ConfigError(f"cannot import {text!r}: {type(error).__name__}: {error}") from error
