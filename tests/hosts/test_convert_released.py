"""The released checkpoints, against stand-ins of the hub: its layout is not known here."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import types
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from ase import Atoms
from typer.testing import CliRunner

from mdl_physpretrain.cli import app
from mdl_physpretrain.errors import CheckpointError, ConfigError
from mdl_physpretrain.graphs.batch import build_batch
from mdl_physpretrain.hosts.matdeeplearn.checkpoint import write_matdeeplearn
from mdl_physpretrain.hosts.released import candidates, fetch_released, list_released
from mdl_physpretrain.potentials import CGCNN, EAM, load_model, save_model


def _eam(*elements: str) -> EAM:
    eam = EAM(elements, cutoff=5.0, core=False)
    with torch.no_grad():
        eam.D.add_(len(elements))
    return eam


def _cgcnn(dim: int) -> CGCNN:
    torch.manual_seed(dim)
    return CGCNN(cutoff=5.0, dim1=dim, dim2=8, edge_dim=8, width=0.2, smooth_cutoff=False)


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """Content of a repository, with several ways to put things."""
    root = tmp_path / "hub"
    write_matdeeplearn(_eam("Si", "O"), root / "silica/EAM/best_checkpoint.pt", config=root / "silica/EAM/config.yml")
    write_matdeeplearn(_cgcnn(12), root / "silica/CGCNN/pretrained.pt", config=root / "silica/cgcnn.yml")
    write_matdeeplearn(_cgcnn(12), root / "silica/CGCNN/run1/checkpoint_0/best_checkpoint.pt")
    (root / "silica/CGCNN/run1/checkpoint_0/best_checkpoint.yml").unlink()
    (root / "phosphorus/checkpoints").mkdir(parents=True)
    for dim in (10, 14):  # two networks, two configurations in one folder: the one that fits is taken
        config = root / f"phosphorus/configs/net{dim}.yaml"
        config.parent.mkdir(exist_ok=True)
        write_matdeeplearn(_cgcnn(dim), root / f"phosphorus/checkpoints/model-{dim}.pt", config=config)
    shutil.copytree(root / "phosphorus", root / "doubtful")
    twin = yaml.safe_load((root / "doubtful/configs/net10.yaml").read_text())
    twin["dataset"]["preprocess_params"]["n_neighbors"] = 12
    (root / "doubtful/configs/other.yaml").write_text(yaml.safe_dump(twin))
    write_matdeeplearn(_cgcnn(16), root / "orphan/net.pt", config=tmp_path / "elsewhere.yml")
    (root / "silica/EAM/README.md").write_text("hello")
    (root / "silica/processed").mkdir()
    torch.save({"data": [1]}, root / "silica/processed/data.pt")
    torch.save(torch.nn.Linear(1, 1), root / "silica/module.pt")
    (root / "broken.ckpt").write_bytes(b"\x80\x02oops")
    return root


def _files(root: Path) -> list[str]:
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


@pytest.fixture
def fake_hub(hub: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``huggingface_hub`` replaced by a module that copies files."""

    class HfApi:
        def list_repo_files(self, repo: str, *, repo_type: str) -> list[str]:
            assert (repo, repo_type) == ("qzheng75/EAM-Physical-MLIP", "dataset")
            return _files(hub)

    def hf_hub_download(repo: str, name: str, *, repo_type: str, local_dir: str) -> str:
        target = Path(local_dir) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(hub / name, target)
        return str(target)

    module = types.ModuleType("huggingface_hub")
    module.HfApi, module.hf_hub_download = HfApi, hf_hub_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return hub


def test_what_fits_is_converted_and_the_rest_says_why(fake_hub: Path, tmp_path: Path) -> None:
    results = {r.path: r for r in fetch_released(directory=tmp_path / "out")}
    converted = {path: r.config for path, r in results.items() if r.target}
    assert converted == {
        "silica/EAM/best_checkpoint.pt": "silica/EAM/config.yml",
        "silica/CGCNN/pretrained.pt": "silica/cgcnn.yml",
        "silica/CGCNN/run1/checkpoint_0/best_checkpoint.pt": "silica/cgcnn.yml",
        "phosphorus/checkpoints/model-10.pt": "phosphorus/configs/net10.yaml",
        "phosphorus/checkpoints/model-14.pt": "phosphorus/configs/net14.yaml",
        "doubtful/checkpoints/model-14.pt": "doubtful/configs/net14.yaml",
    }
    reasons = {path: r.outcome for path, r in results.items() if not r.target}
    assert "several YAML files fit" in reasons["doubtful/checkpoints/model-10.pt"]
    assert "without a YAML file near it" in reasons["orphan/net.pt"]
    assert "processed data set" in reasons["silica/processed/data.pt"]
    assert "torch.nn.modules.linear.Linear" in reasons["silica/module.pt"]
    assert "damaged" in reasons["broken.ckpt"]
    assert not (tmp_path / "out/originals/silica/processed").exists()
    eam = load_model(tmp_path / "out/native/silica/EAM/best_checkpoint.pt", expect="eam")
    pair = build_batch(Atoms("SiO", [[0, 0, 0], [1.7, 0, 0]]), 5.0)
    assert eam(pair).item() == pytest.approx(_eam("Si", "O")(pair).item())
    assert eam.metadata["released"]["file"] == "silica/EAM/best_checkpoint.pt"
    kept = tmp_path / "out/originals/silica/EAM/best_checkpoint.pt"
    assert kept.read_bytes() == (fake_hub / "silica/EAM/best_checkpoint.pt").read_bytes()
    table = pd.read_csv(tmp_path / "out/released.csv")
    assert set(table["path"]) == set(results)
    assert (table["outcome"] == "converted").sum() == 6


