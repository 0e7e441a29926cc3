"""Lightning module of the training, and its callback for the best weights."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn import Parameter

from mdl_physpretrain.files import replacing
from mdl_physpretrain.graphs.batch import AtomicBatch
from mdl_physpretrain.potentials.base import EnergyModel, predict
from mdl_physpretrain.potentials.checkpoint import has_finite_weights, save_model
from mdl_physpretrain.potentials.error_metrics import ErrorSums
from mdl_physpretrain.progress import announce
from mdl_physpretrain.recipe import Training
from mdl_physpretrain.training.loss import EFSLoss
from mdl_physpretrain.training.resume import refuse_other_training
from mdl_physpretrain.training.sam import ClosureSAM

__all__ = ["KeepBest", "TrainingModule", "make_adamw", "replay_weight", "scheduler_arguments"]

#: Shares of a training between which the weight of replayed structures falls.
REPLAY_FALLS = (0.2, 0.9)


class TrainingModule(LightningModule):
    """Trains an :class:`EnergyModel` on energies, forces and stress.

    Parameters
    ----------
    model
        Trained in place.
    loss
        See :class:`EFSLoss`; the validation total uses the same weights.
    learning_rate, weight_decay
        Of AdamW.
    scheduler
        Arguments of ReduceLROnPlateau, or of CosineAnnealingLR (those with ``T_max``, in epochs).
    optimizer
        ``"adamw"``, or ``"sam"``: AdamW with the gradients of sharpness-aware
        minimisation.
    rho, sam_adaptive
        Length of SAM's ascent; whether every weight moves in proportion to its
        square (Kwon et al., ICML 2021).
    replay_final_weight
        Of the errors of replayed structures, see :func:`replay_weight`.
    identity
        See :func:`mdl_physpretrain.training.resume.training_identity`; a
        checkpoint of another one is refused.

    Notes
    -----
    With SAM both passes of a step see the same batch. Only the gradient of
    the second one, which makes the update, is clipped; the ascent has length
    ``rho`` whatever the first gradient's norm. Between the passes every
    buffer (running statistics of a batch normalisation) keeps what the first
    one left there. The training loss is the first pass's. On several devices
    both gradients are averaged over all of them, so all ascend alike.
    """

    def __init__(
        self,
        model: EnergyModel,
        loss: EFSLoss,
        *,
        learning_rate: float,
        weight_decay: float,
        scheduler: dict[str, Any],
        optimizer: str = "adamw",
        rho: float = 0.05,
        sam_adaptive: bool = False,
        replay_final_weight: float = 1.0,
        identity: dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.loss = model, loss
        self.learning_rate, self.weight_decay, self.scheduler = learning_rate, weight_decay, scheduler
        self.sam, self.rho, self.sam_adaptive = optimizer == "sam", rho, sam_adaptive
        self.identity, self.replay_final_weight = identity, replay_final_weight
        self.perturbed = False
        self.validation_sums = ErrorSums()
        self.train_loss: list[Any] = [0.0, 0]

    def transfer_batch_to_device(self, batch: AtomicBatch, device: torch.device, dataloader_idx: int) -> AtomicBatch:
        return batch.to(device)

    def training_step(self, batch: AtomicBatch, batch_idx: int) -> Tensor:
        out = predict(self.model, batch, create_graph=True)
        loss = self.loss(out, batch)
        if not self.perturbed:
            self.train_loss[0] = self.train_loss[0] + loss.detach().double()  # no wait for the device
            self.train_loss[1] += 1
        return loss

    @contextmanager
    def perturbed_pass(self) -> Iterator[None]:
        """What surrounds SAM's second pass: the batch is not new, buffers stay."""
        saved = [buffer.clone() for buffer in self.buffers()]
        self.perturbed = True
        try:
            yield
        finally:
            self.perturbed = False
            with torch.no_grad():
                for buffer, old in zip(self.buffers(), saved, strict=True):
                    buffer.copy_(old)

    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        if self.perturbed or not self.sam:
            super().configure_gradient_clipping(*args, **kwargs)

    def on_train_epoch_start(self) -> None:
        self.train_loss = [0.0, 0]
        done = self.trainer.current_epoch / (self.trainer.max_epochs or 1)
        self.loss = replace(self.loss, replay_weight=replay_weight(done, self.replay_final_weight))

    def on_validation_epoch_start(self) -> None:
        self.validation_sums = ErrorSums()

    def validation_step(self, batch: AtomicBatch, batch_idx: int) -> None:
        self.validation_sums.add(predict(self.model, batch), batch)

    def validation_errors(self) -> dict[str, float]:
        """Errors of the epoch over all processes."""
        sums = self.trainer.strategy.reduce(self.validation_sums.sums.to(self.device), reduce_op="sum")
        total = ErrorSums()
        total.sums = torch.as_tensor(sums).cpu()
        return total.means((self.loss.energy, self.loss.forces, self.loss.stress))

    def on_validation_epoch_end(self) -> None:
        errors = self.validation_errors()
        self.log("val_total", errors["total"], prog_bar=True, sync_dist=False)
        self.log("val_forces_mae", errors["forces_mae"], prog_bar=True, sync_dist=False)

    def configure_optimizers(self) -> Any:
        parameters = [p for p in self.parameters() if p.requires_grad]
        options: dict[str, Any] = {"lr": self.learning_rate, "weight_decay": self.weight_decay}
        optimizer: torch.optim.Optimizer
        if self.sam:
            options |= {"rho": self.rho, "adaptive": self.sam_adaptive}
            optimizer = ClosureSAM(parameters, perturbed=self.perturbed_pass, **options)
        else:
            optimizer = make_adamw(parameters, **options)
        schedule: torch.optim.lr_scheduler.LRScheduler
        if "T_max" in self.scheduler:
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, **self.scheduler)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule}}
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **self.scheduler)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val_total"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["training_identity"] = self.identity

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.identity is not None:
            refuse_other_training(checkpoint.get("training_identity"), self.identity, str(self.trainer.ckpt_path))


