"""The folder of a check: what it may hold already, and what it says about itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mdl_physpretrain import recipe
from mdl_physpretrain.errors import ConfigError, PhysPretrainError
from mdl_physpretrain.locking import prepare_folder
from mdl_physpretrain.ownership import claim_folder, write_again
from mdl_physpretrain.statistics.reference import REFERENCE_POTENTIAL
from mdl_physpretrain.workflow.check_suite import MD, CheckInputs, CheckSettings
from mdl_physpretrain.workflow.folder import environment

__all__ = ["describe_check", "open_folder"]


def open_folder(folder: Path, settings: CheckSettings, inputs: Sequence[Any]) -> None:
    """Create the folder, and make sure that it is ours and holds no run and no MD under other conditions."""
    if (folder / "config.yaml").exists():
        raise ConfigError(f"{folder} is the folder of a run: choose another output folder")
    try:
        prepare_folder(folder)
    except PhysPretrainError as error:
        raise ConfigError(str(error)) from error
    claim_folder(folder, "check", inputs=inputs)
    try:
        stored = json.loads((folder / "check.json").read_text())["settings"]
        options = json.loads(json.dumps(asdict(settings)))
        stored.setdefault("barostat", recipe.MD.barostat)  # older checks know this one only
        changed = [key for key in (*MD, "nve_steps") if stored.get(key) != options[key]]
    except FileNotFoundError:
        return
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{folder / 'check.json'} is damaged ({error}): choose another folder") from error
    if changed:
        differences = ", ".join(f"{key} {stored.get(key)} instead of {options[key]}" for key in changed)
        raise ConfigError(f"{folder} holds a check with {differences}: choose another output folder")


def describe_check(folder: Path, inputs: CheckInputs, potentials: Mapping[str, str], command: Sequence[str]) -> None:
    """Write ``check.json``, ``environment.json`` and ``data/summary.json``."""
    sizes = [len(a) for a in inputs.structures]
    content = {
        "version": 1,
        "command": list(command),
        "potentials": {name: text for name, text in potentials.items() if name != REFERENCE_POTENTIAL},
        "reference_potential": potentials.get(REFERENCE_POTENTIAL),
        "structures": [str(a.info["structure_id"]) for a in inputs.structures],
        "settings": asdict(inputs.settings),
    }
    summary = {
        "source": "structures of the check",
        "n_test": len(inputs.structures),
        "elements": sorted({s for a in inputs.structures for s in a.symbols}),
        "n_atoms": {"min": min(sizes), "max": max(sizes), "mean": float(np.mean(sizes))},
    }
    for name, value in (
        ("check.json", content),
        ("environment.json", environment(command, inputs.settings.seeds)),
        ("data/summary.json", summary),
    ):
        write_again(folder, name, json.dumps(value, indent=1))
