"""Neighbour lists at their limits, and edge vectors against their definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.graphs.batch import build_batch, collate
from mdl_physpretrain.graphs.neighbour_lists import neighbour_list


def test_far_apart_and_nothing_at_all() -> None:
    nowhere, open_ = np.zeros((3, 3)), np.zeros(3, dtype=bool)
    line = np.array([[0.0, 0, 0], [9000, 0, 0], [9001, 0, 0]])
    assert neighbour_list(line, nowhere, open_, 2.0)[0].tolist() == [[1, 2], [2, 1]]
    assert neighbour_list(line[:1], nowhere, open_, 2.0)[0].shape == (2, 0)
    with pytest.raises(StructureError, match="exploded"):
        neighbour_list(10 * line, nowhere, open_, 2.0)
    with pytest.raises(StructureError, match="NaN or infinite"):
        neighbour_list(np.full((2, 3), np.nan), np.eye(3), ~open_, 2.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_edge_vectors_are_those_of_the_definition_to_the_last_digit(zoo: dict[str, Atoms], dtype: torch.dtype) -> None:
    batch = collate([build_batch(atoms, 5.0, dtype) for atoms in zoo.values()])
    batch.cells = batch.cells + 0.1 * torch.rand(
        batch.cells.shape, dtype=dtype, generator=torch.Generator().manual_seed(0)
    )
    compiled = batch.edge_vectors()
    batch.positions.requires_grad_()  # makes it the differentiable one
    defined = batch.edge_vectors()
    assert defined.requires_grad
    assert not compiled.requires_grad
    torch.testing.assert_close(compiled, defined.detach(), rtol=0, atol=0)