def replay_weight(done: float, final: float) -> float:
    """Weight of replayed structures' errors when a share of the epochs is done: 1, then a line down to ``final``."""
    start, end = REPLAY_FALLS
    return 1.0 + (final - 1.0) * min(max((done - start) / (end - start), 0.0), 1.0)


def scheduler_arguments(options: Training) -> dict[str, Any]:
    """Of the schedule that :class:`TrainingModule` follows for these options."""
    if options.scheduler == "cosine":
        lowest = min(options.min_learning_rate, options.learning_rate)
        return {"T_max": options.epochs, "eta_min": lowest}
    return {
        "factor": options.scheduler_factor,
        "patience": options.scheduler_patience,
        "min_lr": options.min_learning_rate,
    }


def make_adamw(parameters: Iterable[Parameter], **options: Any) -> torch.optim.AdamW:
    """AdamW; on the CPU all weights in one call, which takes a third of the time for networks of our size.

    On GPUs PyTorch chooses. (Lightning refuses to clip gradients in mixed precision with the fused form.)
    """
    parameters = list(parameters)
    plain = all(p.device.type == "cpu" and p.is_floating_point() for p in parameters)
    return torch.optim.AdamW(parameters, fused=True if plain and parameters else None, **options)


class KeepBest(Callback):
    """Writes ``best.pt`` (native) and ``history.csv``, and remembers both on resume.

    It must stand before an averaging callback in the list, to see the averaged
    weights during validation.

    Parameters
    ----------
    directory
        Where to write; ``None`` keeps the best weights in memory only.
    """

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory
        self.best = float("inf")
        self.best_weights: dict[str, Tensor] = {}
        self.history: list[dict[str, float]] = []
        self._elapsed = 0.0
        self._learning_rate = math.nan

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        stopped = any(rule.wait_count >= rule.patience for rule in trainer.early_stopping_callbacks)
        if trainer.current_epoch and (stopped or not has_finite_weights(pl_module.model)):
            trainer.should_stop = True  # a training that had ended early does not go on when it is called again

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = time.perf_counter()
        self._learning_rate = trainer.optimizers[0].param_groups[0]["lr"]
        self._announce(trainer, 0)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
        self._announce(trainer, rest[-1] + 1)

    def _announce(self, trainer: Trainer, batches: int) -> None:
        epochs, each = trainer.max_epochs or 1, max(int(trainer.num_training_batches), 1)
        words = f"epoch {trainer.current_epoch + 1} of {epochs}"
        announce(words, trainer.current_epoch * each + batches, epochs * each)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        if trainer.sanity_checking:
            return
        errors = pl_module.validation_errors()
        total, steps = pl_module.train_loss
        self._elapsed += time.perf_counter() - getattr(self, "_start", time.perf_counter())
        row = {
            "epoch": trainer.current_epoch,
            "train_loss": float(total) / max(steps, 1),
            "val_loss": errors["total"],
            "val_energy_mae": errors["energy_mae"],
            "val_energy_per_atom_mae": errors["energy_per_atom_mae"],
            "val_forces_mae": errors["forces_mae"],
            "val_stress_mae": errors["stress_mae"],
            "lr": self._learning_rate,
            "seconds": round(self._elapsed, 3),
        }
        self.history = [*[h for h in self.history if h["epoch"] < row["epoch"]], row]
        finite = has_finite_weights(pl_module.model)
        trainer.should_stop |= not finite  # no step mends that
        better = finite and errors["total"] < self.best
        if better:
            self.best = errors["total"]
            self.best_weights = {k: v.detach().cpu().clone() for k, v in pl_module.model.state_dict().items()}
        if self.directory is not None and trainer.is_global_zero:
            self._write(pl_module, row, better)

    def _write(self, module: TrainingModule, row: dict[str, float], better: bool) -> None:
        assert self.directory is not None
        with replacing(self.directory / "history.csv") as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            writer.writeheader()
            writer.writerows(self.history)
        if better:
            save_model(
                module.model, self.directory / "best.pt", metadata={"epoch": row["epoch"], "val_loss": self.best}
            )

    def state_dict(self) -> dict[str, Any]:
        return {
            "best": self.best,
            "best_weights": self.best_weights,
            "history": self.history,
            "elapsed": self._elapsed,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.best_weights = state_dict["best"], state_dict["best_weights"]
        self.history, self._elapsed = state_dict["history"], state_dict["elapsed"]
