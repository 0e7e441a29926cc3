"""Trainers ``physpretrain``, ``sam`` and ``hybrid``: MatDeepLearn's own, with stages and MD around it.

A pretraining is MatDeepLearn's ``PropertyTrainer.train`` on another data set;
what differs between stages (loaders, optimizer, loss, folder) is swapped, the
loop is theirs.
"""

from __future__ import annotations

import copy
import logging
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from matdeeplearn.common.data import get_dataloader
from matdeeplearn.common.registry import registry
from matdeeplearn.trainers.property_trainer import PropertyTrainer

from mdl_physpretrain.errors import CheckpointError, ConfigError
from mdl_physpretrain.hosts.matdeeplearn.checkpoint import state_of
from mdl_physpretrain.hosts.matdeeplearn.data import Replay, host_data, label_index, structures_of
from mdl_physpretrain.hosts.matdeeplearn.eam_layout import HYBRID_PREFIX, PREFIX
from mdl_physpretrain.hosts.matdeeplearn.job_checks import PACKAGE, check_job, check_training_state
from mdl_physpretrain.hosts.matdeeplearn.labelling import labelled_structures
from mdl_physpretrain.hosts.matdeeplearn.losses import EFSLoss
from mdl_physpretrain.hosts.matdeeplearn.lower_bounds import bounded_parameters, lift
from mdl_physpretrain.hosts.matdeeplearn.md_examiner import MDExaminer
from mdl_physpretrain.hosts.matdeeplearn.paths import newest
from mdl_physpretrain.hosts.matdeeplearn.sam_step import SAMStep
from mdl_physpretrain.hosts.matdeeplearn.settings import Settings, read_settings
from mdl_physpretrain.potentials.safe_load import load_foreign
from mdl_physpretrain.recipe import Training
from mdl_physpretrain.structures import split_by_parent, write_structures

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["HybridTrainer", "PhysPretrainTrainer", "SAMTrainer"]

log = logging.getLogger(__name__)

SAM_RADIUS = Training().rho  # of trainer `sam`, unless physpretrain.sam says otherwise


