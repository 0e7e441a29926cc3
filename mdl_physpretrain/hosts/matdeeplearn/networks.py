"""MatDeepLearn's networks as ours: which options mean the same; what would change the numbers is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mdl_physpretrain.errors import CheckpointError, ConfigError
from mdl_physpretrain.hosts.matdeeplearn.config import HostConfig
from mdl_physpretrain.hosts.matdeeplearn.eam_layout import eam_from_layout, split_hybrid
from mdl_physpretrain.hosts.matdeeplearn.hybrid_options import HYBRID_OPTIONS, eam_cutoff
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.cgcnn.model import CGCNN, N_ELEMENTS
from mdl_physpretrain.potentials.construction import constructed
from mdl_physpretrain.potentials.eam.model import ELEMENT_PARAMETERS, PAIR_PARAMETERS
from mdl_physpretrain.potentials.registry import construct_model
from mdl_physpretrain.potentials.sum import Sum

__all__ = ["our_network"]

FEW_OFFSETS = 5
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
EAM_OPTIONS = {"atom_types", "n_basis", "init_mode", "init_args", "freeze_params"}
UNUSED_IN_EVALUATION = {"batch_track_stats": True, "dropout_rate": 0.0}
NOT_EXTENSIVE = "early pooling is not size-extensive: a supercell's energy is not a multiple"
ALIASES = {"TorchMD_ET": "torchmd_et", "TorchMD_ET_Early": "torchmd_etEarly"}
EARLY_BY_NAME = {"torchmd_etEarly", "TorchMD_ET_Early"}  # in the public MatDeepLearn, which ignores their pool_order
TORCHMD_POOLS = {"global_add_pool": "add", "global_mean_pool": "mean"}
TORCHMD_WITHOUT_EFFECT = {"aggr", "dropout_rate", "max_num_neighbors", "num_filters", "pool", "pool_order"}


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
    name = ALIASES.get(config.name, config.name)
    if name not in readers:
        raise ConfigError(f"{config.source}: model.name {config.name!r} has no counterpart here ({', '.join(readers)})")
    model, notes = readers[name](config, state, source)
    if config.images == "all" and config.num_offsets < FEW_OFFSETS:
        notes.append(
            f"MatDeepLearn looks {config.num_offsets} cells away (num_offsets): it misses neighbours in cells thinner "
            f"than {config.cutoff / max(config.num_offsets, 1):.3g} Å, this package does not"
        )
    return model, notes


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
    return model, _ignored(config, {*EAM_OPTIONS, "clamped_params"}) + _truncation(config)


def _read_torchmd(config: HostConfig, state: Mapping[str, Tensor], source: str) -> tuple[EnergyModel, list[str]]:
    pool = config.option("pool", "global_mean_pool", str)
    if pool not in TORCHMD_POOLS:
        raise ConfigError(f"{config.source}: model.pool must be one of {', '.join(TORCHMD_POOLS)}, not {pool!r}")
    if config.images != "all":
        raise ConfigError(f"{config.source}: edge_calc_method 'mdl' drops periodic images; torchmd_et here never does")
    early_by_name = config.name in EARLY_BY_NAME
    order = config.option("pool_order", "early" if early_by_name else "late", str)
    if order not in ("early", "late"):
        raise ConfigError(f"{config.source}: model.pool_order must be 'early' or 'late', not {order!r}")
    arguments: dict[str, Any] = {k: config.option(k, *default) for k, default in TORCHMD_OPTIONS.items()}
    arguments |= {"cutoff": config.cutoff, "pool": TORCHMD_POOLS[pool], "smooth_cutoff": False, "own_images": False}
    arguments["pool_order"] = order
    model: EnergyModel = constructed(lambda: construct_model("torchmd_et", arguments), state, source)
    _load(model, state, source, config)
    notes = _ignored(config, set(TORCHMD_OPTIONS) | TORCHMD_WITHOUT_EFFECT) + _truncation(config)
    if pool == "global_mean_pool":
        notes.append("the output is a mean over atoms (global_mean_pool), not a total energy unless trained as one")
    if early_by_name and "pool_order" not in config.options:
        notes.append(
            f"{config.name} without pool_order is taken as 'early', as the public MatDeepLearn does; if it was trained "
            "in the branch of the paper's authors, whose default is late, write 'pool_order: late' into the YAML"
        )
    elif early_by_name and order == "late":
        notes.append(
            "pool_order: late is honoured, as in the branch of the paper's authors; the public MatDeepLearn ignores "
            f"it under the name {config.name}: if it was trained there, write 'pool_order: early' into the YAML"
        )
    if order == "early":
        notes.append(NOT_EXTENSIVE)
    return model, notes


def _read_hybrid(config: HostConfig, state: Mapping[str, Tensor], source: str) -> tuple[EnergyModel, list[str]]:
    """``E_network + E_EAM``: of the paper's authors, and of this or an earlier version of the plugin."""
    network_state, eam_state, authors_layout = split_hybrid(state)
    name, reader = ("CGCNN", _read_cgcnn) if config.name == "CGCNN_EAM" else ("torchmd_et", _read_torchmd)
    options = {k: v for k, v in config.options.items() if k not in HYBRID_OPTIONS}
    if name == "torchmd_et" and not authors_layout:  # of a version of the plugin that always pooled early
        options["pool_order"] = "early"
    args = config.options.get("eam_args")
    try:
        cutoff = eam_cutoff(args, config.cutoff)
    except ConfigError as error:
        raise ConfigError(f"{config.source}: {error}") from None
    network, notes = reader(replace(config, name=name, options=options), network_state, source)
    eam, _ = _read_eam(replace(config, options={}, cutoff=cutoff), eam_state, source)
    frozen = (args or config.options).get("freeze_params") or []
    whole = frozen is True or (isinstance(frozen, list) and set(frozen) >= {*PAIR_PARAMETERS, *ELEMENT_PARAMETERS})
    if frozen and not whole:
        notes.append(f"freeze_params {frozen} is not carried over: an EAM in a sum is trained or frozen as a whole")
    freezes = whole or config.options.get("freeze_eam") is True
    return Sum([network, eam], frozen=[1] if freezes else []).eval(), notes


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
    if not (unused := config.unused(used)):
        return []
    return [f"options MatDeepLearn's {config.name} does not have, ignored as there: {', '.join(unused)}"]


def _truncation(config: HostConfig) -> list[str]:
    if config.n_neighbors is None:
        return []
    return [
        f"MatDeepLearn keeps the {config.n_neighbors} nearest neighbours (n_neighbors), this package all: "
        "energies differ where an atom has more"
    ]
