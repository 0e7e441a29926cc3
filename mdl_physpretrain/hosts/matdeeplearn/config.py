"""What a MatDeepLearn YAML file says about a network and its graph.

Everything that changes the numbers is read here; the networks decide in
:mod:`mdl_physpretrain.hosts.matdeeplearn.networks` what they can honour.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.workflow.yaml_files import read_yaml

__all__ = ["ALL_NEIGHBOURS", "HostConfig", "read_host_config"]

ALL_NEIGHBOURS = 100_000  # MatDeepLearn needs a number
BOOKKEEPING = {
    "name", "otf_edge_index", "otf_edge_attr", "otf_node_attr", "gradient", "model_ensemble", "prediction_level",
    "load_model", "model_path", "reference_energies",
}  # fmt: skip


@dataclass
class HostConfig:
    """Network and graph of a MatDeepLearn configuration."""

    name: str  # registered name of the network
    options: dict[str, Any]  # its own, of the section ``model``
    cutoff: float  # Å
    n_neighbors: int | None  # longest list of neighbours, None without a limit
    images: str  # "all" (``ocp``) or "nearest" (``mdl``)
    num_offsets: int  # cells it looks at in every direction
    node_dim: int
    edge_dim: int
    atom_types: list[str | int]  # elements of an EAM, in order; empty where the file names none
    reference_energies: dict[str, float]  # by symbol, eV, of our own files: what the network leaves out
    source: str  # named in errors

    def option(self, key: str, default: Any, kind: type) -> Any:
        """An option of the network, or the default of the host's class; raises ConfigError if it is of another type."""
        value = self.options.get(key, default)
        wrong = not isinstance(value, kind) or (kind is int and isinstance(value, bool))
        if wrong:
            raise ConfigError(f"{self.source}: model.{key} must be of type {kind.__name__}, not {value!r}")
        return value

    def unused(self, used: set[str]) -> list[str]:
        """Options that the network does not have (the host ignores them too)."""
        return sorted(set(self.options) - used)


def read_host_config(config: str | Path | Mapping[str, Any]) -> HostConfig:
    """Read a MatDeepLearn configuration (a YAML file, or its content).

    Raises ConfigError if it is not one, lacks what the network needs, or wants something that is not an energy.
    """
    if isinstance(config, Mapping):
        source, content = "MatDeepLearn configuration", config
    else:
        source, content = str(config), read_yaml(Path(config))
    model, dataset = _section(content, "model", source), _section(content, "dataset", source)
    graph = _section(dataset, "preprocess_params", f"{source}: dataset")
    for section, values, key in (("model", model, "name"), ("dataset.preprocess_params", graph, "cutoff_radius")):
        if values.get(key) is None:
            raise ConfigError(f"{source}: {section}.{key} is missing")
    levels = {str(s["prediction_level"]) for s in (model, dataset, graph) if s.get("prediction_level") is not None}
    if strange := sorted(levels - {"graph"}):
        raise ConfigError(f"{source}: prediction_level is {', '.join(strange)}; an energy is one of a 'graph'")
    method = str(graph.get("edge_calc_method", "mdl"))
    if method not in {"ocp", "mdl"}:
        raise ConfigError(f"{source}: edge_calc_method must be 'ocp' or 'mdl', not {method!r}")
    limit = int(_number(graph, "n_neighbors", 250, source))
    if limit < 1:
        raise ConfigError(f"{source}: n_neighbors must be at least 1, not {limit}")
    eam_args = model.get("eam_args") or {}
    if not isinstance(eam_args, Mapping):
        raise ConfigError(f"{source}: model.eam_args must be keys and values, not {eam_args!r}")
    places = (model, eam_args, graph, dataset)
    types: Any = next((s["atom_types"] for s in places if s.get("atom_types") is not None), [])
    if not isinstance(types, list):
        raise ConfigError(f"{source}: atom_types must be a list, not {types!r}")
    return HostConfig(
        name=str(model["name"]).rpartition(".")[2],
        options={str(k): v for k, v in model.items() if k not in BOOKKEEPING},
        cutoff=float(_number(graph, "cutoff_radius", None, source)),
        n_neighbors=limit if limit < ALL_NEIGHBOURS else None,
        images="all" if method == "ocp" else "nearest",
        num_offsets=int(_number(graph, "num_offsets", 1, source)),
        node_dim=int(_number(graph, "node_dim", 100, source)),
        edge_dim=int(_number(graph, "edge_dim", 50, source)),
        atom_types=types,
        reference_energies={str(k): float(v) for k, v in (model.get("reference_energies") or {}).items()},
        source=source,
    )


def _section(parent: Mapping[str, Any], name: str, source: str) -> Mapping[str, Any]:
    section = parent.get(name)
    if not isinstance(section, Mapping):
        raise ConfigError(f"{source} is not a MatDeepLearn configuration (no section {name!r})")
    return section


def _number(section: Mapping[str, Any], key: str, default: float | None, source: str) -> float:
    value = section.get(key)
    value = default if value is None else value
    try:
        if isinstance(value, bool):
            raise TypeError
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ConfigError(f"{source}: {key} must be a number, not {value!r}") from None
