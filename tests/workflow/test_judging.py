"""Networks that fail at a probe."""

import numpy as np
import pytest
import torch

from mdl_physpretrain.potentials import CGCNN
from mdl_physpretrain.workflow.evaluation import _compress, _diatomics

WHO = {"seed": 3, "arm": "broken"}


@pytest.fixture
def broken():
    network = CGCNN(cutoff=3.0, dim1=4, dim2=4, gc_count=1)
    for weight in network.parameters():
        torch.nn.init.constant_(weight, float("nan"))
    return network


def test_a_network_without_numbers_is_told_and_does_not_end_the_run(broken, rocksalt):
    with pytest.warns(UserWarning, match="broken, seed 3: curve of O-Mg"):
        curves = _diatomics(broken, ["O", "Mg"], WHO)
    assert not curves["diatomic_flags"]["ok"].any()
    assert set(curves["diatomics"]["pair"]) == {"O-O", "O-Mg", "Mg-Mg"}
    assert curves["diatomics"]["energy"].isna().all()
    with pytest.warns(UserWarning, match="broken, seed 3: compression"):
        squeezed = _compress(broken, rocksalt[:1], WHO)
    assert squeezed["compression_flags"]["ok"].tolist() == [False]
    assert len(squeezed["compression"]) == 36


def test_a_sound_network_is_asked_the_same_questions(rocksalt):
    network = CGCNN(cutoff=3.0, dim1=4, dim2=4, gc_count=1)
    squeezed = _compress(network, rocksalt[:2], WHO)["compression"]
    assert np.isfinite(squeezed["energy_per_atom"]).all()
    assert set(squeezed["structure_id"]) == {a.info["structure_id"] for a in rocksalt[:2]}
