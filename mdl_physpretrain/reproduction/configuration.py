"""The runs that stand for the rows of the paper's tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.workflow.config import RunConfig
from mdl_physpretrain.workflow.config_files import load_layers

__all__ = ["BACKBONES", "SCALES", "SYSTEMS", "configuration", "data_sources"]

BACKBONES = ("cgcnn", "torchmd_et", "m3gnet")
SCALES = ("small", "paper")
SETTINGS = Path(__file__).with_name("settings")
PLACES = (".", "data", "shared/data", "../shared/data")  # where files of the data are looked for

#: What each system is: the files it is read from, and where they come from.
SYSTEMS: dict[str, dict[str, Any]] = {
    "silica": {
        "title": "Silica",
        "paper": ["load-atoms:SiO2-GAP-22"],
        "small": ["silica_zeolites.extxyz"],
        "from": "Si-ZEO22 (github.com/tysours/Si-ZEO22, CC0) as extxyz, or load-atoms:SiO2-GAP-22",
    },
    "phosphorus": {
        "title": "Phosphorus",
        "paper": ["load-atoms:P-GAP-20"],
        "small": ["load-atoms:P-GAP-20"],
        "from": "load-atoms:P-GAP-20",
    },
    "mptrj": {
        "title": "MPtrj subset",
        "paper": ["mptrj.extxyz"],
        "small": ["mptrj.extxyz"],
        "from": "MPtrj (figshare 23713842) as extxyz with energy, forces and stress",
    },
    "lmo": {
        "title": "Li-Mn-O",
        "paper": ["lmo_train.extxyz", "lmo_val.extxyz"],
        "small": ["lmo_train.extxyz", "lmo_val.extxyz"],
        "from": "the Li-Mn-O data among MatterTune's examples, as extxyz",
    },
    "inp": {
        "title": "InP",
        "paper": ["inp.extxyz"],
        "small": ["inp.extxyz"],
        "from": "FitSNAP's example InP_JPCA2020, as extxyz",
    },
}


def configuration(
    system: str,
    backbone: str,
    scale: str = "small",
    *,
    data: Sequence[str] | None = None,
    overrides: Sequence[str] = (),
) -> RunConfig:
    """The run of one system and one network.

    The files ``base``, ``<system>``, ``<backbone>`` and, where there is one,
    ``<system>-<backbone>`` of the scale's folder are merged in this order
    (Table A.1 and Appendix C at scale ``"paper"``).

    Parameters
    ----------
    system, backbone, scale
        Of :data:`SYSTEMS`, :data:`BACKBONES`, :data:`SCALES`.
    data
        Structures to use instead of the system's own.
    overrides
        ``key.sub=value`` words.

    Raises
    ------
    ConfigError
        If a name is unknown or an override wrong.
    StructureError
        If the data is nowhere to be found.
    """
    for name, value, allowed in (
        ("system", system, tuple(SYSTEMS)),
        ("backbone", backbone, BACKBONES),
        ("scale", scale, SCALES),
    ):
        if value not in allowed:
            raise ConfigError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
    names = ["base", system, backbone, f"{system}-{backbone}"]
    files = [SETTINGS / scale / f"{name}.yaml" for name in names]
    content = {"name": f"{SYSTEMS[system]['title']}, {backbone}", "data": {"source": data_sources(system, scale, data)}}
    return load_layers([f for f in files if f.is_file()], content, overrides)


def data_sources(system: str, scale: str, data: Sequence[str] | None = None) -> list[str]:
    """Sources of a system's structures; raises StructureError if a file is in none of the usual places."""
    if data:
        return list(data)
    sources = []
    for name in SYSTEMS[system][scale]:
        if name.startswith("load-atoms:"):
            sources.append(name)
            continue
        place = next((Path(p) / name for p in PLACES if (Path(p) / name).is_file()), None)
        if place is None:
            raise StructureError(
                f"not found in {', '.join(PLACES)}. Say where it is with --data. Its origin: {SYSTEMS[system]['from']}",
                file=name,
                field="--data",
            )
        sources.append(str(place.resolve()))
    return sources
