"""MatDeepLearn's networks and ours: which options mean the same, and which cannot be had.

A reader builds our model, empty, from a host configuration; a writer gives the
host's name and options of one of our models. Both refuse what would change
the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from mdl_physpretrain.errors import CheckpointError, ConfigError
from mdl_physpretrain.hosts.matdeeplearn.config import ALL_NEIGHBOURS, HostConfig
from mdl_physpretrain.hosts.matdeeplearn.eam_layout import eam_from_layout, eam_to_layout, is_eam_layout
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.cgcnn.model import CGCNN, N_ELEMENTS
from mdl_physpretrain.potentials.construction import constructed
from mdl_physpretrain.potentials.eam.model import EAM
from mdl_physpretrain.potentials.registry import model_class
from mdl_physpretrain.potentials.sum import Sum

__all__ = ["HostNetwork", "host_network", "host_yaml", "our_network"]

FEW_OFFSETS = 5
FAR_OFFSETS = 10  # cells to look at in every direction; more than any crystal needs at 8 Å
HOST_WIDTH = 0.2  # of MatDeepLearn's Gaussians, in units of the cutoff
CGCNN_OPTIONS = {  # host key: (default of the host's class, type)
    "dim1": (64, int),
    "dim2": (64, int),
    "pre_fc_count": (1, int),
    "gc_count": (3, int),
    "post_fc_count": (1, int),
    "batch_norm": (True, bool),
    "act": ("relu", str),
    "pool_order": ("early", str),
}
TORCHMD_OPTIONS = {
    "hidden_channels": (128, int),
    "num_layers": (6, int),
    "num_rbf": (50, int),
    "rbf_type": ("expnorm", str),
    "trainable_rbf": (True, bool),
    "activation": ("silu", str),
    "attn_activation": ("silu", str),
    "neighbor_embedding": (True, bool),
    "num_heads": (8, int),
    "distance_influence": ("both", str),
    "max_z": (100, int),
    "num_post_layers": (1, int),
    "post_hidden_channels": (64, int),
}
HYBRID_OPTIONS = {"atom_types", "n_basis", "init_mode", "freeze_params"}
UNUSED_IN_EVALUATION = {"batch_track_stats": True, "dropout_rate": 0.0}
NOT_EXTENSIVE = "early pooling is not size-extensive: a supercell's energy is not a multiple"
TORCHMD_POOLS = {"global_add_pool": "add", "global_mean_pool": "mean"}
TORCHMD_WITHOUT_EFFECT = {"aggr", "max_num_neighbors", "num_filters", "pool", "pool_order"}


@dataclass
class HostNetwork:
    """A network of ours as MatDeepLearn describes it."""

    name: str
    options: dict[str, Any]
    state: dict[str, Tensor]
    edge_dim: int = 50
    images: str = "all"
    n_neighbors: int | None = None


def our_network(config: HostConfig, state: Mapping[str, Tensor], source: str) -> tuple[EnergyModel, list[str]]:
    """Our model with the weights of a MatDeepLearn checkpoint, and remarks for the user.

    Parameters
    ----------
    config
        Of the run that wrote it.
    state
        Its ``state_dict``, without prefixes.
    source
        The checkpoint, named in errors.

    Raises
    ------
    ConfigError
        If the configuration asks for something that our model does not have.
    CheckpointError
        If checkpoint and configuration do not fit each other.
    """
    readers: dict[str, Callable[..., tuple[EnergyModel, list[str]]]] = {
        "CGCNN": _read_cgcnn,
        "CGCNN_EAM": _read_hybrid,
        "EAM_Interaction": _read_eam,
        "TorchMD_EAM": _read_hybrid,
        "torchmd_et": _read_torchmd,
        "torchmd_etEarly": _read_torchmd,
    }
    aliases = {"TorchMD_ET": "torchmd_et", "TorchMD_ET_Early": "torchmd_etEarly"}
    name = aliases.get(config.name, config.name)
    if name not in readers:
        raise ConfigError(f"{config.source}: model.name {config.name!r} has no counterpart here ({', '.join(readers)})")
    model, notes = readers[name](config, state, source)
    if config.images == "all" and config.num_offsets < FEW_OFFSETS:
        notes.append(
            f"MatDeepLearn looks {config.num_offsets} cells away (num_offsets): it misses neighbours in cells thinner "
            f"than {config.cutoff / max(config.num_offsets, 1):.3g} Å, this package does not"
        )
    return model, notes


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
    return yaml.safe_dump(content, sort_keys=False)


def _read_cgcnn(config: HostConfig, state: Mapping[str, Tensor], source: str) -> tuple[EnergyModel, list[str]]:
    pool = config.option("pool", "global_mean_pool", str)
    if pool != "global_add_pool":
        raise ConfigError(f"{config.source}: model.pool is {pool!r}; the CGCNN here sums over atoms (global_add_pool)")
    if config.node_dim != N_ELEMENTS:
        raise ConfigError(f"{config.source}: node_dim must be {N_ELEMENTS}, not {config.node_dim}")
    arguments: dict[str, Any] = {k: config.option(k, *default) for k, default in CGCNN_OPTIONS.items()}
    if arguments["batch_norm"] and not config.option("batch_track_stats", True, bool):
        raise ConfigError(
            f"{config.source}: batch_track_stats is false: its energies depend on the other structures of a batch"
        )
    arguments |= {"width": HOST_WIDTH, "smooth_cutoff": False, "max_neighbours": config.n_neighbors}
    arguments |= {"cutoff": config.cutoff, "edge_dim": config.edge_dim, "images": config.images}
    model = constructed(lambda: CGCNN(**arguments), state, source)
    notes = _ignored(config, {*CGCNN_OPTIONS, *UNUSED_IN_EVALUATION, "pool"})
    if config.options.get("dropout_rate"):
        notes.append("dropout_rate matters in training only and is not carried over")
    if model.pool_order == "early":
        notes.append(NOT_EXTENSIVE)
    if config.images == "nearest":
        notes.append("a minimum-image graph (edge_calc_method: mdl): forces jump where another image becomes nearest")
    _load(model, state, source, config)
    return model, notes


def _read_eam(config: HostConfig, state: Mapping[str, Tensor], source: str) -> tuple[EnergyModel, list[str]]:
    if not config.atom_types:
        raise ConfigError(f"{config.source}: no atom_types; name the elements in the order of the fit (--elements)")
    if config.images != "all":
        raise ConfigError(f"{config.source}: edge_calc_method 'mdl' drops periodic images; an EAM here never does")
    model = eam_from_layout(state, config.atom_types, cutoff=config.cutoff, source=source)
    return model, _ignored(config, {"atom_types"}) + _truncation(config)


def _read_torchmd(config: HostConfig, state: Mapping[str, Tensor], source: str) -> tuple[EnergyModel, list[str]]:
    pool = config.option("pool", "global_mean_pool", str)
    if pool not in TORCHMD_POOLS:
        raise ConfigError(f"{config.source}: model.pool must be one of {', '.join(TORCHMD_POOLS)}, not {pool!r}")
    if config.images != "all":
        raise ConfigError(f"{config.source}: edge_calc_method 'mdl' drops periodic images; torchmd_et here never does")
    early = config.name in {"torchmd_etEarly", "TorchMD_ET_Early"}  # which ignores pool_order
    arguments: dict[str, Any] = {k: config.option(k, *default) for k, default in TORCHMD_OPTIONS.items()}
    arguments |= {"cutoff": config.cutoff, "pool": TORCHMD_POOLS[pool], "smooth_cutoff": False, "own_images": False}
    arguments["pool_order"] = "early" if early else config.option("pool_order", "late", str)
    model: EnergyModel = constructed(lambda: model_class("torchmd_et")(**arguments), state, source)
    _load(model, state, source, config)
    notes = _ignored(config, set(TORCHMD_OPTIONS) | TORCHMD_WITHOUT_EFFECT) + _truncation(config)
    if pool == "global_mean_pool":
        notes.append("the output is a mean over atoms (global_mean_pool), not a total energy unless trained as one")
    if model.hparams["pool_order"] == "early":
        notes.append(NOT_EXTENSIVE)
    return model, notes


def _read_hybrid(config: HostConfig, state: Mapping[str, Tensor], source: str) -> tuple[EnergyModel, list[str]]:
    """``E_network + E_EAM`` of the plugin: the keys of both, side by side."""
    name, reader = ("CGCNN", _read_cgcnn) if config.name == "CGCNN_EAM" else ("torchmd_etEarly", _read_torchmd)
    options = {k: v for k, v in config.options.items() if k not in HYBRID_OPTIONS}
    network, notes = reader(
        replace(config, name=name, options=options), {k: v for k, v in state.items() if not is_eam_layout([k])}, source
    )
    eam, _ = _read_eam(replace(config, options={}), {k: v for k, v in state.items() if is_eam_layout([k])}, source)
    frozen = [1] if config.options.get("freeze_params") is True else []
    return Sum([network, eam], frozen=frozen).eval(), notes


def _write_hybrid(model: Sum, drop_core: bool) -> HostNetwork:
    parts: list[Any] = list(model.parts)
    kinds = [part.registry_name for part in parts]
    if kinds not in (["cgcnn", "eam"], ["torchmd_et", "eam"]):
        raise CheckpointError(f"MatDeepLearn has no counterpart of a sum of {' and '.join(kinds)}")
    network, eam = host_network(parts[0]), _write_eam(parts[1], drop_core)
    if network.name == "torchmd_et":
        raise CheckpointError("the plugin's TorchMD_EAM is that of torchmd_etEarly: it has pool_order 'early' only")
    if parts[0].cutoff != parts[1].cutoff:
        raise CheckpointError(
            f"a hybrid in MatDeepLearn has one cutoff, this one {parts[0].cutoff:g} and {parts[1].cutoff:g} Å"
        )
    extra = {**eam.options, "n_basis": parts[1].hparams["n_basis"], "freeze_params": 1 in model.hparams["frozen"]}
    name = "CGCNN_EAM" if kinds[0] == "cgcnn" else "TorchMD_EAM"
    return replace(
        network,
        name=f"mdl_physpretrain.hosts.matdeeplearn.{name}",
        options={**network.options, **extra},
        state={**network.state, **eam.state},
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
    return HostNetwork("EAM_Interaction", {"atom_types": list(model.elements)}, state)


def _write_torchmd(model: EnergyModel) -> HostNetwork:
    options = model.hparams
    for name in ("smooth_cutoff", "own_images"):
        if options[name]:
            raise CheckpointError(f"MatDeepLearn's torchmd_et has no {name}: train with {name}=False")
    early = options["pool_order"] == "early"
    pool = {ours: host for host, ours in TORCHMD_POOLS.items()}[options["pool"]]
    order = {} if early else {"pool_order": "late"}
    return HostNetwork(
        "torchmd_etEarly" if early else "torchmd_et",
        {**{k: options[k] for k in TORCHMD_OPTIONS}, "pool": pool, **order},
        _without_references(model),
    )


def _without_references(model: EnergyModel) -> dict[str, Tensor]:
    return {k: v for k, v in model.state_dict().items() if k != "reference_energies"}


def _load(model: EnergyModel, state: Mapping[str, Tensor], source: str, config: HostConfig) -> None:
    """Fill in the weights; what does not fit is said in terms of the two files."""
    expected = model.state_dict()
    expected.pop("reference_energies", None)
    missing, strange = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
    wrong = [
        f"{k} has shape {tuple(state[k].shape)}, not {tuple(expected[k].shape)}"
        for k in expected
        if k in state and state[k].shape != expected[k].shape
    ]
    faults = [f"{len(missing)} entries are missing ({', '.join(missing[:3])})"] if missing else []
    faults += [f"{len(strange)} are unknown ({', '.join(strange[:3])})"] if strange else []
    faults += wrong[:3]
    if faults:
        raise CheckpointError(f"{source} does not fit {config.source}: {'; '.join(faults)}")
    offsets = state.get("distance_expansion.offset")
    if offsets is not None and abs(float(offsets[-1]) - config.cutoff) > 1e-4:
        raise CheckpointError(
            f"{source} was made with a cutoff of {float(offsets[-1]):g} Å, {config.source} says {config.cutoff:g} Å"
        )
    types = {v.dtype for v in state.values() if v.is_floating_point()}
    if types == {torch.float64}:
        model.double()
    model.load_state_dict(dict(state), strict=False)
    model.eval()


def _ignored(config: HostConfig, used: set[str]) -> list[str]:
    unused = config.unused(used)
    return [f"options MatDeepLearn ignores, ignored here too: {', '.join(unused)}"] if unused else []


def _truncation(config: HostConfig) -> list[str]:
    if config.n_neighbors is None:
        return []
    return [
        f"MatDeepLearn keeps the {config.n_neighbors} nearest neighbours (n_neighbors), this package all: "
        "energies differ where an atom has more"
    ]
