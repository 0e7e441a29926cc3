"""What the tasks of a run depend on: files outside the folder, and modules that are looked up by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mdl_physpretrain.potentials.identity import named_files
from mdl_physpretrain.potentials.registry import model_class
from mdl_physpretrain.probes.base import Probe
from mdl_physpretrain.structures.datasets import SHIPPED, shipped_file
from mdl_physpretrain.teacher.driver import drives_by_fit
from mdl_physpretrain.teacher.registry import kind_modules, kind_options, kind_potentials
from mdl_physpretrain.teacher.source import BESIDE
from mdl_physpretrain.workflow.config import RunConfig

__all__ = [
    "calculator_section",
    "driver_modules",
    "external_inputs",
    "input_files",
    "model_modules",
    "network_modules",
    "probe_modules",
    "teacher_modules",
]


def external_inputs(sources: Sequence[str] | None) -> tuple[list[str], list[tuple[str, str]]]:
    """Files that sources stand for, and names with hashes for those that are no files."""
    files: list[str] = []
    named: list[tuple[str, str]] = []
    for source in sources or ():
        if source in SHIPPED:
            files.append(str(shipped_file(source)))
        elif source in ("train", "val", "test"):
            files.append(f"data/{source}.extxyz")
        elif source.startswith("load-atoms:"):
            named.append((source, ""))
        elif any(c in source for c in "*?[") and not Path(source).exists():
            root = Path(source).anchor or "."
            pattern = str(Path(source).relative_to(root)) if Path(source).is_absolute() else source
            files += sorted(str(p.resolve()) for p in Path(root).glob(pattern) if p.is_file())
        else:
            files.append(str(Path(source).resolve()))
    return files, named


def input_files(config: RunConfig) -> list[str]:
    """Files of the user that a run reads, but for those of its own folder."""
    data, md = config.data, config.md
    sources = [s or [] for s in (data.source, data.train, data.val, data.test, md.source, md.reference)]
    files = [name for part in sources for name in external_inputs(part)[0] if Path(name).is_absolute()]
    arguments = (config.teacher.calculator_args, md.reference_potential_args)
    files += [name for given in arguments for name, _ in named_files(given)]
    return files + [name for name in (config.teacher.checkpoint, md.reference_potential) if name]


def probe_modules(probes: Sequence[Probe]) -> tuple[str, ...]:
    """Modules of probes, which are looked up by name."""
    return tuple(dict.fromkeys(type(probe).__module__ for probe in probes))


def model_modules(*names: str) -> tuple[str, ...]:
    """Modules of potentials, which are looked up by name."""
    return tuple(model_class(name).__module__ for name in names)


def network_modules(config: RunConfig, core: str, hybrid: str) -> tuple[str, ...]:
    """Modules of all potentials that an arm's network is made of."""
    parts = [config.backbone.name]
    parts += ["zbl"] if core == "zbl" else []
    parts += ["eam"] if hybrid != "none" else []
    return model_modules(*parts, *(["sum"] if len(parts) > 1 else []))


def teacher_modules(config: RunConfig) -> tuple[str, ...]:
    """Modules of the potential that labels."""
    if config.teacher.calculator is not None:
        return (config.teacher.calculator.partition(":")[0],)
    return model_modules(*kind_potentials(config.teacher.kind))


def driver_modules(config: RunConfig) -> tuple[str, ...]:
    """Modules of the potential that is fitted beside a calculator, or to move atoms of thermal structures."""
    moving = drives_by_fit(config.augmentation, calculator=config.teacher.calculator is not None)
    kinds = [BESIDE.kind] * moving + [config.teacher.kind] * config.teacher.with_fitted
    return tuple(dict.fromkeys(module for kind in kinds for module in kind_modules(kind)))


def calculator_section(config: RunConfig) -> list[Any]:
    """What labels of a calculator depend on; further options where they are set: labels of before stay valid."""
    teacher = config.teacher
    further: list[Any] = []
    if teacher.core != "none" or teacher.force:
        further.append({"core": teacher.core, "force": teacher.force})
    if teacher.with_fitted:
        further.append({"with_fitted": [teacher.kind, kind_options(teacher).model_dump()]})
    return [teacher.calculator, teacher.calculator_args, *further] if teacher.calculator else []
