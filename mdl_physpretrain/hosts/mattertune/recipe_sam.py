"""Recipe ``sam``: sharpness-aware minimisation around the optimiser that the host configured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import Annotated, Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from mattertune.recipes import RecipeConfigBase, recipe_registry
from nshconfig import Field
from torch import nn

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.recipe import Training
from mdl_physpretrain.training.sam import ClosureSAM

__all__ = ["SAMCallback", "SAMRecipeConfig"]


@recipe_registry.register
class SAMRecipeConfig(RecipeConfigBase):
    """Take every step with the gradient at the worst point nearby (two passes per batch)."""

    name: Literal["sam"] = "sam"

    rho: Annotated[float, Field(gt=0)] = Training().rho
    """Length of the ascent, in the space of the weights."""

    @classmethod
    def ensure_dependencies(cls) -> None:
        if find_spec("pytorch_optimizer") is None:
            raise ConfigError("recipes: sam needs the package pytorch_optimizer (pip install pytorch_optimizer)")

    def create_lightning_callback(self) -> SAMCallback:
        self.ensure_dependencies()
        return SAMCallback(self.rho)


class SAMCallback(Callback):
    """Wraps the optimisers when training starts, and unwraps them when it ends."""

    def __init__(self, rho: float) -> None:
        self.rho = rho

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.accumulate_grad_batches != 1:
            raise ConfigError("sam needs accumulate_grad_batches: 1")
        if trainer.precision in ("16-mixed", "16"):
            raise ConfigError(f"sam cannot be used with precision {trainer.precision!r}")
        context = partial(_second_pass, pl_module)
        trainer.strategy.optimizers = [
            ClosureSAM.around(o, rho=self.rho, perturbed=context) for o in trainer.optimizers
        ]

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.strategy.optimizers = [getattr(o, "base_optimizer", o) for o in trainer.optimizers]


class _NoMetrics(nn.Module):
    """Stands in for the metrics while the batch is not a new one."""

    def forward(self, *args: Any) -> dict[str, Any]:
        return {}


@contextmanager
def _second_pass(module: Any) -> Iterator[None]:
    """Nothing is logged or counted twice, and running statistics stay."""
    buffers = {name: b.clone() for name, b in module.named_buffers() if not name.startswith("train_metrics")}
    metrics = module.train_metrics
    module.train_metrics = _NoMetrics()
    module.__dict__["log"] = module.__dict__["log_dict"] = lambda *args, **kwargs: None
    try:
        yield
    finally:
        del module.__dict__["log"], module.__dict__["log_dict"]
        module.train_metrics = metrics
        with torch.no_grad():
            for name, old in buffers.items():
                module.get_buffer(name).copy_(old)
