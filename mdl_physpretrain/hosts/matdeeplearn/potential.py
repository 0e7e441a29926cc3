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

from mdl_physpretrain.errors import CheckpointError, PhysPretrainError
from mdl_physpretrain.graphs.batch import build_batch
from mdl_physpretrain.graphs.neighbour_lists import neighbour_list
from mdl_physpretrain.hosts.matdeeplearn.config import read_host_config
from mdl_physpretrain.hosts.matdeeplearn.networks import EARLY_BY_NAME, our_network
from mdl_physpretrain.potentials.base import predict
from mdl_physpretrain.potentials.cgcnn.model import CGCNN

__all__ = ["HostCalculator", "native_of", "potential_of"]

log = logging.getLogger(__name__)

HOSTS = "MatDeepLearn's calculator"
TRIED = 3  # structures on which both potentials are compared: so many of the largest and of the densest ones
TOLERANCE = 1e-3  # of energies (eV per atom) and of forces in units of the largest one or 1 eV/Å


class HostCalculator(MDLCalculator):
    """MatDeepLearn's ASE calculator around models in memory (an ensemble is averaged) instead of a checkpoint."""

    def __init__(self, models: Sequence[Any], config: Mapping[str, Any], device: Any) -> None:
        super(MDLCalculator, self).__init__()
        self.models, self.device = [m.eval() for m in models], device
        self.n_neighbors = config["dataset"]["preprocess_params"].get("n_neighbors", 250)
        self.otf_node_attr = config["model"].get("otf_node_attr", False)

    def calculate(self, atoms: Atoms, properties: Any = ("energy",), system_changes: Any = None) -> None:
        super().calculate(atoms, properties, system_changes)
        self.results["energy"] = self.results["free_energy"] = float(self.results["energy"])
        self.results["forces"] = self.results["forces"].reshape(len(atoms), 3).astype(float)
        self.results["stress"] = full_3x3_to_voigt_6_stress(self.results["stress"].astype(float))


def native_of(model: Any, config: Mapping[str, Any]) -> Any:
    """Our network with the weights of a host's model, in double precision.

    Raises PhysPretrainError if there is none.
    """
    state = {k: v.detach().cpu() for k, v in model.state_dict().items()}
    described = read_host_config(config)
    if described.name in EARLY_BY_NAME and not hasattr(model, "pool_order"):
        used = {k: v for k, v in described.options.items() if k != "pool_order"}  # which this class ignores
        described = replace(described, options=used)
    native, _ = our_network(described, state, "the trained network")
    return native.double().eval()


def potential_of(trainer: Any, structures: Sequence[Atoms], choice: str) -> tuple[Any, str]:
    """The potential to simulate with (``choice``: ``"auto"`` or ``"host"``), and its name in the log."""
    models = [copy.deepcopy(getattr(m, "module", m)).eval() for m in trainer.model]
    calculator = HostCalculator(models, trainer.config, trainer.device)
    if choice == "host":
        return calculator, HOSTS
    if len(models) > 1:
        return calculator, f"{HOSTS} (an ensemble)"
    try:
        native = native_of(models[0], trainer.config).to(trainer.device)
        difference = _largest_difference(native, calculator, structures)
    except PhysPretrainError as error:
        log.info(f"Examined with MatDeepLearn's own calculator: {error}")
        return calculator, HOSTS
    return native, f"native, equal to {difference:.1g}"


def _largest_difference(native: Any, calculator: HostCalculator, structures: Sequence[Atoms]) -> float:
    """Of both potentials on the largest and the densest structures, refused where it is too large."""
    longest = [_longest_list(atoms, native.cutoff) for atoms in structures]
    limit = calculator.n_neighbors
    if max(longest) > limit and not isinstance(native, CGCNN):  # which is cut off like the host's
        raise CheckpointError(f"it cuts lists of {max(longest)} neighbours at {limit}")
    order = sorted(range(len(structures)), key=lambda k: len(structures[k]))[-TRIED:]
    order += sorted(range(len(structures)), key=lambda k: longest[k])[-TRIED:]
    difference = max(_difference(native, calculator, structures[k]) for k in set(order))
    if difference > TOLERANCE:
        raise CheckpointError(f"our network differs by {difference:.2g}")
    return difference


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
