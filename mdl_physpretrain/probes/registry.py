"""All probes there are: the files of this folder, and those of other packages."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Collection, Mapping
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError, create_model

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.option_types import Section
from mdl_physpretrain.probes.base import Probe

__all__ = ["make_probe", "option_fields", "probe_classes", "table_kinds", "verdict_table"]

GROUP = "mdl_physpretrain.probes"


@cache
def probe_classes() -> dict[str, type[Probe]]:
    """Classes of all probes by name, in the order of their answers.

    Raises
    ------
    ConfigError
        If the package of an entry point cannot be imported, or two probes
        have one name or fill one table.
    """
    package = __name__.rpartition(".")[0]
    classes: list[type[Probe]] = []
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        loaded = importlib.import_module(f"{package}.{module.name}")
        classes += [
            cls
            for cls in vars(loaded).values()
            if inspect.isclass(cls)
            and issubclass(cls, Probe)
            and not inspect.isabstract(cls)
            and cls.__module__ == loaded.__name__
        ]
    for entry in entry_points(group=GROUP):
        try:
            classes.append(entry.load())
        except Exception as error:  # another package may fail in any way while it is imported
            raise ConfigError(f"probe {entry.name!r} ({entry.value}) cannot be imported: {error}") from error
    classes.sort(key=lambda cls: (cls.answer_place, cls.name))
    names = [word for cls in classes for word in (cls.name, *(f"{kind}.csv" for kind in cls.files))]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"two probes have the name {twice!r}")
    return {cls.name: cls for cls in classes}


def make_probe(name: str, options: Mapping[str, Any]) -> Probe:
    """A probe with those of the options that are its own.

    Raises
    ------
    ConfigError
        If one of them is out of range.
    """
    cls = probe_classes()[name]
    try:
        return cls(**{key: options[key] for key in cls.Options.model_fields if key in options})
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}, not {first['input']!r}") from None


def option_fields(without: Collection[str] = ()) -> type[Section]:
    """A section with the options of all probes, but for those of some names."""
    fields: dict[str, Any] = {}
    for cls in probe_classes().values():
        own = cls.Options.model_fields
        fields |= {name: (info.annotation, info) for name, info in own.items() if name not in without}
    return create_model("ProbeOptions", __base__=Section, **fields)


def table_kinds() -> dict[str, type[Probe]]:
    """The probe that fills a table, by its kind."""
    return {kind: cls for cls in probe_classes().values() for kind in cls.files}


def verdict_table(
    tables: Mapping[str, pd.DataFrame],
    names: list[str],
    unanswered: Mapping[tuple[str, str], str] | None = None,
) -> pd.DataFrame:
    """The answers of a check: one row per potential and question.

    Parameters
    ----------
    tables
        CSV tables of the folder by their stem.
    names
        Potentials in order.
    unanswered
        Reasons by potential and probe.

    Returns
    -------
    DataFrame
        ``arm, question, verdict`` (``yes``, ``no``, ``value``: a number without
        a limit, ``unanswered``) and ``finding``.
    """
    rows = []
    for name in names:
        of_potential = {kind: t[t["arm"] == name] for kind, t in tables.items() if "arm" in t}
        for cls in probe_classes().values():
            reason = (unanswered or {}).get((name, cls.name))
            answer = ("unanswered", reason) if reason is not None else cls().answer(of_potential)
            if answer is not None:
                rows.append({"arm": name, "question": cls.question, "verdict": answer[0], "finding": answer[1]})
    return pd.DataFrame(rows, columns=["arm", "question", "verdict", "finding"])
