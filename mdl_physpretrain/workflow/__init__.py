"""From a configuration to a checked potential and its report: :func:`mdl_physpretrain.workflow.run.run_pipeline`."""

from mdl_physpretrain.workflow.config import RunConfig
from mdl_physpretrain.workflow.config_files import build_config, load_config

__all__ = ["RunConfig", "build_config", "load_config"]
