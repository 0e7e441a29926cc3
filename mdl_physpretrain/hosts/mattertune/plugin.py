"""Registration of the plugin's names with MatterTune; importing this module does it."""

from __future__ import annotations

from mdl_physpretrain.hosts.convert import read_checkpoint_of as read_native
from mdl_physpretrain.hosts.mattertune.checkpoint import write_mattertune as write_host
from mdl_physpretrain.hosts.mattertune.host import require_host

require_host()

from mattertune.main import MatterTunerConfig  # noqa: E402
from mattertune.recipes import recipe_registry  # noqa: E402

from mdl_physpretrain.hosts.mattertune.backbone_native import (  # noqa: E402
    CGCNNBackboneConfig,
    MatterSimM3GNetConfig,
    TorchMDETBackboneConfig,
)
from mdl_physpretrain.hosts.mattertune.data import EAMLabelledDatasetConfig  # noqa: E402
from mdl_physpretrain.hosts.mattertune.loading import load_module, potential  # noqa: E402
from mdl_physpretrain.hosts.mattertune.mace_file import take_local_files  # noqa: E402
from mdl_physpretrain.hosts.mattertune.recipe_md import MDPhysicalityRecipeConfig  # noqa: E402
from mdl_physpretrain.hosts.mattertune.recipe_order import ReplayRecipeConfig, ShuffleRecipeConfig  # noqa: E402
from mdl_physpretrain.hosts.mattertune.recipe_sam import SAMRecipeConfig  # noqa: E402
from mdl_physpretrain.hosts.mattertune.recipe_weights import PhysicsPretrainRecipeConfig  # noqa: E402

__all__ = [
    "CGCNNBackboneConfig",
    "EAMLabelledDatasetConfig",
    "MDPhysicalityRecipeConfig",
    "MatterSimM3GNetConfig",
    "PhysicsPretrainRecipeConfig",
    "ReplayRecipeConfig",
    "SAMRecipeConfig",
    "ShuffleRecipeConfig",
    "TorchMDETBackboneConfig",
    "load_module",
    "potential",
    "read_native",
    "write_host",
]

take_local_files()
# the host built this schema when its own recipes were all there were
recipe_registry.rebuild_on_registers(MatterTunerConfig)
