"""Recipe ``md_physicality``: molecular dynamics during training, and counts of its failures."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import torch
from ase import Atoms
from lightning.pytorch import Callback, LightningModule, Trainer
from mattertune.recipes import RecipeConfigBase, recipe_registry
from nshconfig import Field

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.files import write_atomic
from mdl_physpretrain.hosts.mattertune.labelling import clean
from mdl_physpretrain.hosts.mattertune.loading import potential
from mdl_physpretrain.hosts.training_md import start_structures, trajectory_table
from mdl_physpretrain.option_types import Sources
from mdl_physpretrain.potentials.safe_load import load_foreign
from mdl_physpretrain.probes.physicality import trajectory_counts
from mdl_physpretrain.report import write_report
from mdl_physpretrain.workflow.md_options import Simulation

__all__ = ["HostMD", "MDPhysicalityCallback", "MDPhysicalityRecipeConfig"]

log = logging.getLogger(__name__)

CONDITIONS = ("ensemble", "temperature", "timestep", "steps", "barostat")
PREFIX, FINAL = "physicality", "physicality_end"


class HostMD(Simulation):
    """Options of ``md`` in ``physpretrain run``; structures may also be those of the host's data module."""

    source: Sources = Field(default=["validation"])


@recipe_registry.register
class MDPhysicalityRecipeConfig(RecipeConfigBase):
    """Run MD of given structures at chosen epochs and at the end.

    Logs ``physicality/unphysical``, ``overlap``, ``lindemann``, ``broken`` and
    ``trajectories`` (counts), which checkpointing and early stopping may
    monitor, and at the end ``physicality_end/...``.
    """

    name: Literal["md_physicality"] = "md_physicality"

    md: HostMD = HostMD()
    """Ensemble, temperature (K), timestep (fs), steps, ...; ``source``: files, or ``train`` or ``validation``."""

    every_n_epochs: Annotated[int, Field(ge=1)] | None = None
    """MD after the first epoch and then after every so many."""

    epochs: Sequence[int] = []
    """MD after these epochs besides, counted from 0."""

    at_end: Literal["best", "last", "no"] = "best"
    """MD when training ends, with the weights of the best checkpoint or the last ones."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Of velocities and noise; also the seed's name in the report."""

    arm: str = "mattertune"
    """Name in the report; runs of other arms and seeds may share ``directory``."""

    directory: str = "physicality"
    """Gets ``physicality.csv`` (of the end), ``epochs.csv`` and ``report/index.html``."""

    def create_lightning_callback(self) -> MDPhysicalityCallback:
        return MDPhysicalityCallback(self)


