"""Our networks as MatterTune backbones: the same class, the same numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from ase import Atoms
from mattertune.finetune.base import FinetuneModuleBase, FinetuneModuleBaseConfig, ModelOutput
from mattertune.normalization import NormalizationContext
from mattertune.registry import backbone_registry
from nshconfig import Field
from torch import Tensor, nn

from mdl_physpretrain.errors import CheckpointError, ConfigError
from mdl_physpretrain.graphs.batch import AtomicBatch, build_batch, collate
from mdl_physpretrain.hosts.convert import read_checkpoint_of
from mdl_physpretrain.hosts.mattertune.labelling import clean, require_labels
from mdl_physpretrain.hosts.mattertune.properties import (
    context_of,
    normalizer_references,
    property_names,
    require_training_labels,
    training_references,
    training_structures,
)
from mdl_physpretrain.hosts.mattertune.weight_names import named_as_in_host
from mdl_physpretrain.potentials.base import EnergyModel, predict
from mdl_physpretrain.potentials.registry import construct_model
from mdl_physpretrain.training import new_network

__all__ = [
    "CGCNNBackbone",
    "CGCNNBackboneConfig",
    "MatterSimM3GNetBackbone",
    "MatterSimM3GNetConfig",
    "NativeBackbone",
    "NativeBackboneConfig",
    "TorchMDETBackbone",
    "TorchMDETBackboneConfig",
]

MEASURED = ("n_neighbours",)  # constructor arguments that are taken from the data when not given
READ_OUT = ("post_lin_list.", "lin_out.", "network.final.")  # layers after the convolutions


class NativeBackboneConfig(FinetuneModuleBaseConfig):
    """What all our backbones have in common."""

    name: str

    network: ClassVar[str]
    """Our name of the network."""

    model_args: dict[str, Any] = Field(default_factory=dict)
    """Constructor arguments of the network, e.g. ``cutoff`` in Å."""

    checkpoint: str | None = None
    """Start from these weights (anything that ``physics_pretrain`` reads), with their constructor arguments."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Of the initial weights."""

    initialise: bool = True
    """Take reference energies and the scale of the initial weights from the training data.

    Loaded weights are never touched by this."""

    reset_output_heads: bool = False
    """Give the layers after the convolutions new random weights."""

    def create_model(self) -> NativeBackbone:
        return MODULES[self.network](self.model_copy(deep=True))  # the module writes into its copy

    @classmethod
    def ensure_dependencies(cls) -> None:
        if cls.network == "m3gnet" and find_spec("mattersim") is None:
            raise ConfigError("model.name: mattersim_m3gnet needs the package mattersim (docs/mattertune.md)")


@backbone_registry.register
class CGCNNBackboneConfig(NativeBackboneConfig):
    """Crystal graph convolutional network."""

    name: Literal["cgcnn"] = "cgcnn"  # type: ignore[assignment]
    network: ClassVar[str] = "cgcnn"


@backbone_registry.register
class TorchMDETBackboneConfig(NativeBackboneConfig):
    """TorchMD-NET's equivariant transformer."""

    name: Literal["torchmd_et"] = "torchmd_et"  # type: ignore[assignment]
    network: ClassVar[str] = "torchmd_et"


@backbone_registry.register
class MatterSimM3GNetConfig(NativeBackboneConfig):
    """MatterSim's M3GNet, by default with random weights and the size of MatterSim-v1.0.0-1M.

    The weights have the names that the host's own ``mattersim`` backbone gives
    them. Neighbour lists and derivatives are ours: they are right on CPU and
    GPU, for slabs and for left-handed cells.
    """

    name: Literal["mattersim_m3gnet"] = "mattersim_m3gnet"  # type: ignore[assignment]
    network: ClassVar[str] = "m3gnet"


