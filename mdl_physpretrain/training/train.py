"""Pretraining, finetuning and plain training: one function, other labels."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ase import Atoms
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

from mdl_physpretrain.errors import CheckpointError, ConfigError, StructureError
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.structures import validate_structures
from mdl_physpretrain.training.data import EpochSampler, loader
from mdl_physpretrain.training.loss import EFSLoss
from mdl_physpretrain.training.module import KeepBest, TrainingModule
from mdl_physpretrain.training.network import build_student, take_student
from mdl_physpretrain.training.references import shift_reference_energies

__all__ = ["train"]


def train(
    model: str | Path | EnergyModel,
    structures: Sequence[Atoms],
    *,
    val: Sequence[Atoms] | None = None,
    epochs: int = 100,
    batch_size: int = 8,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-2,
    optimizer: str = "adamw",
    rho: float = 0.05,
    weights: tuple[float, float, float] = (0.01, 50.0, 50.0),
    loss: str = "mae",
    force_scale: float | None = None,
    clip_grad: float | None = 10.0,
    scheduler_factor: float = 0.8,
    scheduler_patience: int = 10,
    min_learning_rate: float = 1e-5,
    early_stopping: int | None = None,
    ema: float | None = None,
    replay: Sequence[Atoms] = (),
    replay_fraction: float = 0.0,
    model_args: dict[str, Any] | None = None,
    core: str | None = None,
    eam: str | Path | EnergyModel | None = None,
    freeze_eam: bool = False,
    references: dict[str, float] | None = None,
    shift_energies: bool = False,
    seed: int = 0,
    directory: str | Path | None = None,
    resume: bool = True,
    checkpoint_every: int = 1,
    accelerator: str = "auto",
    devices: int | str = "auto",
    strategy: str = "auto",
    progress: bool = False,
) -> EnergyModel:
    """Train a model on labelled structures and return its best state.

    Pretraining, finetuning and a plain baseline are the same call: give a
    model's name to start afresh, or a model (or checkpoint) to go on from its
    weights.

    Parameters
    ----------
    model
        Registered name, native checkpoint, or a model (which is copied).
    structures, val
        Labelled structures. Without ``val`` the training errors choose the
        best state.
    epochs, batch_size
        Of structures.
    learning_rate, weight_decay
        Of AdamW.
    optimizer, rho
        ``"sam"``: sharpness-aware minimisation over AdamW; every step takes a
        second gradient, at weights moved up the first one by ``rho`` (the
        norm over all weights). ``clip_grad`` holds for the second.
    weights
        Of energy, forces, stress in the loss (the paper's by default).
    loss, force_scale
        See :class:`mdl_physpretrain.training.loss.EFSLoss`.
    clip_grad
        Largest norm of the gradient.
    scheduler_factor, scheduler_patience, min_learning_rate
        Of ReduceLROnPlateau on the validation total.
    early_stopping
        Epochs without improvement before stopping.
    ema
        Decay of an exponential moving average of the weights, e.g. 0.99.
    replay, replay_fraction
        Teacher-labelled structures mixed in, so that finetuning does not
        forget the repulsive core; the share they make of an epoch.
    model_args, core, eam, freeze_eam, references
        See :func:`build_student`; only for a model given by name.
    shift_energies
        Before going on from a model, fit its energies per element to the
        labels; its forces stay as they are. For finetuning: the teacher's
        energies need not be on the scale of the reference.
    seed
        Of initial weights and order.
    directory
        Where ``best.pt``, ``last.ckpt`` and ``history.csv`` go.
    resume
        Go on from ``last.ckpt`` in ``directory`` when it is there; the result
        is that of an uninterrupted run.
    checkpoint_every
        Epochs between two ``last.ckpt``.
    accelerator, devices, strategy
        Passed to Lightning's Trainer (CPU, GPUs, several of them).
    progress
        Show a progress bar.

    Returns
    -------
    EnergyModel
        A new model on the CPU, in evaluation mode.

    Raises
    ------
    ConfigError
        If an option is out of range.
    StructureError
        If there is nothing to learn from.
    """
    _check_options(epochs, batch_size, learning_rate, replay_fraction, ema, optimizer, rho)
    structures = validate_structures(list(structures), require=())
    if val is not None and len(val) == 0:
        raise StructureError("the validation set is empty; pass val=None to select on the training set")
    if isinstance(model, str) and not model.endswith((".pt", ".ckpt")):
        student = build_student(
            model,
            structures,
            model_args=model_args,
            core=core,
            eam=eam,
            freeze_eam=freeze_eam,
            references=references,
            seed=seed,
        )
    elif model_args or eam is not None or freeze_eam:
        raise ConfigError("model_args, eam and freeze_eam belong to a new model given by name, not to one that exists")
    else:
        student = take_student(model, structures, core)
    if shift_energies:
        shift_reference_energies(student, structures)
        student.train()
    has_parameters = any(p.requires_grad for p in student.parameters())
    if not has_parameters:
        raise ConfigError("the model has no trainable parameters")
    folder = _prepare(directory)

    sampler = EpochSampler(len(structures), n_replay=len(replay), replay_fraction=replay_fraction, seed=seed)
    common: dict[str, Any] = {"cutoff": student.cutoff, "batch_size": batch_size, "dtype": student.dtype}
    train_loader = loader([*structures, *replay], sampler=sampler, **common)
    val_loader = loader(list(val) if val is not None else list(structures), **common)

    module = TrainingModule(
        student,
        EFSLoss(*weights, kind=loss, force_scale=force_scale),
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        scheduler={"factor": scheduler_factor, "patience": scheduler_patience, "min_lr": min_learning_rate},
        optimizer=optimizer,
        rho=rho,
    )
    keep = KeepBest(folder)
    callbacks: list[Any] = [keep]
    if ema is not None:
        callbacks.append(EMAWeightAveraging(decay=ema))
    if early_stopping is not None:
        callbacks.append(EarlyStopping("val_total", patience=early_stopping, mode="min"))
    if folder is not None:
        callbacks.append(
            ModelCheckpoint(
                folder, filename="last", save_top_k=1, every_n_epochs=checkpoint_every, enable_version_counter=False
            )
        )
    if progress:
        callbacks.append(RichProgressBar(leave=False))
    quiet = logging.getLogger("lightning.pytorch")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            warnings.filterwarnings("ignore", category=FutureWarning)
            trainer = Trainer(
                max_epochs=epochs,
                accelerator=accelerator,
                devices=devices,
                strategy=strategy,
                gradient_clip_val=clip_grad,
                callbacks=callbacks,
                logger=_loggers(folder),
                enable_checkpointing=folder is not None,
                enable_progress_bar=progress,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                log_every_n_steps=1,
                inference_mode=False,
                use_distributed_sampler=False,
                default_root_dir=folder,
            )
            last = None if folder is None else folder / "last.ckpt"
            checkpoint = str(last) if resume and last is not None and last.is_file() else None
            trainer.fit(module, train_loader, val_loader, ckpt_path=checkpoint, weights_only=True)
    finally:
        quiet.setLevel(level)
    if not keep.best_weights:
        raise StructureError("training gave no finite validation error: look at the labels and the learning rate")
    result = deepcopy(student).cpu()
    result.load_state_dict(keep.best_weights)
    known = set(student.metadata.get("elements", []))
    elements = sorted(known | {s for a in [*structures, *replay] for s in a.get_chemical_symbols()})
    result.metadata = {
        "history": keep.history,
        "best_val_loss": keep.best,
        "seed": seed,
        "elements": elements,
    }
    return result.eval()


def _check_options(
    epochs: int,
    batch_size: int,
    learning_rate: float,
    replay_fraction: float,
    ema: float | None,
    optimizer: str,
    rho: float,
) -> None:
    if epochs < 1 or batch_size < 1:
        raise ConfigError(f"epochs and batch_size must be at least 1, not {epochs} and {batch_size}")
    if not learning_rate > 0:
        raise ConfigError(f"learning_rate must be positive, not {learning_rate}")
    if not 0 <= replay_fraction < 1:
        raise ConfigError(f"replay_fraction must lie in [0, 1), not {replay_fraction}")
    if ema is not None and not 0 < ema < 1:
        raise ConfigError(f"ema must lie in (0, 1), not {ema}")
    if optimizer not in {"adamw", "sam"}:
        raise ConfigError(f"optimizer must be 'adamw' or 'sam', not {optimizer!r}")
    if optimizer == "sam" and not 0 < rho < float("inf"):
        raise ConfigError(f"rho must be positive and finite, not {rho}")
    if optimizer == "sam" and find_spec("pytorch_optimizer") is None:
        raise ConfigError("optimizer 'sam' needs the package pytorch_optimizer: pip install pytorch-optimizer")


def _prepare(directory: str | Path | None) -> Path | None:
    if directory is None:
        return None
    folder = Path(directory)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".write-test"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise CheckpointError(f"cannot write to {folder}: {error}") from error
    return folder


def _loggers(folder: Path | None) -> Any:
    if folder is None or find_spec("tensorboard") is None:
        return False

    return TensorBoardLogger(folder, name="tensorboard", version="")
