"""Networks that fail at a probe."""

import numpy as np
import pytest
import torch

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.potentials import CGCNN
from mdl_physpretrain.probes.base import Subject
from mdl_physpretrain.probes.compression import Compression
from mdl_physpretrain.probes.diatomics import Diatomics


@pytest.fixture
def broken():
    network = CGCNN(cutoff=3.0, dim1=4, dim2=4, gc_count=1)
    for weight in network.parameters():
        torch.nn.init.constant_(weight, float("nan"))
    return network


def test_a_network_without_numbers_is_told_and_does_not_end_the_run(broken, rocksalt):
    subject = Subject(broken, "broken, seed 3", {"test": rocksalt[:1]}, ["O", "Mg"], flag_failures=True)
    with pytest.warns(UserWarning, match="broken, seed 3: curve of O-Mg"):
        curves = Diatomics().tables(subject)
    assert not curves["diatomic_flags"]["ok"].any()
    assert set(curves["diatomics"]["pair"]) == {"O-O", "O-Mg", "Mg-Mg"}
    assert curves["diatomics"]["energy"].isna().all()
    with pytest.warns(UserWarning, match="broken, seed 3: compression"):
        squeezed = Compression().tables(subject)
    assert squeezed["compression_flags"]["ok"].tolist() == [False]
    assert len(squeezed["compression"]) == 36


def test_without_flags_the_failure_is_the_answer(broken, rocksalt):
    for probe in (Diatomics(), Compression()):
        with pytest.raises(StructureError):
            probe.tables(Subject(broken, "broken", {"test": rocksalt[:1]}, ["O", "Mg"]))


def test_a_sound_network_is_asked_the_same_questions(rocksalt):
    network = CGCNN(cutoff=3.0, dim1=4, dim2=4, gc_count=1)
    subject = Subject(network, "sound", {"test": rocksalt[:5]}, flag_failures=True, decimals=6)
    squeezed = Compression(n_compressed=2).tables(subject)["compression"]
    assert np.isfinite(squeezed["energy_per_atom"]).all()
    assert set(squeezed["structure_id"]) == {a.info["structure_id"] for a in rocksalt[:2]}