class NativeBackbone(FinetuneModuleBase[AtomicBatch, AtomicBatch, NativeBackboneConfig]):
    """An :class:`EnergyModel` as ``self.backbone`` of a MatterTune module."""

    backbone: Any
    structures_in_batch = 1
    config_class: ClassVar[type[NativeBackboneConfig]]

    @classmethod
    def hparams_cls(cls) -> type[NativeBackboneConfig]:
        return cls.config_class

    def create_model(self) -> None:
        options = self.hparams
        self.property_names = property_names(options.properties, options.name)
        normalizer_references(options)  # refuses what cannot be, and reads files
        if options.checkpoint is not None:
            pretrained = read_checkpoint_of(options.checkpoint)
            options.model_args = {**pretrained.hparams, **options.model_args}  # what contradicts is refused below
            self.backbone = self._network(options.model_args)
            self.adopt(pretrained)
            options.checkpoint = None  # this module's own checkpoints do not need the file
        else:
            self.backbone = self._network(options.model_args)

    def _network(self, args: dict[str, Any]) -> EnergyModel:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.hparams.seed)
            try:
                return named_as_in_host(construct_model(self.hparams.network, args))
            except TypeError as error:
                raise ConfigError(f"model.model_args do not fit {self.hparams.name}: {error}") from error

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage != "fit":
            return
        require_training_labels(self.trainer, self.property_names)
        if not self.hparams.initialise:
            return

        student = new_network(
            self.hparams.network,
            training_structures(self.trainer),
            model_args=self.hparams.model_args,
            references=training_references(self.trainer),
            seed=self.hparams.seed,
        )
        if named_as_in_host(student).state_dict().keys() != self.backbone.state_dict().keys():
            raise ConfigError("a recipe changed the network before it was initialised: set 'model.initialise: false'")
        self.adopt(student)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.hparams.initialise = False

    def adopt(self, model: EnergyModel) -> None:
        """Take over a network that fits: weights, with the constructor arguments that were left open.

        The host's checkpoints then hold all that is needed to rebuild it. With normalizers the module predicts what the
        network did. Raises CheckpointError if it is another network.
        """
        network = self.hparams.network
        if model.registry_name != network:
            raise CheckpointError(f"weights of a {model.registry_name!r} network do not fit {self.hparams.name!r}")
        present = self.backbone.hparams
        unset = {name for name in MEASURED if name not in self.hparams.model_args}
        other = [k for k in model.hparams if k not in unset and model.hparams[k] != present.get(k)]
        if other:
            listed = ", ".join(f"{k}: {model.hparams[k]!r} (model.model_args: {present.get(k)!r})" for k in other)
            raise CheckpointError(f"the weights belong to another {network}: {listed}")
        fresh = named_as_in_host(construct_model(network, model.hparams))
        fresh.load_state_dict(self.without_normalizers(named_as_in_host(model).state_dict()))
        self.backbone = fresh.to(device=self.backbone.device, dtype=self.backbone.dtype).train(self.training)
        if self.hparams.reset_output_heads:
            self._reset_read_out()
        self.hparams.model_args = dict(model.hparams)
        self.hparams.initialise = False

    def without_normalizers(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of a network that predicts whole energies, less what the host's normalizers add to them."""
        key = next((k for k in state if k.endswith(("reference_energies", "model.normalizer.shift"))), None)
        references = normalizer_references(self.hparams)
        if key is None or not references:
            return state
        lowered = state[key].clone()
        for z, value in references.items():
            if z < len(lowered):
                lowered[z] -= value
        return {**state, key: lowered}

    def apply_pruning_message_passing(self, message_passing_steps: int | None) -> None:
        if message_passing_steps is not None:
            raise ConfigError(f"model.pruning_message_passing is not possible with {self.hparams.name}")

    def requires_disabled_inference_mode(self) -> bool:
        return True

    @contextlib.contextmanager
    def model_forward_context(self, data: AtomicBatch, mode: str) -> Iterator[None]:
        with torch.enable_grad():
            yield

    def model_forward(self, batch: AtomicBatch, mode: str) -> ModelOutput:
        out = predict(self.backbone, batch, create_graph=mode == "train")
        return {
            "predicted_properties": self.property_names.named(out.energy.to(out.forces.dtype), out.forces, out.stress)
        }

    def model_forward_partition(self, batch: AtomicBatch, mode: str, using_partition: bool = False) -> ModelOutput:
        raise ConfigError(f"partitioned inference is not possible with {self.hparams.name}")

    def apply_callable_to_backbone(self, fn: Callable[[nn.Module], Any]) -> Any:
        return fn(self.backbone)

    def pretrained_backbone_parameters(self) -> Iterable[nn.Parameter]:
        return [p for name, p in self.backbone.named_parameters() if not name.startswith(READ_OUT)]

    def output_head_parameters(self) -> Iterable[nn.Parameter]:
        return [p for name, p in self.backbone.named_parameters() if name.startswith(READ_OUT)]

    def trainable_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        frozen = {id(p) for p in self.pretrained_backbone_parameters()} if self.hparams.freeze_backbone else set()
        return [(name, p) for name, p in self.backbone.named_parameters() if id(p) not in frozen]

    def _reset_read_out(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.hparams.seed)
            for name, module in self.backbone.named_modules():
                if f"{name}.".startswith(READ_OUT) and hasattr(module, "reset_parameters"):
                    module.reset_parameters()

    def cpu_data_transform(self, data: AtomicBatch) -> AtomicBatch:
        return data

    def collate_fn(self, data_list: list[AtomicBatch]) -> AtomicBatch:
        return collate(data_list)

    def gpu_batch_transform(self, batch: AtomicBatch) -> AtomicBatch:
        return batch.to(dtype=self.backbone.dtype)

    def batch_to_labels(self, batch: AtomicBatch) -> dict[str, Tensor]:
        self.structures_in_batch = len(batch)
        return self.property_names.named(batch.energy.to(batch.forces.dtype), batch.forces, batch.stress)

    def atoms_to_data(self, atoms: Atoms, has_labels: bool) -> AtomicBatch:
        if has_labels:
            (atoms,) = clean([atoms])
            names = self.property_names
            require_labels(atoms, forces=names.forces is not None, stress=names.stress is not None)
        else:
            atoms = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        return build_batch(atoms, self.backbone.cutoff, self.backbone.dtype)

    def get_connectivity_from_data(self, data: AtomicBatch) -> Tensor:
        return data.edge_index

    def get_connectivity_from_atoms(self, atoms: Atoms) -> np.ndarray:
        return build_batch(atoms, self.backbone.cutoff).edge_index.numpy()

    def create_normalization_context_from_batch(self, batch: AtomicBatch) -> NormalizationContext:
        return context_of(batch.numbers, batch.structure, len(batch))

    def batch_to_double(self, batch: AtomicBatch) -> AtomicBatch:
        return batch.to(dtype=torch.float64)

    def log(self, *args: Any, **kwargs: Any) -> None:
        """As Lightning's; a batch counts as many times as it has structures."""
        if kwargs.get("batch_size") is None:
            kwargs["batch_size"] = self.structures_in_batch
        super().log(*args, **kwargs)


class CGCNNBackbone(NativeBackbone):
    """MatterTune module of ``cgcnn``."""

    config_class = CGCNNBackboneConfig


class TorchMDETBackbone(NativeBackbone):
    """MatterTune module of ``torchmd_et``."""

    config_class = TorchMDETBackboneConfig


class MatterSimM3GNetBackbone(NativeBackbone):
    """MatterTune module of ``mattersim_m3gnet``."""

    config_class = MatterSimM3GNetConfig


MODULES: dict[str, type[NativeBackbone]] = {
    "cgcnn": CGCNNBackbone,
    "torchmd_et": TorchMDETBackbone,
    "m3gnet": MatterSimM3GNetBackbone,
}
