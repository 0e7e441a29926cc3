"""Training of one network on labelled structures."""

from __future__ import annotations

import hashlib
import logging
import math
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

from mdl_physpretrain.errors import ConfigError, StructureError, Terminated
from mdl_physpretrain.locking import locked, prepare_folder
from mdl_physpretrain.option_types import shows_options, validated
from mdl_physpretrain.ownership import claim_folder
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.checkpoint import load_model
from mdl_physpretrain.potentials.error_metrics import error_sums
from mdl_physpretrain.recipe import FINETUNE, Training
from mdl_physpretrain.structures import label_counts, validate_structures
from mdl_physpretrain.structures.labels import forces_counted
from mdl_physpretrain.structures.validation import refuse_damaged
from mdl_physpretrain.training.data import EpochSampler, loader
from mdl_physpretrain.training.force_scales import force_scale_of
from mdl_physpretrain.training.hardware import check_hardware
from mdl_physpretrain.training.loss import EFSLoss
from mdl_physpretrain.training.module import KeepBest, TrainingModule, scheduler_arguments
from mdl_physpretrain.training.network import copied_network, is_name, new_network
from mdl_physpretrain.training.references import refit_reference_energies, shift_reference_energies
from mdl_physpretrain.training.replay_scope import refuse_finished_choice
from mdl_physpretrain.training.resume import training_identity

__all__ = ["train"]


