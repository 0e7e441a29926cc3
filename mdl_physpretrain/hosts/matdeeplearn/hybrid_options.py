"""Options of the networks with an EAM: those of the paper's authors, and the short ones of earlier versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mdl_physpretrain.errors import ConfigError

__all__ = ["HYBRID_OPTIONS", "eam_cutoff", "eam_options"]

HOST_CUTOFF = 8.0  # Å, of MatDeepLearn's models that are given none, as the authors' EAM in a hybrid is
SHORT = ("atom_types", "n_basis", "init_mode", "freeze_params")
HYBRID_OPTIONS = {*SHORT, "eam_args", "load_trained_eam", "freeze_eam"}
EAM_ARGS = {*SHORT, "init_args", "cutoff_radius"}
WITHOUT_EFFECT = {"gradient", "otf_edge_index", "otf_edge_attr", "otf_node_attr", "prediction_level", "n_neighbors"}


def eam_cutoff(eam_args: Mapping[str, Any] | None, cutoff_radius: float) -> float:
    """Cutoff of the EAM in a hybrid, Å.

    In the authors' hybrids the EAM has its own, 8 Å unless ``eam_args`` says
    otherwise, and sees the pairs of the network's graph.

    Raises
    ------
    ConfigError
        If the network's graph is shorter: the EAM would jump where it ends.
    """
    cutoff = cutoff_radius if eam_args is None else float(eam_args.get("cutoff_radius", HOST_CUTOFF))
    if cutoff > cutoff_radius + 1e-9:
        raise ConfigError(
            f"model.eam_args: the EAM's cutoff_radius of {cutoff:g} Å is longer than the network's graph "
            f"({cutoff_radius:g} Å): its energy would jump where the graph ends; name a cutoff_radius in eam_args"
        )
    return cutoff


def eam_options(
    cutoff_radius: float,
    eam_args: Mapping[str, Any] | None,
    load_trained_eam: str | None,
    freeze_eam: bool,
    words: Mapping[str, Any],
) -> dict[str, Any]:
    """Arguments of the EAM of a hybrid, see :class:`~mdl_physpretrain.hosts.matdeeplearn.eam_model.EAMTerm`.

    Parameters
    ----------
    cutoff_radius
        Of the network, Å.
    eam_args, load_trained_eam, freeze_eam
        Of the section ``model``.
    words
        ``atom_types``, ... of the section ``model`` itself; ``None``: not given.

    Raises
    ------
    ConfigError
        If an option is unknown, or given in both ways.
    """
    given = {k: v for k, v in words.items() if v is not None}
    if eam_args is not None and given:
        raise ConfigError(f"model: {', '.join(given)}: give the options of the EAM in eam_args or beside it, not both")
    args = dict(given if eam_args is None else eam_args)
    if strange := sorted(set(args) - EAM_ARGS - WITHOUT_EFFECT):
        raise ConfigError(f"model.eam_args: unknown {', '.join(strange)}; known: {', '.join(sorted(EAM_ARGS))}")
    if not args.get("atom_types"):
        raise ConfigError("model.eam_args.atom_types is required: the elements of the dataset, e.g. [Si, O]")
    options = {k: v for k, v in args.items() if k in EAM_ARGS and k != "cutoff_radius"}
    options["cutoff"] = eam_cutoff(eam_args, cutoff_radius)
    if load_trained_eam is not None:
        options |= {"init_mode": str(load_trained_eam), "init_args": None}
    if freeze_eam:
        options["freeze_params"] = True
    return options
