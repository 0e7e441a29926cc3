"""What MatDeepLearn would ignore or stumble over late in a configuration: refused before any work."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib.util import find_spec
from inspect import signature
from typing import Any

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.hosts.matdeeplearn.networks import EARLY_BY_NAME

__all__ = ["PACKAGE", "check_job", "check_training_state", "is_our_trainer", "sam_radius"]

SECTION = "physpretrain"
HOST_SECTIONS = ("trainer", "task", "model", "optim", "dataset")
FLAG = "submit"  # which main.py adds
SHORT_NAMES = ("hybrid", "physpretrain", "sam")
PACKAGE = "mdl_physpretrain.hosts.matdeeplearn."
TRAINER = f"{PACKAGE}PhysPretrainTrainer"


def is_our_trainer(config: Mapping[str, Any]) -> bool:
    """Whether the job's trainer is one of the plugin's, by its short name or its import path."""
    trainer = str(config.get("trainer", "property"))
    return trainer in SHORT_NAMES or trainer.startswith(PACKAGE)


def sam_radius(config: Mapping[str, Any]) -> float | None:
    """``optim.rho``, where the paper's authors write the radius of their trainer ``sam``.

    Raises
    ------
    ConfigError
        If it is not a positive number.
    """
    rho = (config.get("optim") or {}).get("rho")
    if rho is None:
        return None
    if isinstance(rho, bool) or not isinstance(rho, int | float) or not rho > 0:
        raise ConfigError(f"optim.rho: the radius of sharpness-aware minimisation must be positive, not {rho!r}")
    return float(rho)


def check_job(config: Mapping[str, Any]) -> None:
    """Refuse what would be ignored without a word, and what fails after hours.

    Parameters
    ----------
    config
        The whole configuration.

    Raises
    ------
    ConfigError
        Naming the section or key, and the nearest name.
    """
    known = (*HOST_SECTIONS, SECTION)
    for name in (k for k in config if k is not None and k not in (*known, FLAG)):
        near = get_close_matches(str(name).lower(), known, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]!r}?" if near else f"the sections are {', '.join(known)}"
        raise ConfigError(f"unknown section {name!r}, which would be ignored: {hint}")
    if SECTION in config and not is_our_trainer(config):
        raise ConfigError(
            f"trainer: {config.get('trainer', 'property')} ignores the section {SECTION!r}: write "
            f"'trainer: {TRAINER}', or remove the section"
        )
    model = config.get("model") or {}
    _check_pooling(model)
    if model.get("clamped_params") and str(config.get("trainer")) not in ("hybrid", f"{PACKAGE}HybridTrainer"):
        raise ConfigError(
            f"model.clamped_params: trainer {config.get('trainer', 'property')} ignores it: write 'trainer: hybrid', "
            "or remove it"
        )
    if (config.get("optim") or {}).get("rho") is not None and not is_our_trainer(config):
        raise ConfigError(
            f"optim.rho: trainer {config.get('trainer', 'property')} ignores it: write 'trainer: sam', whose radius it "
            "is, or remove it"
        )
    if (config.get("task") or {}).get("run_mode") != "predict":
        _check_labels(config)


def check_training_state(config: Mapping[str, Any], run_mode: str) -> None:
    """Refuse to go on with an optimizer where MatDeepLearn stops on it.

    The public task ``finetune`` with ``load_training_state: True``, as in all such files of the paper's authors, reads
    a variable that it never sets: a NameError after the data were processed.

    Parameters
    ----------
    config
        The whole configuration.
    run_mode
        Of the job, whatever the file says.

    Raises
    ------
    ConfigError
        With the line that works.
    """
    if run_mode != "finetune" or not (config.get("task") or {}).get("load_training_state"):
        return
    if find_spec("matdeeplearn") is None:
        return
    from matdeeplearn.trainers.base_trainer import BaseTrainer

    names = BaseTrainer.load_pre_trained_weights.__code__.co_names  # globals and attributes
    if "checkpoint" in names:
        raise ConfigError(
            "task.load_training_state: this MatDeepLearn cannot finetune with the optimizer of a checkpoint (it stops "
            "on an undefined name 'checkpoint'): write 'load_training_state: False'; the weights are loaded either way"
        )


def _check_pooling(model: Mapping[str, Any]) -> None:
    """The public ``torchmd_etEarly`` has no ``pool_order``."""
    named = str(model.get("name")).rpartition(".")[2] in EARLY_BY_NAME
    if not named or model.get("pool_order", "early") == "early" or find_spec("matdeeplearn") is None:
        return
    from matdeeplearn.models.torchmd_etEarly import TorchMD_ET_Early

    if "pool_order" not in signature(TorchMD_ET_Early).parameters:
        raise ConfigError(
            f"model.pool_order: {model['pool_order']} is ignored by the {model['name']} of this MatDeepLearn, which "
            "pools early; the branch of the paper's authors honours it. Write 'name: torchmd_et' (the same network, "
            "with pool_order), or 'pool_order: early'"
        )


def _check_labels(config: Mapping[str, Any]) -> None:
    """A loss with forces or stress, and data without."""
    loss = (config.get("optim") or {}).get("loss") or {}
    name, weights = str(loss.get("loss_type", "")).rpartition(".")[2], loss.get("loss_args") or {}
    if name == "ForceStressLoss":
        needed = ["forces", "stress"]
    elif name == "ForceLoss":
        needed = ["forces"]
    elif name == "EFSLoss":
        needed = [k for k, w in (("forces", "weight_force"), ("stress", "weight_stress")) if weights.get(w, 1)]
    else:
        needed = []
    present = (config.get("dataset") or {}).get("additional_attributes") or []
    if missing := [k for k in needed if k not in present]:
        ways = "set weight_" + missing[0].removesuffix("s") + ": 0" if name == "EFSLoss" else "choose another loss"
        raise ConfigError(
            f"optim.loss: {name} needs {', '.join(missing)}, which dataset.additional_attributes does not name: "
            f"name it there, or {ways}"
        )
