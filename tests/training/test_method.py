"""The whole method in one call, in a folder: the same call goes on, another one is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ase import Atoms
from ase.calculators.lj import LennardJones

import mdl_physpretrain as pp
from mdl_physpretrain import recipe
from mdl_physpretrain.errors import CheckpointError
from mdl_physpretrain.potentials import EAM
from mdl_physpretrain.training.references import is_another_energy_scale


@pytest.mark.parametrize("anchor", [False, True])
def test_only_a_calculator_without_anchor_has_another_energy_scale(anchor: bool) -> None:
    calculator = recipe.Teacher(calculator="ase.calculators.lj:LennardJones")
    for teacher in (calculator, LennardJones(), LennardJones):
        assert is_another_energy_scale(teacher, anchor=anchor) is not anchor
    for teacher in (recipe.Teacher(), recipe.Teacher(checkpoint="teacher.pt"), EAM(["O"], cutoff=4.0, n_basis=2)):
        assert not is_another_energy_scale(teacher, anchor=anchor)


def test_only_the_same_call_goes_on_in_its_folder(rocksalt: list[Atoms], tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "model_args": {"cutoff": 4.0, "dim1": 8, "dim2": 8, "gc_count": 1, "edge_dim": 12},
        "teacher": LennardJones(sigma=1.0, rc=4.0), "augment": {"n_aug": 1, "max_force": None},
        "pretrain": {"epochs": 1}, "finetune": {"epochs": 1}, "directory": tmp_path, "device": "cpu",
        "preset": "algorithm1",
    }  # fmt: skip
    first = pp.pretrain_and_finetune(rocksalt[:4], **options)
    (tmp_path / "finetune" / "last.ckpt").unlink()  # as if it had been interrupted before the first epoch's end
    again = pp.pretrain_and_finetune(rocksalt[:4], **options)
    state = again.potential.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in first.potential.state_dict().items())
    with pytest.raises(CheckpointError, match=r"pretrain/last.ckpt was written with other structures"):
        pp.pretrain_and_finetune(rocksalt[1:5], **options)
    with pytest.raises(CheckpointError, match=r"pretrain/last.ckpt was written with .*seed="):
        pp.pretrain_and_finetune(rocksalt[:4], **{**options, "seed": 1})
    with pytest.raises(CheckpointError, match=r"finetune/last.ckpt was written with learning_rate=0.001, not 0.01:"):
        pp.pretrain_and_finetune(rocksalt[:4], **{**options, "finetune": {"epochs": 1, "learning_rate": 0.01}})
