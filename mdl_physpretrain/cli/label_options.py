"""Options of all commands that read structures: how labels are called, their units, and equal identifiers."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from inspect import Parameter
from typing import Annotated, Any

import typer

from mdl_physpretrain.errors import ConfigError

__all__ = ["with_label_options"]

_OPTIONS = {
    "energy_key": ("Name of the energy in the files, where it is unusual.", str | None, None),
    "forces_key": ("Name of the forces.", str | None, None),
    "stress_key": ("Name of the stress, or of a virial.", str | None, None),
    "units": ("Of labels, e.g. stress=GPa,energy=eV/atom; -kbar is VASP's stress.", str | None, None),
    "nan_labels": ("missing: a label with NaN is none; keep: it is an error.", str, "keep"),
    "duplicates": ("Structures of the same identifier: error, or rename the later ones.", str, "error"),
}
_WORDS = {"nan_labels": ("keep", "missing"), "duplicates": ("error", "rename")}


_CHECKED = {"train", "finetune", "pretrain", "fit_eam", "fit_teacher"}  # these count missing labels themselves


def with_label_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with the options; what it reads meanwhile is read with them."""
    signature = inspect.signature(command, eval_str=True)
    parameters = list(signature.parameters.values())
    added = [
        Parameter(
            name,
            Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[kind, typer.Option(f"--{name.replace('_', '-')}", help=text)],  # type: ignore[valid-type]
        )
        for name, (text, kind, default) in _OPTIONS.items()
        if name not in signature.parameters
    ]

    @functools.wraps(command)
    def run(**arguments: Any) -> Any:
        from mdl_physpretrain.structures.reading import LABEL_OPTIONS, LabelOptions
        from mdl_physpretrain.structures.units import LabelUnits

        values = {p.name: arguments.pop(p.name, p.default) for p in added}
        units = _units(values.pop("units", None))
        LabelUnits.named(units)  # a wrong one is refused before any work
        for name, words in _WORDS.items():
            if values.get(name, words[0]) not in words:
                raise ConfigError(f"--{name.replace('_', '-')}: {values[name]!r} is neither {' nor '.join(words)}")
        counts = command.__name__ not in _CHECKED
        token = LABEL_OPTIONS.set(LabelOptions(**values, units=units, count_missing=counts))
        try:
            return command(**arguments)
        finally:
            LABEL_OPTIONS.reset(token)

    shown = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in [*parameters, *added]]
    run.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in shown}
    return run


def _units(text: str | None) -> dict[str, str]:
    words = [word.partition("=") for word in (text or "").split(",") if word.strip()]
    wrong = next((name for name, equals, unit in words if not equals or not unit.strip()), None)
    if wrong is not None:
        raise ConfigError(f"--units: {wrong!r} is not of the form label=unit")
    return {name.strip(): unit.strip() for name, _, unit in words}
