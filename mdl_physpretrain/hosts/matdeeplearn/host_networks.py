"""Our networks as MatDeepLearn describes them: name, options, weights and YAML; what it cannot have is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from mdl_physpretrain.errors import CheckpointError
from mdl_physpretrain.hosts.matdeeplearn.config import ALL_NEIGHBOURS
from mdl_physpretrain.hosts.matdeeplearn.eam_layout import HYBRID_PREFIX, eam_to_layout
from mdl_physpretrain.hosts.matdeeplearn.networks import CGCNN_OPTIONS, HOST_WIDTH, TORCHMD_OPTIONS, TORCHMD_POOLS
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.cgcnn.model import CGCNN, N_ELEMENTS
from mdl_physpretrain.potentials.eam.model import EAM
from mdl_physpretrain.potentials.sum import Sum

__all__ = ["PLUGIN", "HostNetwork", "host_network", "host_yaml"]

FAR_OFFSETS = 10  # cells to look at in every direction; more than any crystal needs at 8 Å
PLUGIN = "mdl_physpretrain.hosts.matdeeplearn."  # of models that a MatDeepLearn without the plugin does not find


@dataclass
class HostNetwork:
    """A network of ours as MatDeepLearn describes it."""

    name: str
    options: dict[str, Any]
    state: dict[str, Tensor]
    edge_dim: int = 50
    images: str = "all"
    n_neighbors: int | None = None


def host_network(model: EnergyModel, *, drop_core: bool = False) -> HostNetwork:
    """Name, options and weights of one of our models in MatDeepLearn.

    Parameters
    ----------
    model
        Its reference energies are the caller's business.
    drop_core
        Write an EAM without its ZBL core.

    Raises
    ------
    CheckpointError
        If MatDeepLearn cannot have this model.
    """
    writers: dict[str, Callable[[Any], HostNetwork]] = {
        "cgcnn": _write_cgcnn,
        "eam": lambda eam: _write_eam(eam, drop_core),
        "sum": lambda total: _write_hybrid(total, drop_core),
        "torchmd_et": _write_torchmd,
    }
    if model.registry_name not in writers:
        raise CheckpointError(
            f"MatDeepLearn has no counterpart of a {model.registry_name!r} model; it has {', '.join(writers)}"
        )
    return writers[model.registry_name](model)


def host_yaml(network: HostNetwork, cutoff: float, checkpoint: Path) -> str:
    """The parts of a MatDeepLearn configuration that belong to a network.

    They are enough for MatDeepLearn's ASE calculator; for training there, copy
    them into a full configuration.
    """
    every_image = network.images == "all"
    flags = dict.fromkeys(("otf_edge_index", "otf_edge_attr", "otf_node_attr", "gradient"), True)
    graph = {
        "edge_calc_method": "ocp" if every_image else "mdl",
        "preprocess_edges": False,
        "preprocess_edge_features": False,
        "preprocess_node_features": True,
        "cutoff_radius": cutoff,
        "n_neighbors": network.n_neighbors or ALL_NEIGHBOURS,
        # 'ocp' looks no further than it needs; 'mdl' looks at all of them
        "num_offsets": FAR_OFFSETS if every_image else 2,
        "node_dim": N_ELEMENTS,
        "edge_dim": network.edge_dim,
        "output_dim": 1,
        "prediction_level": "graph",
        "self_loop": True,
        "node_representation": "onehot",
    }
    content = {
        "task": {"checkpoint_path": str(checkpoint)},
        "model": {"name": network.name, **network.options, **flags, "model_ensemble": 1},
        "dataset": {"prediction_level": "graph", "preprocess_params": graph},
    }
    note = ""
    if network.name.startswith(PLUGIN):
        note = (
            f"# Without this package, in the branch of the paper's authors: name: {network.name.removeprefix(PLUGIN)}\n"
        )
    return note + yaml.safe_dump(content, sort_keys=False)


def _write_hybrid(model: Sum, drop_core: bool) -> HostNetwork:
    parts: list[Any] = list(model.parts)
    kinds = [part.registry_name for part in parts]
    if kinds not in (["cgcnn", "eam"], ["torchmd_et", "eam"]):
        raise CheckpointError(f"MatDeepLearn has no counterpart of a sum of {' and '.join(kinds)}")
    network, eam = host_network(parts[0]), _write_eam(parts[1], drop_core)
    if parts[1].cutoff > parts[0].cutoff:
        raise CheckpointError(
            f"a hybrid in MatDeepLearn has the graph of its network ({parts[0].cutoff:g} Å), "
            f"and this EAM reaches {parts[1].cutoff:g} Å"
        )
    options = {
        "eam_args": {**eam.options, "cutoff_radius": parts[1].cutoff},
        "freeze_eam": 1 in model.hparams["frozen"],
    }
    return replace(
        network,
        name=PLUGIN + ("CGCNN_EAM" if kinds[0] == "cgcnn" else "TorchMD_EAM"),
        options={**network.options, "pool_order": parts[0].hparams["pool_order"], **options},
        state={**network.state, **{HYBRID_PREFIX + k: v for k, v in eam.state.items()}},
    )


def _write_cgcnn(model: CGCNN) -> HostNetwork:
    options = model.hparams
    if options["smooth_cutoff"]:
        raise CheckpointError("MatDeepLearn's CGCNN has no smooth_cutoff: train with smooth_cutoff=False, width=0.2")
    if abs(options["width"] - HOST_WIDTH) > 1e-12:
        raise CheckpointError(f"MatDeepLearn's CGCNN has Gaussians of width {HOST_WIDTH}, this one {options['width']}")
    return HostNetwork(
        "CGCNN",
        {
            **{k: options[k] for k in CGCNN_OPTIONS},
            "pool": "global_add_pool",
            "batch_track_stats": True,
            "dropout_rate": 0.0,
        },
        _without_references(model),
        edge_dim=options["edge_dim"],
        images=options.get("images", "all"),
        n_neighbors=options.get("max_neighbours"),
    )


def _write_eam(model: EAM, drop_core: bool) -> HostNetwork:
    state = eam_to_layout(model, drop_core=drop_core)
    options = {"atom_types": list(model.elements), "n_basis": model.hparams["n_basis"], "init_mode": "constant"}
    return HostNetwork(f"{PLUGIN}EAM_Interaction", options, state)


def _write_torchmd(model: EnergyModel) -> HostNetwork:
    options = model.hparams
    for name in ("smooth_cutoff", "own_images"):
        if options[name]:
            raise CheckpointError(f"MatDeepLearn's torchmd_et has no {name}: train with {name}=False")
    early = options["pool_order"] == "early"
    pool = {ours: host for host, ours in TORCHMD_POOLS.items()}[options["pool"]]
    return HostNetwork(
        "torchmd_etEarly" if early else "torchmd_et",
        {**{k: options[k] for k in TORCHMD_OPTIONS}, "pool": pool, "pool_order": options["pool_order"]},
        _without_references(model),
    )


def _without_references(model: EnergyModel) -> dict[str, Tensor]:
    return {k: v for k, v in model.state_dict().items() if k != "reference_energies"}
