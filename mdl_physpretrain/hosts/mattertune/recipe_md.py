"""Recipe ``md_physicality``: molecular dynamics while training, and a count of what goes wrong in it."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import torch
from ase import Atoms
from lightning.pytorch import Callback, LightningModule, Trainer
from mattertune.recipes import RecipeConfigBase, recipe_registry
from nshconfig import Field

from mdl_physpretrain.dynamics import simulate
from mdl_physpretrain.dynamics.assessment import assess
from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.files import write_atomic
from mdl_physpretrain.hosts.mattertune.labelling import clean
from mdl_physpretrain.hosts.mattertune.loading import potential
from mdl_physpretrain.option_types import Sources
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.report import write_report
from mdl_physpretrain.structures import read_structures
from mdl_physpretrain.workflow.data import choose
from mdl_physpretrain.workflow.md_options import Simulation

__all__ = ["COUNTS", "HostMD", "MDPhysicalityCallback", "MDPhysicalityRecipeConfig"]

log = logging.getLogger(__name__)

COUNTS = ("trajectories", "unphysical", "overlap", "lindemann", "broken")
CONDITIONS = ("ensemble", "temperature", "timestep", "steps")
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

    Attributes
    ----------
    counts
        Of the latest MD while training.
    final
        Of the MD at the end.
    """

    def __init__(self, config: MDPhysicalityRecipeConfig) -> None:
        self.config = config
        self.structures: list[Atoms] = []
        self.counts: dict[str, int] = {}
        self.final: dict[str, int] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        self.structures = _structures(self.config.md, trainer)
        if trainer.is_global_zero and not getattr(trainer, "ckpt_path", None):
            _forget(Path(self.config.directory) / "epochs.csv", self.config)
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
        module: Any = pl_module
        kept = {k: v.clone() for k, v in module.state_dict().items()} if best else {}
        before = module.device
        module.to_device(trainer.strategy.root_device)
        try:
            if best:
                state = torch.load(best, map_location=before, weights_only=True)["state_dict"]
                module.load_state_dict(state)
            self.final = self._run(trainer, module, None)
        finally:
            if kept:
                module.load_state_dict(kept)
            module.to_device(before)
        values = {f"{FINAL}/{name}": float(count) for name, count in self.final.items()}
        trainer.callback_metrics.update({k: torch.tensor(v) for k, v in values.items()})
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)
            logger.save()

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
            table = _simulate(potential(module), self.structures, self.config)
            counts = _count(table)
            self._write(table, counts, epoch)
            when = "at the end" if epoch is None else f"after epoch {epoch}"
            log.info("MD %s: %d of %d trajectories unphysical", when, counts["unphysical"], counts["trajectories"])
        return trainer.strategy.broadcast(counts)

    def _write(self, table: Any, counts: dict[str, int], epoch: int | None) -> None:
        folder, config = Path(self.config.directory), self.config
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _append(folder / "epochs.csv", {"arm": config.arm, "seed": config.seed, "epoch": epoch, **counts})
            if epoch is None:
                _merge(folder / "physicality.csv", table, config)
        except OSError as error:
            raise ConfigError(f"md_physicality.directory: cannot write to {folder}: {error.strerror}") from error
        if epoch is None:
            write_report(folder)


def _structures(md: HostMD, trainer: Any) -> list[Atoms]:
    found: list[Atoms] = []
    for source in md.source:
        if source in ("train", "validation"):
            data = trainer.datamodule.datasets.get(source)
            if data is None:
                raise ConfigError(f"md_physicality.md.source: the run has no {source} data; name a file")
            found += clean([data[k] for k in range(len(data))])
        else:
            found += read_structures(source, duplicates="rename")
    if md.max_atoms is not None:
        found = [a for a in found if len(a) <= md.max_atoms]
    if not found:
        raise ConfigError(
            f"md_physicality.md: no structures in {', '.join(md.source)} with at most {md.max_atoms} atoms"
        )
    return choose(clean(found), md.n_structures, 0)


def _simulate(model: Any, structures: list[Atoms], config: MDPhysicalityRecipeConfig) -> Any:
    options = config.md.simulation(Path(config.directory) / f"{config.arm}-{config.seed}.trajectories")
    if not isinstance(model, EnergyModel):
        options["engine"] = "ase"
    return assess(simulate(model, structures, seed=config.seed, **options), limits=options["limits"])


def _count(table: Any) -> dict[str, int]:
    found = {
        "trajectories": len(table),
        "unphysical": (~table["physical"]).sum(),
        "overlap": table["overlap"].sum(),
        "lindemann": table["lindemann_violation"].sum(),
        "broken": (table["nan"] | table["exploded"]).sum(),
    }
    return {name: int(found[name]) for name in COUNTS}


def _forget(path: Path, config: MDPhysicalityRecipeConfig) -> None:
    """Remove what an earlier run of this arm and seed wrote."""
    if not path.is_file():
        return
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        names = list(reader.fieldnames or [])
        kept = [r for r in reader if (r.get("arm"), r.get("seed")) != (config.arm, str(config.seed))]
    part = path.with_name(path.name + ".part")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(kept)
    part.replace(path)


def _append(path: Path, row: dict[str, Any]) -> None:
    new = not path.is_file()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


def _merge(path: Path, table: Any, config: MDPhysicalityRecipeConfig) -> None:
    """Put one arm's and seed's trajectories into the table, instead of older ones of theirs."""
    fresh = table.assign(seed=config.seed, arm=config.arm, **{name: getattr(config.md, name) for name in CONDITIONS})
    if path.is_file():
        old = pd.read_csv(
            path, dtype={"structure_id": str, "first_unphysical_step": "Int64"}, keep_default_na=False, na_values=[""]
        )
        old = old[(old["arm"] != config.arm) | (old["seed"] != config.seed)]
        fresh = pd.concat([old.astype(object), fresh.astype(object)], ignore_index=True)
    write_atomic(path, fresh.to_csv(index=False))
