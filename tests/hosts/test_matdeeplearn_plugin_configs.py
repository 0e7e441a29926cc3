"""The shipped MatDeepLearn configurations: what they say, and that they run one after the other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from ase import Atoms
from mdl_jobs import run_job

from mdl_physpretrain.augmentation import TABLE_A1
from mdl_physpretrain.errors import CheckpointError
from mdl_physpretrain.hosts import matdeeplearn
from mdl_physpretrain.hosts.matdeeplearn.paths import newest
from mdl_physpretrain.hosts.matdeeplearn.settings import read_settings
from mdl_physpretrain.structures import read_structures

CONFIGS = Path(__file__).parents[2] / "configs" / "matdeeplearn"
FILES = sorted(p.stem for p in CONFIGS.glob("*.yml"))
ELEMENTS = {"silica": ["Si", "O"], "phosphorus": ["P"], "mptrj": ["Li", "Mn", "O", "P"]}


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((CONFIGS / f"{name}.yml").read_text())


def test_all_are_there() -> None:
    networks = [f"{b}-{k}" for b in ("cgcnn", "torchmd") for k in ("pretrain", "augment", "finetune", "sam", "hybrid")]
    expected = {f"{d}-{k}" for d in ELEMENTS for k in ["eam", "torchmd-eam", *networks]}
    assert set(FILES) == expected | {"demo-plain", "demo-baseline", "demo-pretrain"}


@pytest.mark.parametrize("name", FILES)
def test_says_what_it_does(name: str) -> None:
    lines = (CONFIGS / f"{name}.yml").read_text().splitlines()
    assert lines[0].startswith("# ")
    assert lines[0].endswith(".")
    assert lines[1].startswith("# Run: physpretrain mdl")
    assert f"configs/matdeeplearn/{name}.yml" in lines[1]
    config = read(name)
    settings = read_settings(config)
    assert config["task"]["identifier"] == name
    dataset, *rest = name.split("-")
    if dataset in ELEMENTS:
        types = config["model"].get("atom_types", ELEMENTS[dataset])
        assert types == ELEMENTS[dataset]
        assert ("stress" in config["dataset"]["additional_attributes"]) == (dataset != "phosphorus")
        share = {"silica": "-10", "phosphorus": "-5", "mptrj": "-10"}[dataset] if "torchmd" in rest else ""
        assert config["dataset"]["src"]["train"] == f"data/{dataset}{share}/train.json"
    if rest[-1] == "pretrain" and dataset in ELEMENTS:
        table = TABLE_A1[dataset, rest[0]]
        assert {k: getattr(settings.augment, k) for k in table} == table
        assert settings.teacher.weights[2] == (0 if dataset == "phosphorus" else 50)
    if rest[-1] == "augment":
        args = config["dataset"]["transforms"][1]["args"]
        table = TABLE_A1[dataset, rest[0]]
        assert {k: args[k] for k in table} == table


def test_data_for_the_host(tmp_path: Path) -> None:
    """``physpretrain mdl-data``: parts that do not overlap, chosen elements, a share of the training part."""
    from typer.testing import CliRunner

    from mdl_physpretrain.cli import app

    words = ["mdl-data", "demo", "-o", str(tmp_path), "--elements", "Li,Mn,O", "--max-structures", "60"]
    done = CliRunner().invoke(app, [*words, "--fractions", "0.5,0.2,0.3", "--usage", "50%"])
    assert done.exit_code == 0, done.output
    parts = {name: read_structures(tmp_path / f"{name}.json") for name in ("train", "val", "test")}
    names = [a.info["structure_id"] for part in parts.values() for a in part]
    assert len(set(names)) == len(names)
    assert [len(p) for p in parts.values()] == pytest.approx([15, 12, 18], abs=1)
    assert {s for part in parts.values() for a in part for s in a.symbols} <= {"Li", "Mn", "O"}
    entry = json.loads((tmp_path / "train.json").read_text())[0]
    assert {"structure_id", "atomic_numbers", "positions", "cell", "y", "forces", "stress"} <= set(entry)
    done = CliRunner().invoke(app, [*words, "--usage", "half"])
    assert done.exit_code == 2
    assert "'half' is not a share" in done.output + (done.stderr or "")


def test_without_the_host(tmp_path: Path) -> None:
    """The package imports, and the command says what is missing."""
    code = "import sys; sys.modules['matdeeplearn'] = None; import mdl_physpretrain.hosts.matdeeplearn as plugin\n"
    code += "try:\n    plugin.SAMTrainer\nexcept Exception as error:\n    print(type(error).__name__, error)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("ConfigError MatDeepLearn is not installed")
    with pytest.raises(AttributeError, match="has no attribute 'SAM'"):
        _ = matdeeplearn.SAM


def test_newest_checkpoint(tmp_path: Path) -> None:
    for day in ("02", "01"):
        (tmp_path / f"2026-01-{day}-job").mkdir()
        (tmp_path / f"2026-01-{day}-job" / "c.pt").touch()
    assert newest(tmp_path / "*-job" / "c.pt").parent.name == "2026-01-02-job"
    assert newest(tmp_path / "2026-01-01-job" / "c.pt").parent.name == "2026-01-01-job"
    with pytest.raises(CheckpointError, match="does not exist"):
        newest(tmp_path / "*-other" / "c.pt")


@pytest.mark.hosts
@pytest.mark.parametrize("name", [f for f in FILES if not f.endswith("hybrid")])
def test_the_host_knows_its_names(name: str) -> None:
    pytest.importorskip("matdeeplearn", reason="MatDeepLearn is not installed")
    from matdeeplearn.common.registry import registry
    from matdeeplearn.common.trainer_context import setup_imports

    from mdl_physpretrain.hosts.matdeeplearn import register

    register()
    setup_imports()
    config = read(name)
    graph = config["dataset"]["preprocess_params"]
    registry.get_trainer_class(config["trainer"])
    loss = config["optim"]["loss"]
    registry.get_loss_class(loss["loss_type"])(**loss["loss_args"])
    model = registry.get_model_class(config["model"]["name"])(
        node_dim=graph["node_dim"], edge_dim=graph["edge_dim"], output_dim=1, cutoff_radius=graph["cutoff_radius"],
        n_neighbors=graph["n_neighbors"], graph_method=graph["edge_calc_method"], num_offsets=graph["num_offsets"],
        **config["model"],
    )  # fmt: skip
    assert model.gradient


@pytest.mark.hosts
@pytest.mark.slow
def test_one_after_the_other(shared_data: Path, tmp_path: Path, monkeypatch) -> None:
    """EAM, pretraining on fresh augmentations, finetuning, SAM, hybrid, all in one: as the comments say."""
    pytest.importorskip("matdeeplearn", reason="MatDeepLearn is not installed")
    cells: list[Atoms] = [a for a in read_structures(shared_data / "lmo_train.extxyz") if len(a) <= 11][:8]
    for kind in ("eam", "cgcnn-augment", "cgcnn-finetune", "cgcnn-sam", "cgcnn-hybrid", "cgcnn-pretrain"):
        config = read(f"mptrj-{kind}")
        config["optim"].update(max_epochs=1, batch_size=4)
        config["dataset"].update(src={k: f"{k}.json" for k in ("train", "val", "test")}, pt_path=f"processed-{kind}/")
        if "md" in config.get("physpretrain", {}):
            config["physpretrain"]["md"].update(steps=3)
        if kind == "cgcnn-pretrain":
            config["physpretrain"].update(epochs=1)
            config["physpretrain"]["teacher"].update(epochs=2)
            config["physpretrain"]["augment"].update(n_aug=2)
        if kind == "cgcnn-finetune":
            config["task"]["run_mode"] = "finetune"
        results = run_job(tmp_path, config, cells, monkeypatch)
        assert results.name.endswith(config["task"]["identifier"])
        assert (results / "checkpoint_0" / "best_checkpoint.pt").is_file()
        assert len(pd.read_csv(results / "train_results" / "test_predictions.csv")) == 2
        assert (results / "train_results" / "physicality.csv").is_file() == ("md" in config.get("physpretrain", {}))