class _StagedTrainer(SAMStep, PropertyTrainer):
    """MatDeepLearn's trainer with the section ``physpretrain``, examined by MD on request."""

    settings: Settings
    config: dict[str, Any]
    epoch: int
    timestamp_id: str
    train_sampler: Any
    data_loader: Any
    write_output: Any
    metrics: Any
    best_metric: Any
    best_model_state: Any
    checkpoint_path: Any
    started_from_checkpoint = False
    _md_examiner: MDExaminer | None = None
    stage = "train"

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> _StagedTrainer:
        """As MatDeepLearn's; checks the configuration before anything is loaded."""
        check_job({**config, "trainer": PACKAGE + cls.__name__})  # one of ours, or this would not run
        check_training_state(config, str(config["task"].get("run_mode")))
        settings = cls._settings(config)
        forces = "forces" in (config["dataset"].get("additional_attributes") or [])
        # asked for by MatDeepLearn's predict task without a default
        config["task"].setdefault("labels", forces or not config["model"].get("gradient"))
        untouched = copy.deepcopy(config)  # MatDeepLearn changes the learning rate in it
        trainer = super().from_config(config)
        trainer.settings, trainer.config = settings, untouched
        trainer.sam_radius, trainer.sam_adaptive = settings.sam, settings.sam_adaptive
        return trainer

    @classmethod
    def _settings(cls, config: dict[str, Any]) -> Settings:
        return read_settings(config)

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes files."""
        return str(self.rank) in ("0", "cpu", "cuda")

    @property
    def results(self) -> Path:
        """Folder of this job's results."""
        return Path(self.save_dir) / "results" / self.timestamp_id

    def load_checkpoint(self, load_training_state: bool = True) -> None:
        self._check_checkpoints(complete=True)
        super().load_checkpoint(load_training_state)
        self.started_from_checkpoint = True

    def load_pre_trained_weights(self, load_training_state: bool = False) -> None:
        self._check_checkpoints(complete=False)
        super().load_pre_trained_weights(load_training_state)
        self.started_from_checkpoint = True

    def _check_checkpoints(self, *, complete: bool) -> None:
        """Refuse checkpoints of other networks, of which MatDeepLearn would copy what happens to fit."""
        paths = [str(newest(p)) for p in str(self.checkpoint_path or "").split(",") if p]
        if len(paths) != len(self.model):
            raise ConfigError(f"task.checkpoint_path names {len(paths)} checkpoints for {len(self.model)} models")
        self.checkpoint_path = ",".join(paths)
        for path, model in zip(paths, self.model, strict=True):
            network = getattr(model, "module", model)
            saved, present = state_of(load_foreign(path), path), network.state_dict()
            common = [k for k in present if k in saved]
            wrong = [k for k in common if present[k].shape != saved[k].shape]
            if any(k.startswith(PREFIX) for k in saved) and any(k.startswith(HYBRID_PREFIX) for k in present):
                raise CheckpointError(
                    f"{path} was written by an earlier version of the plugin: convert it with its YAML into a native "
                    "checkpoint and that back (physpretrain convert old.pt net.pt; physpretrain convert net.pt new.pt)"
                )
            if wrong or not common or (complete and set(saved) != set(present)):
                k = next(iter(wrong or set(saved) ^ set(present)))
                shapes = f": {tuple(saved[k].shape)}, not {tuple(present[k].shape)}" if wrong else " is not in both"
                name = type(network).__name__
                raise CheckpointError(f"{path} holds another network than this {name} ({k}{shapes})")
            if len(common) < len(present):
                log.info(
                    f"{path} has {len(common)} of the {len(present)} entries of the network; the others start anew"
                )

    def train(self) -> Any:
        """Train, and examine what came out."""
        result = super().train()
        self._examine_at_end()
        return result

    def validate(self, split: str = "val") -> Any:
        metrics = super().validate(split)
        if split == "val":
            name = type(self.loss_fn).__name__
            self._last_metric = sum(m[name]["metric"] for m in metrics) / len(metrics)
        return metrics

    def _scheduler_step(self) -> None:
        super()._scheduler_step()
        options = self.settings.md
        if options is None or self.stage == "pretrain":
            return
        if options.every and self.epoch % options.every == 0:
            self._examiner().examine(self.epoch, getattr(self, "_last_metric", float("nan")))
            if options.select:
                self._examiner().keep_weights_if_better()
        if options.select and self.epoch == self._last_epoch():
            self._examiner().restore_best_weights()

    def _last_epoch(self) -> int:
        further = self.max_checkpoint_epochs
        return self._first_epoch + further if further else self.max_epochs

    def _examiner(self) -> MDExaminer:
        if self._md_examiner is None:
            self._md_examiner = MDExaminer(self)
        return self._md_examiner

    def _start(self) -> None:
        """Remember where the job starts, and find now what an examination would find missing at the end."""
        self._first_epoch = int(self.epoch)
        if self.settings.md is not None and self.is_main_process:
            self._examiner()

    def _examine_at_end(self) -> None:
        if self.settings.md is not None and self.is_main_process:
            self._examiner().examine(None, float("nan"))


@registry.register_trainer("sam")
class SAMTrainer(_StagedTrainer):
    """MatDeepLearn's trainer with sharpness-aware minimisation, from scratch or from a checkpoint.

    ``physpretrain.sam`` is the radius (0.05 by default), or ``optim.rho`` as
    in the authors' files, whose trainer is the adaptive one;
    ``physpretrain.md`` examines the result.
    """

    @classmethod
    def _settings(cls, config: dict[str, Any]) -> Settings:
        settings = read_settings(config)
        return settings if settings.sam else settings.model_copy(update={"sam": SAM_RADIUS})

    def train(self) -> Any:
        """Train with SAM, and examine what came out."""
        kind = "adaptive sharpness-aware" if self.sam_adaptive else "sharpness-aware"
        log.info(f"{kind} minimisation with a radius of {self.sam_radius:g}")
        self._start()
        return super().train()