@shows_options(Training)
def train(
    model: str | Path | EnergyModel,
    structures: Sequence[Atoms],
    *,
    val: Sequence[Atoms] | None = None,
    replay: Sequence[Atoms] = (),
    replay_fraction: float = FINETUNE.replay_fraction,
    replay_weights: Sequence[float] | None = None,
    replay_tolerance: float = 0.0,
    replay_final_weight: float = FINETUNE.replay_final_weight,
    model_args: dict[str, Any] | None = None,
    core: str | None = None,
    eam: str | Path | EnergyModel | None = None,
    freeze_eam: bool = False,
    references: dict[str, float] | None = None,
    parents: Sequence[Atoms] | None = None,
    shift_energies: bool = False,
    refit_energies: bool = False,
    seed: int = 0,
    directory: str | Path | None = None,
    resume: bool = True,
    accelerator: str = "auto",
    devices: int | str = 1,
    strategy: str = "auto",
    progress: bool = False,
    **options: Any,
) -> EnergyModel:
    """Train a model on labelled structures and return its best state.

    Give a model's name to start afresh, or a model (or checkpoint) to go on
    from its weights. :func:`mdl_physpretrain.training.pretrain` and
    :func:`mdl_physpretrain.training.finetune` are this function with the
    defaults and the seeds of the method.

    Parameters
    ----------
    model
        Registered name, native checkpoint, or a model (which is copied).
    structures, val
        Labelled structures. Without ``val`` the training errors choose the
        best state.
    replay, replay_fraction
        Teacher-labelled structures mixed in, so that finetuning does not
        forget the repulsive core; the share they make of an epoch.
        Forces count on the atoms that ``arrays["forces_counted"]`` says; on all where it is not there.
    replay_weights
        Positive weight of each replay structure in the drawing of an epoch's;
        by default all are equal.
    replay_tolerance
        Errors of labels that carry tolerances (``arrays["forces_tolerance"]``,
        :func:`mdl_physpretrain.teacher.label`) do not count below this many times these.
    replay_final_weight
        The errors of replayed structures weigh 1 in the first fifth of the epochs, then less and less, this in the
        last tenth: the teacher shapes the network early, the data have the last word.
    model_args, core, eam, freeze_eam, references
        See :func:`new_network`; only for a model given by name.
    parents
        A model given by name is made from these instead of ``structures``.
    shift_energies
        Before going on from a model that exists (or was made from ``parents``),
        fit its energies per element to the labels; its forces stay as they are. For finetuning: the
        teacher's energies need not be on the scale of the reference.
    refit_energies
        Fit the energies per element once more at the end, if that lowers the
        validation error of energies per atom.
    seed
        Of initial weights and order.
    directory
        Where ``best.pt``, ``last.ckpt`` and ``history.csv`` go: a new or empty
        folder, or that of an earlier training; of one process at a time.
    resume
        Go on from ``last.ckpt`` in ``directory`` when it is there; the result
        is that of an uninterrupted run. Data, options, seed and start must be
        those that wrote it; ``epochs`` may have grown.
    accelerator, devices, strategy
        Passed to Lightning's Trainer (CPU, GPUs, several of them).
    progress
        Show a progress bar.
    **options
        Of :class:`mdl_physpretrain.recipe.Training`, with its defaults:
        ``epochs``, ``batch_size``, ``learning_rate``, ``weight_decay``,
        ``optimizer`` (``"sam"``: every step takes a second gradient, at weights
        moved up the first one by ``rho``, the norm over all weights, with
        ``sam_adaptive`` over their relative changes; ``clip_grad`` holds for
        the second), ``weights`` of energy, forces and
        stress in the ``loss`` (:class:`EFSLoss`, with ``force_scale``; ``"auto"``: by the forces of ``structures``),
        ``clip_grad``, ``scheduler`` of the learning rate (``"plateau"``: with ``scheduler_factor`` and
        ``scheduler_patience``, on the validation total; ``"cosine"``: half a cosine over ``epochs``, which
        may then not grow on resume) down to ``min_learning_rate``,
        ``early_stopping``, ``ema``, ``checkpoint_every``.

    Returns
    -------
    EnergyModel
        A new model on the CPU, in evaluation mode.

    Raises
    ------
    ConfigError
        If an option is unknown or out of range, or ``directory`` holds other files.
    StructureError
        If there is nothing to learn from.
    CheckpointError
        If ``last.ckpt`` is of another training.
    PhysPretrainError
        If another process trains in ``directory``.
    """
    chosen = validated(Training, options)
    force_scale = force_scale_of(structures) if chosen.force_scale == "auto" else chosen.force_scale
    chosen = chosen.model_copy(update={"force_scale": force_scale})
    if not 0 <= replay_fraction < 1:
        raise ConfigError(f"replay_fraction must lie in [0, 1), not {replay_fraction}")
    if not 0 <= replay_final_weight <= 1:
        raise ConfigError(f"replay_final_weight must lie in [0, 1], not {replay_final_weight}")
    if replay_weights is not None and (len(replay_weights) != len(replay) or not min(replay_weights, default=1) > 0):
        raise ConfigError("replay_weights must be one positive number for each replay structure")
    if chosen.optimizer == "sam" and find_spec("pytorch_optimizer") is None:
        raise ConfigError("optimizer 'sam' needs the package pytorch_optimizer: pip install pytorch-optimizer")
    check_hardware(accelerator, devices, strategy)
    structures = validate_structures(list(structures), require=())
    if val is not None and len(val) == 0:
        raise StructureError("the validation set is empty; pass val=None to select on the training set")
    refuse_damaged(val or ())
    for name, part in (("training", structures), ("validation", val)):
        if part is not None and not any(label_counts(part)[kind] for kind in ("energy", "forces", "stress")):
            raise StructureError(f"no {name} structure has an energy, forces or a stress")
    inputs = [model, eam]
    if isinstance(eam, str | Path):
        eam = load_model(eam, expect="eam")
    if is_name(model):
        network = new_network(
            model,
            structures if parents is None else parents,
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
        model = model if isinstance(model, EnergyModel) else load_model(model)
        network = copied_network(model, structures, core)
    if shift_energies and not (is_name(model) and parents is None):
        shift_reference_energies(network, structures)
        network.train()
    if not any(p.requires_grad for p in network.parameters()):
        raise ConfigError("the model has no trainable parameters")
    folder = None if directory is None else claim_folder(directory, "training", inputs=inputs, inside=True)
    identity = None
    falls = len(replay) > 0 and replay_fraction > 0 and replay_final_weight < 1
    if folder is not None:  # hashes of all structures
        prepare_folder(folder)
        if resume:
            refuse_finished_choice(folder)
        identity = training_identity(
            chosen,
            {"structures": structures, "val": val, "replay": replay, "parents": parents},
            {"model": model, "model_args": model_args or {}, "core": core, "eam": eam, "references": references},
            seed=seed,
            replay_fraction=replay_fraction,
            freeze_eam=freeze_eam,
            shift_energies=shift_energies,
            **({} if not refit_energies else {"refit_energies": True}),
            **({} if replay_weights is None else {"replay_weights": list(replay_weights)}),
            **({} if not falls else {"replay_final_weight": replay_final_weight, "epochs": chosen.epochs}),
            **({} if not replay_tolerance else {"replay_tolerance": [replay_tolerance, _tolerances(replay)]}),
            **({} if (counted := _counted([*structures, *replay])) is None else {"forces_counted": counted}),
        )

    sampler = EpochSampler(
        len(structures), n_replay=len(replay), replay_fraction=replay_fraction, seed=seed, weights=replay_weights
    )
    batches: dict[str, Any] = {"cutoff": network.cutoff, "batch_size": chosen.batch_size, "dtype": network.dtype}
    train_loader = loader([*structures, *replay], sampler=sampler, n_replay=len(replay), **batches)
    val_loader = loader(list(val) if val is not None else list(structures), **batches)
    energy, forces, stress = chosen.weights
    module = TrainingModule(
        network,
        EFSLoss(energy, forces, stress, kind=chosen.loss, force_scale=force_scale, tolerance=replay_tolerance),
        learning_rate=chosen.learning_rate,
        weight_decay=chosen.weight_decay,
        scheduler=scheduler_arguments(chosen),
        optimizer=chosen.optimizer,
        rho=chosen.rho,
        sam_adaptive=chosen.sam_adaptive,
        replay_final_weight=replay_final_weight if falls else 1.0,
        identity=identity,
    )
    keep = KeepBest(folder)
    callbacks: list[Any] = [keep]
    if chosen.ema is not None:
        callbacks.append(EMAWeightAveraging(decay=chosen.ema))
    if chosen.early_stopping is not None:
        callbacks.append(EarlyStopping("val_total", patience=chosen.early_stopping, mode="min"))
    if folder is not None:
        every = chosen.checkpoint_every
        callbacks.append(
            ModelCheckpoint(folder, filename="last", save_top_k=1, every_n_epochs=every, enable_version_counter=False)
        )
    if progress:
        callbacks.append(RichProgressBar(leave=False))
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with locked(folder), warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            warnings.filterwarnings("ignore", category=FutureWarning)
            trainer = Trainer(
                max_epochs=chosen.epochs,
                accelerator=accelerator,
                devices=devices,
                strategy=strategy,
                gradient_clip_val=chosen.clip_grad,
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
            _fit(trainer, module, train_loader, val_loader, ckpt_path=checkpoint, weights_only=True)
    finally:
        log.setLevel(level)
    if not keep.best_weights:
        raise StructureError("training gave no finite validation error: look at the labels and the learning rate")
    diverged = [row["epoch"] for row in keep.history if not math.isfinite(row["val_loss"])]
    if diverged:
        warnings.warn(
            f"the validation error is NaN or infinite from epoch {diverged[0]} on: the best state before is kept; "
            "a smaller learning rate may help",
            stacklevel=2,
        )
    result = deepcopy(network).cpu()
    result.load_state_dict(keep.best_weights)
    best, validation = keep.best, structures if val is None else val
    refitted = refit_energies and refit_reference_energies(result, structures, validation)
    if refitted:
        best = error_sums(result, validation).means(chosen.weights)["total"]
    elements = set(network.metadata.get("elements", []))
    elements |= {s for a in [*structures, *replay] for s in a.get_chemical_symbols()}
    result.metadata = {
        "history": keep.history,
        "best_val_loss": best,
        "seed": seed,
        "elements": sorted(elements),
    }
    if refitted and folder is not None and trainer.is_global_zero:
        result.save(folder / "best.pt")
    return result.eval()


def _tolerances(replay: Sequence[Atoms]) -> float:
    """A number that changes with the tolerances of the labels."""
    return float(sum(atoms.arrays["forces_tolerance"].sum() for atoms in replay if "forces_tolerance" in atoms.arrays))


def _counted(structures: Sequence[Atoms]) -> str | None:
    """Hash of which atoms' forces count; ``None``: all do."""
    masks = [forces_counted(atoms) for atoms in structures]
    if all(mask.all() for mask in masks):
        return None
    return hashlib.sha256(b"|".join(mask.tobytes() for mask in masks)).hexdigest()


def _fit(trainer: Trainer, *args: Any, **options: Any) -> None:
    """Train; Lightning makes quiet exits of Ctrl-C (code 1) and SIGTERM (code 0), which are no finished training."""
    try:
        trainer.fit(*args, **options)
    except SystemExit as end:
        if trainer.received_sigterm:
            raise Terminated from None
        if isinstance(end.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    if trainer.received_sigterm:
        raise Terminated


def _loggers(folder: Path | None) -> Any:
    if folder is None or find_spec("tensorboard") is None:
        return False
    return TensorBoardLogger(folder, name="tensorboard", version="")
