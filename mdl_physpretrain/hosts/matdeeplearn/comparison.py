"""A converted network beside the one that MatDeepLearn itself makes of the same checkpoint and YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress

from mdl_physpretrain.errors import PhysPretrainError
from mdl_physpretrain.graphs.batch import build_batch
from mdl_physpretrain.hosts.matdeeplearn.checkpoint import state_of
from mdl_physpretrain.hosts.matdeeplearn.config import HostConfig, read_host_config
from mdl_physpretrain.hosts.matdeeplearn.host import root_logger_kept
from mdl_physpretrain.hosts.matdeeplearn.networks import ALIASES, EARLY_BY_NAME
from mdl_physpretrain.hosts.product_precision import precision_kept
from mdl_physpretrain.potentials.base import EnergyModel, predict
from mdl_physpretrain.potentials.safe_load import load_foreign
from mdl_physpretrain.workflow.yaml_files import read_yaml

__all__ = ["NotCompared", "host_differences"]


class NotCompared(PhysPretrainError):
    """The host cannot make this network; the message says why."""


def host_differences(
    model: EnergyModel,
    checkpoint: str | Path,
    config: str | Path,
    structures: Sequence[Atoms],
    *,
    member: int | None = None,
) -> tuple[str, dict[str, float]]:
    """Largest differences between our network and MatDeepLearn's own class with the weights of a checkpoint.

    Parameters
    ----------
    model
        Ours.
    checkpoint, config
        MatDeepLearn's ``.pt`` and YAML.
    structures
        Periodic.
    member
        As it was read with.

    Returns
    -------
    str, dict
        The host's class; ``energy`` (eV per structure), ``forces`` (eV/Å), ``stress`` (eV/Å³).

    Raises
    ------
    NotCompared
        If MatDeepLearn is not installed, has no such network, or ignores an option of it.
    """
    if find_spec("matdeeplearn") is None:
        raise NotCompared("it is not installed")
    cells = [a for a in structures if a.pbc.all() and a.cell.rank == 3]
    if not cells:
        raise NotCompared("it knows crystals that are periodic in three directions only")
    described, content = read_host_config(config), read_yaml(Path(config))
    module, remark = _host_module(
        described, content, state_of(load_foreign(checkpoint), str(checkpoint), member=member)
    )
    with precision_kept("matdeeplearn"):
        from mdl_physpretrain.hosts.matdeeplearn.potential import HostCalculator

    calculator = HostCalculator([module], content, "cpu")
    largest = {"energy": 0.0, "forces": 0.0, "stress": 0.0}
    for atoms in cells:
        for name, gap in _gaps(model, calculator, atoms, described.reference_energies).items():
            largest[name] = max(largest[name], gap)
    return f"{type(module).__module__}.{type(module).__name__}{remark}", largest


def _host_module(described: HostConfig, content: dict[str, Any], state: dict[str, Any]) -> tuple[Any, str]:
    """The host's own module with these weights, and what to remark about its class."""
    network, remark = _host_class(described.name), ""
    late = described.name in EARLY_BY_NAME and described.options.get("pool_order") == "late"
    if late and "pool_order" not in signature(network).parameters:
        network, remark = _host_class("torchmd_et"), " (its torchmd_etEarly ignores pool_order: late)"
    graph = content["dataset"]["preprocess_params"]
    module = network(
        node_dim=described.node_dim,
        edge_dim=described.edge_dim,
        output_dim=1,
        cutoff_radius=graph["cutoff_radius"],
        n_neighbors=graph.get("n_neighbors", 250),
        graph_method=graph.get("edge_calc_method", "mdl"),
        num_offsets=described.num_offsets,
        **{**content["model"], "gradient": True, "otf_edge_index": True, "otf_edge_attr": True},
    )
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise NotCompared(
            f"its {network.__name__} does not take these weights: {str(error).splitlines()[0]}"
        ) from error
    return module.eval(), remark


def _host_class(name: str) -> Any:
    from matdeeplearn.common.registry import registry
    from matdeeplearn.common.trainer_context import setup_imports

    with root_logger_kept(), precision_kept("matdeeplearn"):
        setup_imports()
    network = registry.mapping["model_name_mapping"].get(ALIASES.get(name, name))
    if network is None or not network.__module__.startswith("matdeeplearn."):
        raise NotCompared(f"the installed one has no {name} (the branch of the paper's authors has)")
    return network


def _gaps(model: EnergyModel, calculator: Any, atoms: Atoms, left_out: Mapping[str, float]) -> dict[str, float]:
    bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
    ours = predict(model, build_batch(bare, model.cutoff, model.dtype).to(model.device))
    calculator.calculate(bare)
    theirs = calculator.results
    energy = float(ours.energy[0]) - sum(left_out.get(symbol, 0.0) for symbol in bare.symbols)
    stress = full_3x3_to_voigt_6_stress(ours.stress[0].detach().cpu().double().numpy())  # type: ignore[index]
    if np.linalg.det(atoms.cell.array) < 0:
        stress = -stress  # the host divides by the signed volume
    return {
        "energy": abs(energy - theirs["energy"]),
        "forces": float(np.abs(ours.forces.detach().cpu().double().numpy() - theirs["forces"]).max()),  # type: ignore[union-attr]
        "stress": float(np.abs(stress - theirs["stress"]).max()),
    }
