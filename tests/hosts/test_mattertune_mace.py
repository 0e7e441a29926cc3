"""A MACE network with random weights from a local file, in MatterTune's own backbone."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from mattertune_jobs import PROPERTIES, folder_fixture, lmo_fixture, plugin_fixture  # noqa: F401 - fixtures

from mdl_physpretrain.errors import CheckpointError, ConfigError

pytestmark = pytest.mark.hosts

torch.serialization.add_safe_globals([slice])  # e3nn 0.4 reads a table of its own
pytest.importorskip("mace.modules", reason="mace-torch is not installed")


def random_mace() -> Any:
    from e3nn import o3
    from mace import modules

    torch.manual_seed(1)
    interaction = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    return modules.ScaleShiftMACE(
        r_max=4.5, num_bessel=4, num_polynomial_cutoff=5, max_ell=1, interaction_cls=interaction,
        interaction_cls_first=interaction, num_interactions=2, num_elements=3, hidden_irreps=o3.Irreps("4x0e + 4x1o"),
        MLP_irreps=o3.Irreps("4x0e"), gate=torch.nn.functional.silu, atomic_energies=np.zeros(3), avg_num_neighbors=9.0,
        atomic_numbers=[3, 8, 25], correlation=2, atomic_inter_scale=1.0, atomic_inter_shift=0.0,
    )  # fmt: skip


def test_plain_files_and_pickled_ones(tmp_path: Path) -> None:
    from mdl_physpretrain.hosts.mattertune.mace_file import convert_mace, read_mace, write_mace

    model = random_mace()
    torch.save(model, tmp_path / "net.model")
    with pytest.raises(CheckpointError, match="pickled module, which would execute code"):
        read_mace(tmp_path / "net.model")
    with pytest.raises(CheckpointError, match="its SHA-256 is"):
        convert_mace(tmp_path / "net.model", tmp_path / "a.pt", sha256="0" * 64)
    digest = hashlib.sha256((tmp_path / "net.model").read_bytes()).hexdigest()
    convert_mace(tmp_path / "net.model", tmp_path / "a.pt", sha256=digest)
    write_mace(model, tmp_path / "b.pt")
    for name in ("a.pt", "b.pt"):
        again = read_mace(tmp_path / name)
        assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())


def test_the_backbone_takes_a_plain_file(plugin: Any, lmo: list[Atoms], folder: Path) -> None:
    from mattertune.registry import backbone_registry

    from mdl_physpretrain.graphs.batch import build_batch, collate
    from mdl_physpretrain.hosts.mattertune.mace_file import write_mace
    from mdl_physpretrain.potentials import predict

    write_mace(random_mace(), folder / "mace-net.pt")
    options = {"name": "mace", "properties": PROPERTIES, "optimizer": {"name": "AdamW", "lr": 1e-3}}
    config: Any = {**options, "pretrained_model": str(folder / "mace-net.pt")}
    module = backbone_registry.construct(config).create_model()
    one, many = plugin.potential(module), plugin.potential(module, batched=True)
    together = predict(many, collate([build_batch(a, many.cutoff) for a in lmo[:3]]))
    for k, atoms in enumerate(lmo[:3]):
        assert float(together.energy[k]) == pytest.approx(one.get_potential_energy(atoms), abs=1e-3)
    with pytest.raises(ConfigError, match=r"pretrained_model: no\.pt does not exist"):
        backbone_registry.construct({**config, "pretrained_model": "no.pt"}).create_model()
