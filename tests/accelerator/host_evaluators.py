"""What both plugins do in a host's training to see whether it stays physical, with the network on an accelerator."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from ase import Atoms
from labelled_cells import rocksalt_cells
from simulated_accelerator import DEVICE, SimulatedTensor, simulated
from torch.utils import _pytree as pytree

from mdl_physpretrain.structures import write_structures

sys.path.append(str(Path(__file__).parents[1] / "hosts"))
import mdl_jobs
from mattertune_jobs import model_config, plugin_fixture, student  # noqa: F401 - pytest finds the fixture by name


class OtherPackages(torch.overrides.TorchFunctionMode):
    """Operations of torch_scatter, which knows CPUs and GPUs alone, on the tensors inside; none is differentiated."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not getattr(function, "_qualified_op_name", "").startswith("torch_scatter"):
            return function(*args, **(kwargs or {}))
        given = (args, kwargs or {})
        assert not any(x.requires_grad for x in pytree.tree_leaves(given) if isinstance(x, torch.Tensor))
        args, kwargs = pytree.tree_map_only(SimulatedTensor, lambda x: x.inner, given)
        return pytree.tree_map_only(torch.Tensor, SimulatedTensor, function(*args, **kwargs))


MD = {"temperature": 900.0, "steps": 12, "timestep": 2.0, "n_structures": 3}


@pytest.fixture(name="cells")
def cells_fixture(tmp_path: Path, monkeypatch) -> list[Atoms]:
    monkeypatch.chdir(tmp_path)
    cells = rocksalt_cells()[:3]
    write_structures("cells.extxyz", cells)
    return cells


def assert_equal(one: pd.DataFrame, other: pd.DataFrame) -> None:
    """Of trajectories."""
    assert len(one) == 3
    assert other["reason"].tolist() == one["reason"].tolist()
    for name in ("min_distance", "lindemann_local"):
        np.testing.assert_allclose(other[name], one[name], rtol=1e-4)


@pytest.mark.parametrize("potential", ["auto", "host"])
@pytest.mark.parametrize("network", [mdl_jobs.CGCNN, mdl_jobs.TORCHMD], ids=["cgcnn", "torchmd"])
def test_matdeeplearns_examiner(network: dict[str, Any], potential: str, cells: list[Atoms], tmp_path: Path) -> None:
    pytest.importorskip("matdeeplearn", reason="MatDeepLearn is not installed")
    import matdeeplearn.models  # noqa: F401 - registers them
    from matdeeplearn.common.registry import registry

    from mdl_physpretrain.hosts.matdeeplearn.md_examiner import MDExaminer
    from mdl_physpretrain.hosts.matdeeplearn.settings import read_settings

    md = {**MD, "source": "cells.extxyz", "potential": potential}
    config = mdl_jobs.job(network, physpretrain={"md": md})
    graph = {
        k: config["dataset"]["preprocess_params"][k]
        for k in ("node_dim", "edge_dim", "cutoff_radius", "n_neighbors", "num_offsets")
    }
    torch.manual_seed(0)
    model = registry.get_model_class(network["name"])(graph_method="ocp", output_dim=1, **graph, **config["model"])

    def examined(device: str) -> tuple[dict[str, Any], pd.DataFrame]:
        trainer = SimpleNamespace(
            settings=read_settings(config), config=config, dataset={}, results=tmp_path / device,
            model=[model.to(device)], device=torch.device(device),
        )  # fmt: skip
        row = MDExaminer(trainer).examine(None, 0.0)
        return row, pd.read_csv(tmp_path / device / "train_results" / "physicality.csv", keep_default_na=False)

    row, expected = examined("cpu")
    with simulated(), OtherPackages():
        other, table = examined(DEVICE)
    assert other["potential"].split(",")[0] == row["potential"].split(",")[0]
    assert row["potential"].startswith("native" if potential == "auto" else "MatDeepLearn")
    assert_equal(expected, table)


@pytest.mark.parametrize("of_the_host", [False, True], ids=["our network", "the host's pass"])
@pytest.mark.parametrize("network", ["cgcnn", "torchmd_et", "m3gnet"])
def test_mattertunes_callback(plugin, network: str, of_the_host: bool, cells: list[Atoms], monkeypatch) -> None:
    from mattertune.registry import backbone_registry

    from mdl_physpretrain.hosts.mattertune import recipe_md
    from mdl_physpretrain.hosts.mattertune.batched import ModulePotential

    module = backbone_registry.construct(model_config(network)).create_model()
    module.adopt(student(network, cells))
    if of_the_host:  # as with a backbone that is not one of ours
        monkeypatch.setattr(recipe_md, "potential", lambda module, batched: ModulePotential(module))

    def examined(device: str) -> tuple[dict[str, int], pd.DataFrame]:
        recipe = recipe_md.MDPhysicalityRecipeConfig(md={**MD, "source": "cells.extxyz"}, directory=device)
        callback = recipe.create_lightning_callback()
        callback.structures = cells
        strategy = SimpleNamespace(broadcast=lambda counts: counts, root_device=torch.device(device))
        trainer: Any = SimpleNamespace(is_global_zero=True, strategy=strategy)
        counts = callback._run_with("", trainer, module)
        assert module.device == torch.device("cpu")  # as it was
        return counts, pd.read_csv(Path(device) / "physicality.csv", keep_default_na=False)

    counts, expected = examined("cpu")
    with simulated():
        others, table = examined(DEVICE)
    assert others == counts
    assert counts["trajectories"] == 3
    assert_equal(expected, table)
