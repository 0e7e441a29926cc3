"""MatDeepLearn's networks as potentials of our MD.

Where our own network with the same weights gives the same numbers it is used:
it simulates many structures at once, in double precision. Whether it does is
tried on the structures themselves; otherwise the host's ASE calculator runs.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress
from matdeeplearn.common.ase_utils import MDLCalculator

from mdl_physpretrain.errors import PhysPretrainError
from mdl_physpretrain.graphs.batch import build_batch, neighbour_list
from mdl_physpretrain.hosts.matdeeplearn.config import read_host_config
from mdl_physpretrain.hosts.matdeeplearn.eam_layout import PREFIX, eam_from_layout
from mdl_physpretrain.hosts.matdeeplearn.networks import our_network
from mdl_physpretrain.potentials.base import predict
from mdl_physpretrain.potentials.cgcnn.model import CGCNN
from mdl_physpretrain.potentials.sum import Sum

__all__ = ["HostCalculator", "native_of", "potential_of"]

log = logging.getLogger(__name__)

HYBRIDS = {"CGCNN_EAM": "CGCNN", "TorchMD_EAM": "torchmd_etEarly"}  # the network in each
TRIED = 3  # structures on which both potentials are compared: so many of the largest and of the densest ones
TOLERANCE = 1e-3  # of energies (eV per atom) and of forces in units of the largest one or 1 eV/Å


class HostCalculator(MDLCalculator):
    """MatDeepLearn's ASE calculator around models in memory instead of a checkpoint.

    Parameters
    ----------
    models
        Of an ensemble, averaged; put into evaluation mode.
    n_neighbors
        Of ``preprocess_params``.
    otf_node_attr
        Of the section ``model``.
    device
        On which the models are.
    """

    def __init__(self, models: Sequence[Any], n_neighbors: int, otf_node_attr: bool, device: Any) -> None:
        super(MDLCalculator, self).__init__()
        self.models = [m.eval() for m in models]
        self.n_neighbors, self.otf_node_attr, self.device = n_neighbors, otf_node_attr, device

    def calculate(self, atoms: Atoms, properties: Any = ("energy",), system_changes: Any = None) -> None:
        super().calculate(atoms, properties, system_changes)
        self.results["energy"] = self.results["free_energy"] = float(self.results["energy"])
        self.results["forces"] = self.results["forces"].reshape(len(atoms), 3).astype(float)
        self.results["stress"] = full_3x3_to_voigt_6_stress(self.results["stress"].astype(float))


def host_calculator(models: Sequence[Any], config: Mapping[str, Any], device: Any) -> HostCalculator:
    """The host's calculator for models in memory and a whole configuration."""
    return HostCalculator(
        models,
        config["dataset"]["preprocess_params"].get("n_neighbors", 250),
        config["model"].get("otf_node_attr", False),
        device,
    )


def native_of(model: Any, config: Mapping[str, Any]) -> Any:
    """Our network with the weights of a host's model, in double precision.

    Parameters
    ----------
    model
        A model of MatDeepLearn's.
    config
        The whole configuration.

    Raises
    ------
    PhysPretrainError
        If there is none for this model and configuration.
    """
    described = read_host_config(config)
    state = {k: v.detach().cpu() for k, v in model.state_dict().items()}
    eam_state = {k: v for k, v in state.items() if k.startswith(PREFIX)}
    parts: list[Any] = []
    if eam_state:
        parts.append(eam_from_layout(eam_state, described.atom_types, cutoff=described.cutoff))
    if len(eam_state) < len(state):
        network = replace(described, name=HYBRIDS.get(described.name, described.name))
        rest = {k: v for k, v in state.items() if k not in eam_state}
        parts.insert(0, our_network(network, rest, "the trained network")[0])
    native: Any = parts[0] if len(parts) == 1 else Sum(parts)
    return native.double().eval()


def potential_of(trainer: Any, structures: Sequence[Atoms], wanted: str) -> tuple[Any, str]:
    """What to simulate with, and what it is called in the log.

    Parameters
    ----------
    trainer
        A MatDeepLearn trainer with ``config``.
    structures
        On which both potentials are compared.
    wanted
        ``"auto"`` or ``"host"``.
    """
    models = [copy.deepcopy(getattr(m, "module", m)).eval() for m in trainer.model]
    calculator = host_calculator(models, trainer.config, trainer.device)
    if wanted == "host":
        return calculator, "MatDeepLearn's calculator"
    if len(models) > 1:
        return calculator, "MatDeepLearn's calculator (an ensemble)"
    try:
        native = native_of(models[0], trainer.config).to(trainer.device)
    except PhysPretrainError as error:
        log.info(f"Examined with MatDeepLearn's own calculator: {error}")
        return calculator, "MatDeepLearn's calculator"
    limit = trainer.config["dataset"]["preprocess_params"].get("n_neighbors", 250)
    longest = [_longest_list(atoms, native.cutoff) for atoms in structures]
    if max(longest) > limit and not isinstance(native, CGCNN):  # which is cut off like the host's
        log.info(f"Examined with MatDeepLearn's own calculator: it cuts lists of {max(longest)} neighbours at {limit}")
        return calculator, "MatDeepLearn's calculator"
    order = sorted(range(len(structures)), key=lambda k: len(structures[k]))[-TRIED:]
    order += sorted(range(len(structures)), key=lambda k: longest[k])[-TRIED:]
    difference = max(_difference(native, calculator, structures[k]) for k in set(order))
    if difference > TOLERANCE:
        log.info(f"Examined with MatDeepLearn's own calculator: our network differs by {difference:.2g}")
        return calculator, "MatDeepLearn's calculator"
    return native, f"native, equal to {difference:.1g}"


def _longest_list(atoms: Atoms, cutoff: float) -> int:
    """Largest number of neighbours of an atom."""
    edges, _ = neighbour_list(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
    return int(np.bincount(edges[0], minlength=1).max())


def _difference(native: Any, calculator: HostCalculator, atoms: Atoms) -> float:
    """Largest deviation in energy per atom (eV) and forces (of the largest or 1 eV/Å)."""
    bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    ours = predict(native, build_batch(bare, native.cutoff, native.dtype).to(native.device))
    calculator.calculate(bare)
    forces = calculator.results["forces"]
    if not np.isfinite(forces).all():
        return float("inf")
    energy = abs(float(ours.energy[0]) - calculator.results["energy"]) / len(atoms)
    scale = max(1.0, float(np.abs(forces).max()))
    return max(energy, float(torch.as_tensor(ours.forces).cpu().sub(torch.as_tensor(forces)).abs().max()) / scale)
