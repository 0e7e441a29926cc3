"""MatterTune modules from checkpoints, and as potentials for MD and ASE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from mattertune.finetune import properties as props
from mattertune.finetune.base import FinetuneModuleBase
from mattertune.registry import backbone_registry

from mdl_physpretrain.errors import CheckpointError
from mdl_physpretrain.hosts.mattertune.backbone_native import NativeBackbone
from mdl_physpretrain.hosts.mattertune.batched import ModulePotential
from mdl_physpretrain.hosts.mattertune.checkpoint import read_mattertune
from mdl_physpretrain.hosts.mattertune.properties import normalizer_references
from mdl_physpretrain.hosts.mattertune.weight_names import plain_copy
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.m3gnet.model import M3GNet
from mdl_physpretrain.potentials.safe_load import load_foreign

__all__ = ["ModuleCalculator", "load_module", "potential"]


def load_module(path: str | Path) -> FinetuneModuleBase:
    """The MatterTune module of a Lightning checkpoint, whatever its registered backbone.

    The host's own ``mattersim`` comes back as ``mattersim_m3gnet``, which needs
    no download and runs on any device.

    Parameters
    ----------
    path
        A ``.ckpt``. Nothing in it is executed.

    Returns
    -------
    FinetuneModuleBase
        In evaluation mode on the CPU.

    Raises
    ------
    CheckpointError
        If the file does not hold such a module, or its weights do not fit.
    """
    content = load_foreign(path)
    settings = content.get("hyper_parameters") if isinstance(content, dict) else None
    if not isinstance(settings, dict) or "name" not in settings:
        raise CheckpointError(f"{path} is not a checkpoint of MatterTune (no hyper_parameters with a backbone's name)")
    if settings["name"] == "mattersim":
        shared = ("properties", "optimizer", "lr_scheduler", "normalizers", "freeze_backbone")
        settings = {
            **{k: v for k, v in settings.items() if k in shared},
            "name": "mattersim_m3gnet",
            "model_args": dict(read_mattertune(path).hparams),
            "initialise": False,
        }
    try:
        config: Any = backbone_registry.construct(settings)
        module = config.create_model()
        module.load_state_dict(content["state_dict"])
    except ImportError as error:  # of the package that a foreign backbone comes from
        raise CheckpointError(f"{path} holds MatterTune's backbone {settings['name']!r}: {error}") from error
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} does not fit MatterTune's backbone {settings['name']!r}: {error}") from error
    if isinstance(module, NativeBackbone):
        module.hparams.initialise = False
    return module.eval()


def potential(
    model: str | Path | FinetuneModuleBase, device: str | None = None, *, batched: bool = False
) -> EnergyModel | ModuleCalculator:
    """Any MatterTune model as a potential for ``simulate``, ``assess`` and ASE.

    Parameters
    ----------
    model
        A module, or a checkpoint for :func:`load_module`.
    device
        To move it to.
    batched
        Give an :class:`EnergyModel` for every backbone: ``simulate`` then
        moves many structures at once, in one pass of the host.

    Returns
    -------
    EnergyModel or ModuleCalculator
        One of our networks for the plugin's backbones and the host's
        ``mattersim`` (the batched MD engine takes them), else an ASE
        calculator, or with ``batched`` a
        :class:`~mdl_physpretrain.hosts.mattertune.batched.ModulePotential`.

    Examples
    --------
    >>> runs = pp.simulate(potential("best.ckpt"), structures, temperature=1000)  # doctest: +SKIP
    """
    module = load_module(model) if isinstance(model, str | Path) else model
    if device is not None:
        module.to_device(device)
    if isinstance(module, NativeBackbone):
        network = plain_copy(module.backbone)
        for z, energy in normalizer_references(module.hparams).items():  # the network alone is not the prediction
            if z < len(network.get_buffer("reference_energies")):
                network.get_buffer("reference_energies")[z] += energy
        return network.to(module.device)
    other = None if len(module.normalizers) else _stock_m3gnet(module)
    return other or (ModulePotential(module) if batched else ModuleCalculator(module))


class ModuleCalculator(Calculator):
    """ASE calculator of a MatterTune module: evaluation mode, one pass for all properties, on the module's device."""

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012 - ASE's name and type

    def __init__(self, module: FinetuneModuleBase) -> None:
        super().__init__()
        self.module = module
        kinds = {prop.ase_calculator_property_name(): prop for prop in module.hparams.properties}
        self.predicted = {kind: prop for kind, prop in kinds.items() if kind in self.implemented_properties}
        self.implemented_properties = [*self.predicted, *(["free_energy"] if "energy" in self.predicted else [])]

    @property
    def name(self) -> str:
        """What labels of this calculator are said to come from."""
        return f"mattertune-{self.module.hparams.name}"

    def calculate(self, atoms: Atoms | None = None, properties=("energy",), system_changes=all_changes) -> None:  # noqa: ANN001
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        bare = Atoms(self.atoms.numbers, self.atoms.positions, cell=self.atoms.cell, pbc=self.atoms.pbc)
        training = self.module.training
        self.module.eval()
        try:
            batch = self.module.collate_fn([self.module.atoms_to_data(bare, has_labels=False)])
            batch = self.module.batch_to_device(batch, self.module.device)
            with torch.enable_grad():
                (prediction,) = self.module.predict_step(batch, 0)
        finally:
            self.module.train(training)
        self.results = {}
        for kind, prop in self.predicted.items():
            value = np.asarray(prediction[prop.name].detach().double().cpu())
            if isinstance(prop, props.StressesPropertyConfig):
                value = full_3x3_to_voigt_6_stress(value.reshape(3, 3))
            self.results[kind] = float(value.reshape(())) if kind == "energy" else value
        if "energy" in self.results:
            self.results["free_energy"] = self.results["energy"]


def _stock_m3gnet(module: Any) -> EnergyModel | None:
    """Our M3GNet with the weights of the host's MatterSim module, or ``None`` if it is not one."""
    from mattertune.backbones.mattersim.model import MatterSimM3GNetBackboneModule

    if not isinstance(module, MatterSimM3GNetBackboneModule):
        return None

    net, graph = module.backbone.model, module.graph_convertor
    model = M3GNet.from_network(net.model_args, net.state_dict(), source="the module")
    same = graph.twobody_cutoff == model.cutoff and graph.threebody_cutoff == model.threebody_cutoff
    return model.to(module.device).eval() if same and graph.has_threebody else None
