"""How many kernels PyTorch's compiler makes of a network's energies and forces, counted without a GPU.

The compiler is stopped when it has written its code. With Triton installed (``pip install --no-deps triton``) that is
the code for an NVIDIA GPU of compute capability 9.0; without, that for a CPU, whose fusions are nearly the same.
"""

from __future__ import annotations

import contextlib
import importlib.util
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch._inductor.graph import GraphLowering

from mdl_physpretrain.graphs.batch import AtomicBatch
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.compiled_graph import GPU_OPTIONS, trace

__all__ = ["fused_kernels"]


class _Written(Exception):
    """The code is there."""


def fused_kernels(model: EnergyModel, batch: AtomicBatch) -> int:
    """Kernels and matrix products of an evaluation of a batch on the CPU; zero for a model that cannot be compiled."""
    counts: list[int] = []

    def stop(lowering: Any) -> None:
        lowering.codegen()
        counts.append(sum(type(n).__name__ != "NopKernelSchedulerNode" for n in lowering.scheduler.nodes))
        raise _Written

    def compiler(graph: torch.fx.GraphModule, examples: list[torch.Tensor]) -> Any:
        options: dict[str, Any] = {"fx_graph_cache": False, "cpu_backend": "triton" if _imitate_gpu() else "cpp"}
        options |= GPU_OPTIONS
        with mock.patch.object(GraphLowering, "compile_to_module", stop), contextlib.suppress(Exception):
            torch._inductor.compile(graph, examples, options)
        return None

    return counts[0] if trace(model, batch, batch.edge_vectors(), compiler) and counts else 0


def _imitate_gpu() -> bool:
    """Let Triton write code for a GPU that is not there; whether Triton is."""
    if importlib.util.find_spec("triton") is None:
        return False
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    if not torch.cuda.is_available():
        gpu = GPUTarget("cuda", 90, 32)
        driver.set_active(
            SimpleNamespace(
                get_current_target=lambda: gpu,
                get_current_device=lambda: 0,
                get_active_torch_device=lambda: torch.device("cpu"),
            )
        )
    return True
