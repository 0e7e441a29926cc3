"""Fixtures of the teacher's tests."""

from __future__ import annotations

import pytest
import torch

from mdl_physpretrain.potentials.classical import ClassicalForceField


@pytest.fixture
def truth() -> ClassicalForceField:
    model = ClassicalForceField(["O", "Mg"], cutoff=5.0).double()
    with torch.no_grad():
        model.charges.copy_(torch.tensor([-1.0, 1.0]))
        model.strengths.fill_(0.4)
    return model