@registry.register_trainer("hybrid")
class HybridTrainer(_StagedTrainer):
    """The authors' trainer: MatDeepLearn's, with lower bounds ``model.clamped_params``.

    As there a key is the first part of the names of parameters, which are
    lifted to its value before every step. Without any it is ``property``.
    """

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> _StagedTrainer:
        """As MatDeepLearn's; refuses bounds of parameters that the model does not have."""
        trainer = super().from_config(config)
        bounds = config["model"].get("clamped_params") or {}
        for model, optimizer in zip(trainer.model, trainer.optimizer, strict=True):
            bounded = bounded_parameters(getattr(model, "module", model), bounds)
            optimizer.register_step_pre_hook(lambda *_, bounded=bounded: lift(bounded))
        what = f"lower bounds {bounds}" if bounds else "no clamped_params: the same as 'property'"
        log.info(f"trainer hybrid: {what}; freezing is that of the model")
        return trainer

    def train(self) -> Any:
        """Train, and examine what came out."""
        self._start()
        return super().train()


@registry.register_trainer("physpretrain")
class PhysPretrainTrainer(_StagedTrainer):
    """Pretrain on EAM-labelled structures, then train on the data, in one job.

    Pretraining is left out when the job starts from a checkpoint
    (``run_mode finetune`` or ``continue_job``). Its checkpoints are in
    ``results/<job>/pretrain/``.
    """

    def train(self) -> Any:
        """Pretrain, finetune, examine."""
        pretrains = self.settings.epochs and not self.started_from_checkpoint
        if pretrains and self.train_sampler is not None and torch.distributed.get_world_size() > 1:
            raise ConfigError(
                "pretraining and finetuning in one job needs a single device (MatDeepLearn gives the best weights of a "
                "training to its first process only): use two jobs, AugmentAndLabel and then --run-mode finetune"
            )
        self._start()
        if pretrains:
            labelled = self._pretrain()
            if self.settings.replay_fraction:
                return self._finetune_with(labelled)
        elif self.started_from_checkpoint:
            log.info("Started from a checkpoint: no pretraining")
        return super().train()

    def _pretrain(self) -> Any:
        """Pretrain all models of the ensemble; the labelled data set is returned."""
        settings = self.settings
        folder = self.results / "pretrain"
        labelled = self._labelled(folder)
        train, val = split_by_parent(labelled, settings.val_fraction, settings.augment.seed)
        val = val or train
        log.info(f"Pretraining on {len(train)} labelled structures, validating on {len(val)}")
        data, val_data = (
            host_data(part, self.config["dataset"], folder / f"{name}.json")
            for name, part in (("train", train), ("val", val))
        )
        optim = copy.deepcopy(self.config["optim"])
        optim["lr"] = settings.lr or optim["lr"]
        loss = self.loss_fn if settings.force_scale is None else self._scaled_loss(optim["loss"])
        with self._another_stage("pretrain", data, val_data, optim, loss, settings.epochs, settings.batch_size):
            PropertyTrainer.train(self)
        return data

    def _labelled(self, folder: Path) -> list[Any]:
        if not self.dataset or not self.dataset.get("train"):
            raise ConfigError("pretraining needs training structures: dataset.src has no 'train'")
        index = label_index(self.config["dataset"])
        parents = structures_of(self.dataset["train"], index)
        val = structures_of(self.dataset["val"], index) if self.dataset.get("val") else None
        folder.mkdir(parents=True, exist_ok=True)
        labelled = labelled_structures(parents, val, self.settings, folder)
        write_structures(folder / "labelled.json", labelled)
        return labelled

    def _scaled_loss(self, loss_config: dict[str, Any]) -> Any:
        options = loss_config.get("loss_args") or {}
        weights = {k: options[k] for k in ("weight_energy", "weight_force", "weight_stress") if k in options}
        name = str(loss_config["loss_type"]).rsplit(".", 1)[-1]
        if name == "ForceLoss":
            weights = {"weight_energy": 1.0, "weight_force": 0.1, **weights, "weight_stress": 0.0}
        elif name == "ForceStressLoss":
            weights = {"weight_energy": 1.0, "weight_force": 0.1, "weight_stress": 0.1, **weights}
        elif name != "EFSLoss":
            raise ConfigError(
                f"physpretrain.force_scale does not know how {loss_config['loss_type']} weighs energies and forces: "
                "use ForceLoss, ForceStressLoss or EFSLoss, or set 'force_scale: null' to pretrain with it as it is"
            )
        return EFSLoss(**weights, force_scale=self.settings.force_scale)

    @contextmanager
    def _another_stage(
        self, name: str, data: Any, val_data: Any, optim: dict[str, Any], loss: Any, epochs: int, batch_size: int | None
    ) -> Iterator[None]:
        """Swap what belongs to a stage; afterwards start anew with the weights that were reached."""
        swapped = (
            "data_loader", "train_sampler", "loss_fn", "optimizer", "scheduler", "max_epochs", "max_checkpoint_epochs",
            "write_output", "timestamp_id", "sam_radius", "stage",
        )  # fmt: skip
        before = {key: getattr(self, key) for key in swapped}
        self.stage, self.loss_fn, self.sam_radius = name, loss, 0.0
        self.max_epochs, self.max_checkpoint_epochs, self.write_output = epochs, None, []
        self.timestamp_id = f"{self.timestamp_id}/{name}"
        self.data_loader = self._loaders(data, val_data, batch_size or optim["batch_size"])
        self.optimizer = self._load_optimizer(optim, self.model, 1)
        self.scheduler = self._load_scheduler(optim["scheduler"], self.optimizer)
        try:
            yield
        except TypeError as error:
            if any(state is None for state in self.best_model_state):
                raise ConfigError(f"{name}: no epoch had a finite validation error; look at optim.lr") from error
            raise
        finally:
            for key, value in before.items():
                setattr(self, key, value)
        count = len(self.model)
        self.epoch, self.step = 0, 0
        self.metrics, self.best_metric = [{} for _ in range(count)], [1e10] * count
        self.best_model_state, self._last_metric = [None] * count, float("nan")
        optim = copy.deepcopy(self.config["optim"])
        self.optimizer = self._load_optimizer(optim, self.model, 1)
        self.scheduler = self._load_scheduler(optim["scheduler"], self.optimizer)

    def _loaders(self, data: Any, val_data: Any, batch_size: int) -> list[dict[str, Any]]:
        workers = self.config["dataset"].get("num_workers", 0)
        loaders = []
        for _ in self.model:
            each = {"train_loader": get_dataloader(data, batch_size, workers)}
            if val_data is not None:
                each["val_loader"] = get_dataloader(val_data, batch_size, workers)
            loaders.append(each)
        return loaders

    def _finetune_with(self, labelled: Any) -> Any:
        """Finetune on the data and a share of labelled structures, drawn afresh every epoch."""
        mixed = Replay(self.dataset["train"], labelled, self.settings.replay_fraction)
        plain = self.data_loader
        batch_size = self.config["optim"]["batch_size"]
        if self.settings.force_scale is not None:
            # strongly compressed structures among the replayed ones would drown out the data
            self.step_loss = self._scaled_loss(self.config["optim"]["loss"])
        log.info(f"Finetuning on {len(self.dataset['train'])} structures and {mixed.replayed} replayed ones per epoch")
        self.data_loader = [
            {**before, **mixing} for before, mixing in zip(plain, self._loaders(mixed, None, batch_size), strict=True)
        ]
        # the final predictions of the training set are of the data alone
        self._prediction_loaders = {
            id(m["train_loader"]): p["train_loader"] for m, p in zip(self.data_loader, plain, strict=True)
        }
        return _StagedTrainer.train(self)

    def predict(self, loader: Any, *args: Any, **kwargs: Any) -> Any:
        """As MatDeepLearn's; never of replayed structures, and also of the list that its predict task hands in."""
        if isinstance(loader, list):
            loader = loader[0]["predict_loader"]
        return super().predict(getattr(self, "_prediction_loaders", {}).get(id(loader), loader), *args, **kwargs)
