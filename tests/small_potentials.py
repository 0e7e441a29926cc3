"""Every registered potential, small and with forces worth testing, and the example of another package."""

from __future__ import annotations

import sys
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from ase.build import bulk

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.graphs.batch import build_batch, collate
from mdl_physpretrain.potentials import EnergyModel, register_model, registered_models
from mdl_physpretrain.potentials.registry import model_class

EXAMPLE = Path(__file__).parents[1] / "examples" / "schnet"
if "schnet" not in registered_models():  # the example is tested where it is not installed, too
    sys.path.append(str(EXAMPLE))
    from physpretrain_schnet import SchNet

    register_model("schnet")(SchNet)

SYMBOLS = ["O", "Mg", "Si", "Al", "H"]
CGCNN = {"cutoff": 4.5, "dim1": 12, "dim2": 10, "gc_count": 2, "edge_dim": 12, "width": 0.1}
EAM = {"elements": SYMBOLS, "cutoff": 5.0, "n_basis": 4}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "cgcnn": CGCNN,
    "eam": EAM,
    "classical": {"elements": SYMBOLS, "cutoff": 5.0},
    "m3gnet": {"cutoff": 4.5, "threebody_cutoff": 3.5, "units": 12, "num_blocks": 2, "max_l": 4, "max_n": 3},
    "sum": {"parts": [{"model": n, "hparams": h} for n, h in (("cgcnn", CGCNN), ("eam", EAM), ("zbl", {}))]},
    "torchmd_et": {
        "cutoff": 4.5, "hidden_channels": 32, "num_layers": 3, "num_rbf": 8, "num_heads": 2, "post_hidden_channels": 8,
    },
}  # fmt: skip
"""Constructor arguments; a potential that is not here takes its defaults, with a cutoff of 4.5 Å if it has one."""


def small_arguments(name: str) -> dict[str, Any]:
    """Constructor arguments of a small model; the test is skipped where an optional package is missing."""
    cls = model_class(name)
    arguments = ARGUMENTS.get(name, {"cutoff": 4.5} if "cutoff" in signature(cls).parameters else {})
    try:
        cls(**arguments)
    except ConfigError as error:
        if "pip install" not in str(error):
            raise
        pytest.skip(str(error))
    return arguments


def small(name: str, dtype: torch.dtype = torch.float64, **options: object) -> EnergyModel:
    """A model in evaluation mode, scaled to data, no weight (or bias) at its special initial value."""
    arguments = small_arguments(name)
    torch.manual_seed(4)
    model = model_class(name)(**{**arguments, **options})
    generator = torch.Generator().manual_seed(1)
    sample = collate([build_batch(bulk("MgO", "rocksalt", a=a, cubic=True), model.cutoff) for a in (4.0, 4.3)])
    sample.positions += 0.1 * torch.randn(sample.positions.shape, generator=generator)
    model.initialise(sample, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.2 * noise * (0.1 + parameter.abs().mean()))
    return model.to(dtype).eval()