class MDPhysicalityCallback(Callback):
    """Does what :class:`MDPhysicalityRecipeConfig` says.

    ``counts`` are of the latest MD, ``final`` of that at the end.
    """

    def __init__(self, config: MDPhysicalityRecipeConfig) -> None:
        self.config = config
        self.structures: list[Atoms] = []
        self.counts: dict[str, int] = {}
        self.final: dict[str, int] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        parts = {name: partial(_host_structures, trainer, name) for name in ("train", "validation")}
        self.structures = clean(start_structures(self.config.md, parts, "md_physicality.md", seed=0))
        earlier = Path(self.config.directory) / "epochs.csv"
        if trainer.is_global_zero and not getattr(trainer, "ckpt_path", None) and earlier.is_file():
            write_atomic(earlier, _others(earlier, self.config).to_csv(index=False))
        run: Any = trainer
        watched = {getattr(c, "monitor", None) for c in run.callbacks}
        if any(str(w).startswith(f"{PREFIX}/") for w in watched) and not self._due(0):
            raise ConfigError(
                "a callback monitors md_physicality's counts, but there are none after the first epoch: "
                "set 'every_n_epochs', or put 0 into 'epochs'"
            )

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._during(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.fit_loop.epoch_loop._should_check_val_epoch():  # else it was done after validation
            self._during(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.config.at_end == "no":
            return
        best = getattr(trainer.checkpoint_callback, "best_model_path", "") if self.config.at_end == "best" else ""
        self.final = self._run_with(best, trainer, pl_module)
        values = {f"{FINAL}/{name}": float(count) for name, count in self.final.items()}
        trainer.callback_metrics.update({k: torch.tensor(v) for k, v in values.items()})
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)
            logger.save()

    def _run_with(self, best: str, trainer: Trainer, module: Any) -> dict[str, int]:
        """MD with the weights of a checkpoint, or the present ones; afterwards the module is as before."""
        kept = {k: v.clone() for k, v in module.state_dict().items()} if best else {}
        before = module.device
        module.to_device(trainer.strategy.root_device)
        try:
            if best:
                module.load_state_dict(load_foreign(best)["state_dict"])
            return self._run(trainer, module, None)
        finally:
            if kept:
                module.load_state_dict(kept)
            module.to_device(before)

    def _due(self, epoch: int) -> bool:
        every = self.config.every_n_epochs
        return epoch in self.config.epochs or (every is not None and epoch % every == 0)

    def _during(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._due(trainer.current_epoch):
            self.counts = self._run(trainer, pl_module, trainer.current_epoch)
        for name, count in self.counts.items():  # between two MD the last counts hold
            pl_module.log(f"{PREFIX}/{name}", float(count), on_step=False, on_epoch=True, batch_size=1)

    def _run(self, trainer: Trainer, module: Any, epoch: int | None) -> dict[str, int]:
        """Counts of one MD of all structures; one process runs it, all learn them."""
        counts: dict[str, int] = {}
        if trainer.is_global_zero:
            try:
                counts = self._simulated(module, epoch)
            except Exception:  # whatever happens in the MD at the end, what was trained is not lost to it
                if epoch is not None:
                    raise
                log.exception("md_physicality: the MD at the end failed, there are no counts of it")
        return trainer.strategy.broadcast(counts)

    def _simulated(self, module: Any, epoch: int | None) -> dict[str, int]:
        """Counts of one MD of all structures, which are also written."""
        config = self.config
        trajectories = Path(config.directory) / f"{config.arm}-{config.seed}.trajectories"
        model = potential(module, batched=True)
        table = trajectory_table(model, self.structures, config.md, trajectories, config.seed)
        counts = trajectory_counts(table)
        self._write(table, counts, epoch)
        moment = "at the end" if epoch is None else f"after epoch {epoch}"
        log.info("MD %s: %d of %d trajectories unphysical", moment, counts["unphysical"], counts["trajectories"])
        return counts

    def _write(self, table: pd.DataFrame, counts: dict[str, int], epoch: int | None) -> None:
        folder, config = Path(self.config.directory), self.config
        epochs, trajectories = folder / "epochs.csv", folder / "physicality.csv"
        row = pd.DataFrame([{"arm": config.arm, "seed": config.seed, "epoch": epoch, **counts}])
        try:
            folder.mkdir(parents=True, exist_ok=True)
            row.to_csv(epochs, mode="a", header=not epochs.is_file(), index=False)
            if epoch is None:
                conditions = {name: getattr(config.md, name) for name in CONDITIONS}
                table = table.assign(seed=config.seed, arm=config.arm, **conditions)
                if trajectories.is_file():
                    table = pd.concat([_others(trajectories, config), table.astype(object)], ignore_index=True)
                write_atomic(trajectories, table.to_csv(index=False))
        except OSError as error:
            raise ConfigError(f"md_physicality.directory: cannot write to {folder}: {error.strerror}") from error
        if epoch is None:
            write_report(folder)


def _host_structures(trainer: Any, name: str) -> list[Atoms] | None:
    data = trainer.datamodule.datasets.get(name)
    return None if data is None else clean([data[k] for k in range(len(data))])


def _others(path: Path, config: MDPhysicalityRecipeConfig) -> pd.DataFrame:
    """A table's rows of other arms and seeds, as text."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    return table[(table["arm"] != config.arm) | (table["seed"] != str(config.seed))]
