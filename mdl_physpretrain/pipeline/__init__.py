"""From a configuration to a checked potential and its report."""

from mdl_physpretrain.pipeline.config import RunConfig
from mdl_physpretrain.pipeline.loading import build_config, load_config

__all__ = ["RunConfig", "build_config", "load_config", "run_pipeline"]


def __getattr__(name: str) -> object:
    if name == "run_pipeline":  # brings torch, which reading a configuration does not need
        from mdl_physpretrain.pipeline.run import run_pipeline

        return run_pipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
