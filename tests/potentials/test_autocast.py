"""Mixed precision of a trainer around a potential (Lightning's ``bf16-mixed``, ``16-mixed``): its forces stay."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from labelled_cells import rocksalt_cells
from small_potentials import small

from mdl_physpretrain.graphs.batch import build_batch, collate
from mdl_physpretrain.potentials import predict, registered_models


@pytest.mark.parametrize("name", registered_models())
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16-mixed", "16-mixed"])
def test_energies_forces_and_gradients_are_those_without_it(name: str, dtype: torch.dtype) -> None:
    model = small(name, torch.float32)
    batch = collate([build_batch(atoms, model.cutoff) for atoms in rocksalt_cells()[:2]])
    weights = [p for p in model.parameters() if p.requires_grad]

    def numbers(mixed: bool) -> list[torch.Tensor]:
        model.zero_grad()
        with torch.autocast("cpu", dtype=dtype) if mixed else nullcontext():
            energy, out = model(batch).detach(), predict(model, batch, create_graph=True)
        if weights:  # as trainers do: outside
            (out.energy.sum() + out.forces.square().sum() + out.stress.square().sum()).backward()
        gradients = [p.grad for p in weights if p.grad is not None]
        return [energy, out.energy.detach(), out.forces.detach(), out.stress.detach(), *gradients]

    expected, results = numbers(mixed=False), numbers(mixed=True)
    assert expected[2].abs().max() > 0
    assert len(results) == len(expected)
    for one, other in zip(results, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
