"""Registry of probes: the files of this folder, and entry points of other packages."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

import pandas as pd
from pydantic import ValidationError, create_model

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.option_types import Section
from mdl_physpretrain.plugin_classes import plugin_classes
from mdl_physpretrain.probes.base import Probe

__all__ = ["make_probe", "option_fields", "probe_answers", "probe_classes", "table_kinds"]

GROUP = "mdl_physpretrain.probes"


@cache
def probe_classes() -> dict[str, type[Probe]]:
    """Classes of all probes by name, in the order of their answers.

    Raises
    ------
    ConfigError
        If the package of an entry point cannot be imported, or two probes
        have one name, fill one table or have one option.
    """
    classes = plugin_classes(__name__.rpartition(".")[0], GROUP, Probe, "probe")  # type: ignore[type-abstract]
    classes.sort(key=lambda cls: (cls.answer_place, cls.name))
    names = [word for cls in classes for word in (cls.name, *(f"{kind}.csv" for kind in cls.files))]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"two probes have the name {twice!r}")
    owners: dict[str, str] = {}
    for cls in classes:
        for option in cls.Options.model_fields:
            if option in owners:
                raise ConfigError(f"the probes {owners[option]!r} and {cls.name!r} both have an option {option!r}")
            owners[option] = cls.name
    return {cls.name: cls for cls in classes}


def make_probe(name: str, options: Mapping[str, Any]) -> Probe:
    """A probe with those of the options that are its own; raises ConfigError if one is out of range."""
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
        options = cls.Options.model_fields
        fields |= {name: (info.annotation, info) for name, info in options.items() if name not in without}
    return create_model("ProbeOptions", __base__=Section, **fields)


def table_kinds() -> dict[str, type[Probe]]:
    """The probe that fills a table, by its kind."""
    return {kind: cls for cls in probe_classes().values() for kind in cls.files}


def probe_answers(
    tables: Mapping[str, pd.DataFrame],
    names: list[str],
    unanswered: Mapping[tuple[str, str], str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """The answers of a check: ``arm, question, verdict`` (``yes``, ``no``, ``value``, ``unanswered``) and ``finding``.

    ``tables`` are those of the folder by stem, ``unanswered`` reasons by potential and probe.
    """
    probes = [make_probe(name, options or {}) for name in probe_classes()]
    rows = []
    for name in names:
        of_potential = {kind: t[t["arm"] == name] for kind, t in tables.items() if "arm" in t}
        for probe in probes:
            reason = (unanswered or {}).get((name, probe.name))
            answer = ("unanswered", reason) if reason is not None else probe.answer(of_potential)
            if answer is not None:
                rows.append({"arm": name, "question": probe.question, "verdict": answer[0], "finding": answer[1]})
    return pd.DataFrame(rows, columns=["arm", "question", "verdict", "finding"])
