"""MatDeepLearn: its checkpoints and configurations, and a plugin that runs inside it.

Names such as ``mdl_physpretrain.hosts.matdeeplearn.PhysPretrainTrainer`` are
what its YAML files refer to. The first of them that is looked up imports the
plugin, which registers the short names (``physpretrain``, ``sam``, ``hybrid``,
``EAM_Interaction``, ``CGCNN_EAM``, ``TorchMD_EAM``, ``EFSLoss``,
``AugmentAndLabel``). Importing this package alone does not import MatDeepLearn.
"""

from __future__ import annotations

from typing import Any

_PLUGIN = {
    "AugmentAndLabel": "transforms",
    "CGCNN_EAM": "hybrids",
    "EAM_Interaction": "eam_model",
    "EFSLoss": "losses",
    "HybridTrainer": "trainers",
    "PhysPretrainTrainer": "trainers",
    "SAMTrainer": "trainers",
    "TorchMD_EAM": "hybrids",
}


def register() -> None:
    """Import the plugin, which makes its short names known to MatDeepLearn; raises ConfigError without MatDeepLearn."""
    from importlib import import_module

    from mdl_physpretrain.hosts.matdeeplearn.host import errors_in_one_line, quiet_loggers, require_host

    errors_in_one_line()
    require_host()
    quiet_loggers()
    for module in sorted(set(_PLUGIN.values())):
        import_module(f"{__name__}.{module}")


def __getattr__(name: str) -> Any:
    if name not in _PLUGIN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; the plugin has {', '.join(_PLUGIN)}")
    from importlib import import_module

    register()
    return getattr(import_module(f"{__name__}.{_PLUGIN[name]}"), name)
