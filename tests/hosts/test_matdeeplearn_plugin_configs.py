"""The shipped MatDeepLearn configurations: what they say, and that they run one after the other."""

from __future__ import annotations

import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from ase import Atoms
from mdl_jobs import run_job
from typer.testing import CliRunner

from mdl_physpretrain.augmentation import TABLE_A1
from mdl_physpretrain.cli import app
from mdl_physpretrain.errors import CheckpointError, ConfigError
from mdl_physpretrain.hosts import matdeeplearn
from mdl_physpretrain.hosts.matdeeplearn.paper_jobs import SYSTEMS, as_yaml, read_job
from mdl_physpretrain.hosts.matdeeplearn.paths import newest
from mdl_physpretrain.hosts.matdeeplearn.settings import read_settings
from mdl_physpretrain.recipe import Recipe
from mdl_physpretrain.structures import read_structures

CONFIGS = Path(__file__).parents[2] / "configs" / "matdeeplearn"
PARTS = {"base", "cgcnn", "torchmd"}
FILES = sorted(p.stem for p in CONFIGS.glob("*.yml") if p.stem not in PARTS)
#: Of the 39 files that stood here until they were composed: sha256 of the content as JSON with sorted keys.
DIGESTS = json.loads((Path(__file__).parent / "data" / "matdeeplearn_configs.json").read_text())


def read(name: str) -> dict[str, Any]:
    """A job by the name of its former file, such as ``silica-torchmd-sam``."""
    system, *rest = name.split("-")
    if system == "demo":
        return read_job(CONFIGS / f"{name}.yml")
    return read_job(CONFIGS / f"{rest[-1]}.yml", system, "torchmd" if "torchmd" in rest else "cgcnn")


def test_all_are_there() -> None:
    methods = {"eam", "baseline", "pretrain", "augment", "finetune", "sam", "hybrid"}
    assert set(FILES) == methods | {"demo-plain", "demo-baseline", "demo-pretrain"}
    assert len(DIGESTS) == 39


@pytest.mark.parametrize("name", DIGESTS)
def test_content_of_the_former_files(name: str) -> None:
    content = json.dumps(yaml.safe_load(as_yaml(read(name))), sort_keys=True)
    assert sha256(content.encode()).hexdigest()[:16] == DIGESTS[name]


@pytest.mark.parametrize("name", FILES)
def test_says_what_it_does(name: str) -> None:
    lines = (CONFIGS / f"{name}.yml").read_text().splitlines()
    assert lines[0].startswith("# ")
    assert lines[0].endswith(".")
    assert lines[1].startswith("# Run: physpretrain mdl")
    assert f"configs/matdeeplearn/{name}.yml" in lines[1]
    job = read_job(CONFIGS / f"{name}.yml")
    assert job["task"]["identifier"] in {name, f"silica-cgcnn-{name}", f"silica-{name}"}
    assert job["task"]["identifier"] in job["dataset"]["pt_path"]
    if not name.startswith("demo"):
        assert read_job(CONFIGS / f"{name}.yml", "silica", "cgcnn") == job


@pytest.mark.parametrize("backbone", ["cgcnn", "torchmd"])
@pytest.mark.parametrize("system", ["silica", "phosphorus", "mptrj"])
def test_values_of_the_paper(system: str, backbone: str) -> None:
    table = TABLE_A1[system, backbone]
    settings = read_settings(read(f"{system}-{backbone}-pretrain"))
    assert {k: getattr(settings.augment, k) for k in table} == table
    assert settings.teacher.weights[2] == (0 if system == "phosphorus" else 50)
    args = read(f"{system}-{backbone}-augment")["dataset"]["transforms"][1]["args"]
    assert {k: args[k] for k in table} == table
    assert args["atom_types"] == SYSTEMS[system]["elements"]
    baseline = read(f"{system}-{backbone}-baseline")
    assert read_settings(baseline).epochs == 0
    assert baseline["model"] == read(f"{system}-{backbone}-sam")["model"]


def test_a_job_on_the_command_line(tmp_path: Path) -> None:
    """``--print`` writes a file that inherits nothing; wrong names are refused."""
    words = ["mdl", str(CONFIGS / "hybrid.yml"), "--print"]
    done = CliRunner().invoke(app, [*words, "--system", "mptrj", "--backbone", "torchmd"])
    assert done.exit_code == 0, done.output
    (tmp_path / "my.yml").write_text(done.output)
    assert yaml.safe_load(done.output) == read("mptrj-torchmd-hybrid") == read_job(tmp_path / "my.yml")
    for more, message in (
        (["--system", "silicon"], "--system must be one of silica, phosphorus, mptrj, not 'silicon'"),
        (["--backbone", "m3gnet"], "--backbone must be one of cgcnn, torchmd, not 'm3gnet'"),
    ):
        done = CliRunner().invoke(app, [*words, *more])
        assert done.exit_code == 2
        assert message in " ".join((done.output + (done.stderr or "")).split())
    with pytest.raises(ConfigError, match="need one of the paper's jobs"):
        read_job(CONFIGS / "demo-plain.yml", "mptrj")


def test_defaults_are_those_of_the_recipe() -> None:
    settings, whole = read_settings({}), Recipe()
    pretrain = {name: getattr(settings, name) for name in ("epochs", "force_scale", "val_fraction")}
    assert pretrain == whole.pretrain.model_dump(include=set(pretrain))
    assert settings.replay_fraction == whole.finetune.replay_fraction
    assert settings.augment == whole.augment
    assert settings.teacher.model_dump(exclude={"atom_types"}) == whole.teacher.model_dump()


def test_paper_settings() -> None:
    paper = read_settings({"physpretrain": {"preset": "paper", "augment": {"n_aug": 10}, "teacher": "eam.pt"}})
    assert paper.augment.n_aug == 10
    assert (paper.augment.anchor, paper.augment.pairs, paper.replay_fraction) == (False, "closest", 0.0)
    assert (paper.teacher.checkpoint, paper.teacher.force, paper.force_scale) == ("eam.pt", True, None)


def test_data_for_the_host(tmp_path: Path) -> None:
    """``physpretrain mdl-data``: parts that do not overlap, chosen elements, a share of the training part."""
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
@pytest.mark.parametrize("name", [f for f in DIGESTS if not f.endswith("hybrid")])
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
def test_one_after_the_other(demo_cells, tmp_path: Path, monkeypatch) -> None:
    """EAM, pretraining on fresh augmentations, finetuning, SAM, hybrid, all in one: as the comments say."""
    pytest.importorskip("matdeeplearn", reason="MatDeepLearn is not installed")
    cells: list[Atoms] = demo_cells(8, 11)
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
