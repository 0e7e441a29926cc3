"""Recipes ``shuffle`` and ``replay``: composition and order of an epoch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from ase import Atoms
from lightning.pytorch import Callback, LightningModule, Trainer
from mattertune.data import MatterTuneDataModule
from mattertune.data.base import DatasetConfig
from mattertune.recipes import RecipeConfigBase, recipe_registry
from nshconfig import Field
from torch.utils.data import Dataset

from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.recipe import Finetune

__all__ = ["EpochDataset", "OrderCallback", "ReplayRecipeConfig", "ShuffleRecipeConfig"]


@recipe_registry.register
class ShuffleRecipeConfig(RecipeConfigBase):
    """A new order of the training data every epoch, which the host does not provide."""

    name: Literal["shuffle"] = "shuffle"

    seed: Annotated[int, Field(ge=0)] = 0
    """The order depends on it and the epoch."""

    def create_lightning_callback(self) -> OrderCallback:
        return OrderCallback(seed=self.seed)


@recipe_registry.register
class ReplayRecipeConfig(RecipeConfigBase):
    """Mix teacher-labelled structures into every epoch, so that finetuning does not forget; shuffles."""

    name: Literal["replay"] = "replay"

    dataset: DatasetConfig
    """Where they come from, usually the ``eam_labelled`` of the pretraining."""

    fraction: Annotated[float, Field(gt=0, lt=1)] = Finetune().replay_fraction
    """Their share of an epoch, drawn afresh each time."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Choice and order depend on it and the epoch."""

    def create_lightning_callback(self) -> OrderCallback:
        return OrderCallback(seed=self.seed, dataset=self.dataset, fraction=self.fraction)


class EpochDataset(Dataset[Atoms]):
    """All of a dataset and a share of another, in an order that belongs to the epoch.

    Every structure of ``base`` comes once; of ``replay`` so many are drawn that they make ``fraction`` in [0, 1).
    """

    def __init__(self, base: Any, replay: Any = (), *, fraction: float = 0.0, seed: int = 0) -> None:
        if not hasattr(base, "__len__"):
            raise ConfigError("shuffle and replay need training data of known length, not a stream")
        self.base, self.replay, self.seed = base, replay, seed
        self.drawn = min(len(replay), round(len(base) * fraction / (1 - fraction)))
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw and order anew."""
        rng = np.random.default_rng([self.seed, 0x0D3, epoch])
        extra = rng.permutation(len(self.replay))[: self.drawn] + len(self.base)
        self.order = rng.permutation(np.concatenate([np.arange(len(self.base)), extra]))

    def __len__(self) -> int:
        return len(self.base) + self.drawn

    def __getitem__(self, index: int) -> Atoms:
        k = int(self.order[index])
        return self.base[k] if k < len(self.base) else self.replay[k - len(self.base)]


class OrderCallback(Callback):
    """Wraps the training data in an :class:`EpochDataset`."""

    def __init__(self, *, seed: int, dataset: Any = None, fraction: float = 0.0) -> None:
        self.seed, self.config, self.fraction = seed, dataset, fraction
        self.data: EpochDataset | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        module: Any = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(module, MatterTuneDataModule):
            raise ConfigError("shuffle and replay need a MatterTune data module")
        base = module.datasets["train"]
        if isinstance(base, EpochDataset):
            raise ConfigError("recipes: replay shuffles already; leave shuffle (or the second replay) out")
        extra: Any = ()
        if self.config is not None:
            self.config.prepare_data()
            extra = self.config.create_dataset()
            if not len(extra):
                raise StructureError("the dataset of replay is empty")
        self.data = module.datasets["train"] = EpochDataset(base, extra, fraction=self.fraction, seed=self.seed)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self.data is not None
        self.data.set_epoch(trainer.current_epoch)
