"""Jobs of ``physpretrain mattertune``: successive runs of the host that pass their weights on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.hosts.mattertune import plugin  # noqa: F401 - registers what configurations may name
from mdl_physpretrain.workflow.yaml_files import KeyLines, read_yaml, set_value

__all__ = ["STAGES", "Outcome", "Stage", "load_stages", "run_stages"]

STAGES = ("pretrain", "finetune", "evaluate")
COMMON = "common"
WEIGHTS = "physics_pretrain"
KINDS = ("type", "name")
SPLITS = {"ManualSplitDataModuleConfig": "train", "AutoSplitDataModuleConfig": "dataset"}  # the host's, and their mark


@dataclass
class Stage:
    """One run of the host."""

    name: str  # "pretrain", "finetune", "evaluate", or that of the file
    config: Any
    waits: bool = False  # its weights are those of the stage before


@dataclass
class Outcome:
    """Results of a stage."""

    name: str
    seconds: float
    checkpoint: str | None  # the best one
    best: float | None  # value of what it was chosen by
    metrics: dict[str, float] = field(default_factory=dict)  # last value of each
    output: Any = field(default=None, repr=False)


def load_stages(path: str | Path, overrides: Sequence[str] = ()) -> list[Stage]:
    """Read a job and check all of it.

    Parameters
    ----------
    path
        YAML: a MatterTune configuration, or ``pretrain``, ``finetune`` and
        ``evaluate`` (each one of these), with what they share in ``common``.
        ``inherits: other.yaml`` works as in ``physpretrain run``.
    overrides
        ``key.sub=value`` words.

    Raises
    ------
    ConfigError
        With the place of every mistake.
    """
    path, source = Path(path), KeyLines()
    content = read_yaml(path, source)
    for word in overrides:
        set_value(content, word, source)
    if not set(content) & {*STAGES, COMMON}:
        return [_stage(path.stem, content, source, ())]
    strange = sorted(set(content) - {*STAGES, COMMON})
    if strange:
        raise ConfigError(
            f"{source.of((strange[0],)) or path}: {strange[0]}: a job has the parts {', '.join(STAGES)} and {COMMON}"
        )
    stages: list[Stage] = []
    for name in (n for n in STAGES if n in content):
        settings = _over(content.get(COMMON) or {}, content[name] or {})
        waits = bool(stages) and _take_over(settings, fit=name != "evaluate")
        if name == "evaluate":
            settings["trainer"] = {**(settings.get("trainer") or {}), "max_epochs": 0}
        stages.append(_stage(name, settings, source, (name,), waits))
    if not stages:
        raise ConfigError(f"{path}: a job needs at least one of {', '.join(STAGES)}")
    return stages


def run_stages(stages: Sequence[Stage], listener: Callable[[str, str], None] | None = None) -> list[Outcome]:
    """Run a job's stages, each beginning with the best weights of the one before.

    Parameters
    ----------
    stages
        Of :func:`load_stages`.
    listener
        Told ``("start", stage)`` and ``("done", stage)``.
    """
    notify = listener or (lambda event, name: None)
    outcomes: list[Outcome] = []
    for stage in stages:
        notify("start", stage.name)
        outcomes.append(_run(stage, outcomes[-1].checkpoint if outcomes else None))
        notify("done", stage.name)
    return outcomes


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` over ``below`` key by key; what names another kind (``type``, ``name``) replaces the whole."""
    merged = dict(below)
    for key, value in above.items():
        earlier = merged.get(key)
        mappings = isinstance(earlier, Mapping) and isinstance(value, Mapping)
        if mappings and all(value.get(k, earlier.get(k)) == earlier.get(k) for k in KINDS):  # type: ignore[union-attr]
            merged[key] = _over(earlier, value)  # type: ignore[arg-type]
        else:
            merged[key] = value
    return merged


def _take_over(settings: dict[str, Any], *, fit: bool) -> bool:
    """Make a stage begin with the weights of the one before, unless it names others."""
    recipes = settings["recipes"] = [deepcopy(r) for r in settings.get("recipes") or []]
    weights = next((r for r in recipes if isinstance(r, dict) and r.get("name") == WEIGHTS), None)
    if weights is None:
        weights = {"name": WEIGHTS}
        recipes.append(weights)
    if not fit:
        weights.setdefault("shift_energies", False)
    return weights.get("checkpoint") is None


def _stage(
    name: str, content: Mapping[str, Any], source: KeyLines, place: tuple[str, ...], waits: bool = False
) -> Stage:
    from mattertune.main import MatterTunerConfig

    try:
        config = MatterTunerConfig.from_dict(dict(content))
    except ValidationError as error:
        data = content.get("data")
        lines = []
        for detail in error.errors():
            keys = [str(part) for part in detail["loc"]]
            split = next((part for part in keys if part in SPLITS), None)
            if split is not None and isinstance(data, Mapping) and SPLITS[split] not in data and len(data) > 1:
                continue  # the host tries both kinds of split; of interest is the one that is meant
            where = (*place, *(part for part in keys if part not in SPLITS))
            lines.append(f"{source.of(where) or name}: {'.'.join(where)}: {detail['msg']}")
        raise ConfigError("\n".join(dict.fromkeys(lines)) or f"{name}: {error}") from None
    _check_orb(config.model, name)
    try:
        for part in (config.model, *config.recipes):
            part.ensure_dependencies()
    except ImportError as error:
        raise ConfigError(f"{name}: {error}") from error
    for recipe in config.recipes:
        if recipe.name == WEIGHTS and recipe.checkpoint is None and not waits:
            raise ConfigError(f"{name}: recipes.{WEIGHTS}.checkpoint: give the weights to begin with")
    return Stage(name, config, waits)


def _check_orb(model: Any, name: str) -> None:
    """The host's Orb looks for its own stress under another name than it gave it, and stops on the first batch."""
    if model.name != "orb" or not any(p.type == "stresses" for p in model.properties):
        return
    from mattertune.backbones.orb.model import ORBBackboneModule

    if "stress" in ORBBackboneModule.model_forward.__code__.co_consts:
        raise ConfigError(
            f"{name}: model.properties: the backbone orb of this MatterTune cannot predict stress (it ends with a "
            "KeyError 'stress' on the first batch): remove 'stresses'"
        )


def _run(stage: Stage, before: str | None) -> Outcome:
    from mattertune.data import MatterTuneDataModule
    from mattertune.main import MatterTuner

    config = stage.config
    if stage.waits:
        if not before:
            raise ConfigError(f"{stage.name}: the stage before wrote no checkpoint to begin with")
        for recipe in config.recipes:
            if recipe.name == WEIGHTS and recipe.checkpoint is None:
                recipe.checkpoint = before
    started = time.perf_counter()
    output = MatterTuner(config).tune()
    trainer = output.trainer
    if config.trainer.max_epochs == 0:  # nothing was trained: only the errors are of interest
        trainer.validate(output.model, datamodule=MatterTuneDataModule(config.data), verbose=False)
    metrics = {k: float(v) for k, v in trainer.callback_metrics.items()}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        metrics |= {f"physicality_end/{k}": float(v) for k, v in getattr(callback, "final", {}).items()}
    keeper = trainer.checkpoint_callback
    best, score = getattr(keeper, "best_model_path", "") or None, getattr(keeper, "best_model_score", None)
    seconds = time.perf_counter() - started
    return Outcome(stage.name, seconds, best, None if score is None else float(score), metrics, output)