def test_equal_names_of_two_kinds_do_not_overwrite_each_other(fake_hub: Path, tmp_path: Path) -> None:
    save_model(_cgcnn(12), fake_hub / "silica/EAM/best_checkpoint.ckpt")
    results = fetch_released(["silica/EAM"], directory=tmp_path / "out")
    names = {load_model(r.target).registry_name: Path(r.target).name for r in results if r.target}
    assert names == {"eam": "best_checkpoint.pt", "cgcnn": "best_checkpoint.ckpt.pt"}


def test_names_choose_files_folders_and_patterns(fake_hub: Path, tmp_path: Path) -> None:
    assert [r.path for r in list_released(["silica/EAM"])] == ["silica/EAM/best_checkpoint.pt"]
    assert [r.path for r in list_released(["orphan/net.pt", "*model-10*"])] == [
        "orphan/net.pt",
        "doubtful/checkpoints/model-10.pt",
        "phosphorus/checkpoints/model-10.pt",
    ]
    with pytest.raises(ConfigError, match="no checkpoint 'silicon'; see --list"):
        fetch_released(["silicon"], directory=tmp_path / "out")
    out = CliRunner().invoke(app, ["fetch-released", "--list", "silica/EAM"])
    assert out.exit_code == 0
    assert "silica/EAM/best_checkpoint.pt  config: silica/EAM/config.yml" in out.output


def test_nearest_configurations_come_first() -> None:
    files = ["a/b/net.pt", "a/b/net.yml", "a/b/x.yml", "a/configs/y.yaml", "a/configs/net.yml", "z.yml", "c/w.yml"]
    assert candidates("a/b/net.pt", files) == [
        ["a/b/net.yml"],
        ["a/b/x.yml"],
        ["a/configs/net.yml"],
        ["a/configs/y.yaml"],
        ["z.yml"],
    ]


def test_without_the_package_or_the_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"pip install 'mdl-physpretrain\[hub\]'"):
        fetch_released(directory=tmp_path)

    class HfApi:
        def list_repo_files(self, repo: str, *, repo_type: str) -> list[str]:
            raise OSError("Network is unreachable")

    module = types.ModuleType("huggingface_hub")
    module.HfApi = HfApi  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    with pytest.raises(CheckpointError, match=r"cannot list the dataset .*EAM-Physical-MLIP.*: Network is unreachable"):
        fetch_released(directory=tmp_path)


@pytest.fixture
def server(hub: Path) -> Iterator[str]:
    """The part of the hub's HTTP interface that listing and downloading use."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            path = urllib.parse.unquote(urllib.parse.urlparse(self.path).path)
            prefix = "/datasets/qzheng75/EAM-Physical-MLIP/resolve/main/"
            if path.startswith("/api/datasets/qzheng75/EAM-Physical-MLIP/tree/main"):
                entries = [
                    {"type": "file", "path": f, "size": (hub / f).stat().st_size, "oid": "0"} for f in _files(hub)
                ]
                content, kind = json.dumps(entries).encode(), "application/json"
            elif path.startswith(prefix) and (hub / path.removeprefix(prefix)).is_file():
                content, kind = (hub / path.removeprefix(prefix)).read_bytes(), "application/octet-stream"
            else:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{abs(hash(content)):x}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def test_with_the_real_client_and_a_local_server(server: str, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed (extra hub)")
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    environment |= {"HF_ENDPOINT": server, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mdl_physpretrain", "fetch-released", "silica/EAM", "-o", str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Converted 1 of 1 checkpoints" in done.stdout
    assert load_model(tmp_path / "out/native/silica/EAM/best_checkpoint.pt").registry_name == "eam"
