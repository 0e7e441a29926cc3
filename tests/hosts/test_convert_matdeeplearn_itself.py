"""Converted checkpoints give the same numbers in MatDeepLearn and here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress

from mdl_physpretrain.graphs.batch import build_batch
from mdl_physpretrain.hosts.matdeeplearn.checkpoint import read_matdeeplearn, write_matdeeplearn
from mdl_physpretrain.hosts.product_precision import precision_kept
from mdl_physpretrain.potentials import CGCNN, EAM, EnergyModel, Sum, predict
from mdl_physpretrain.potentials.registry import model_class
from mdl_physpretrain.structures import read_structures

pytestmark = pytest.mark.hosts

SMALL_TORCHMD: dict[str, Any] = {
    "hidden_channels": 16,
    "num_layers": 2,
    "num_rbf": 12,
    "num_heads": 4,
    "num_post_layers": 2,
    "post_hidden_channels": 16,
}


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> Any:
    """MatDeepLearn's package; skipped where it is not installed."""
    package = pytest.importorskip("matdeeplearn", reason="MatDeepLearn is not installed")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # it reads its own processed data
    with precision_kept("matdeeplearn"):
        import matdeeplearn.models.cgcnn
        import matdeeplearn.models.torchmd_et
        import matdeeplearn.models.torchmd_etEarly  # noqa: F401 - they register themselves

    return package


@pytest.fixture
def repository(host: Any) -> Path:
    """MatDeepLearn's source tree, which has the shipped checkpoint."""
    root = Path(host.__path__[0]).parent
    if not (root / "test/saved_models/cgcnn.pt").is_file():
        pytest.skip(f"MatDeepLearn's test/saved_models is not in {root}")
    return root


@pytest.mark.parametrize("own", [True, False])
def test_shipped_cgcnn(repository: Path, tmp_path: Path, rocksalt: list[Atoms], own: bool) -> None:
    """The shipped checkpoint with its configuration, on its own data and on dense crystals."""
    from matdeeplearn.preprocessor.processor import process_data
    from matdeeplearn.trainers.property_trainer import PropertyTrainer

    checkpoint, config = repository / "test/saved_models/cgcnn.pt", repository / "test/configs/cpu/test_predict.yml"
    entries = json.loads((repository / "test/data/data_300.json").read_text())[::10]
    if not own:
        entries = [
            {
                "structure_id": str(k),
                "atomic_numbers": a.numbers.tolist(),
                "positions": a.positions.tolist(),
                "cell": a.cell.array.tolist(),
                "y": 0.0,
            }
            for k, a in enumerate(rocksalt)
        ]
    (tmp_path / "data.json").write_text(json.dumps(entries))
    content = yaml.safe_load(config.read_text())
    content["task"].update(run_mode="predict", checkpoint_path=str(checkpoint), save_dir=str(tmp_path), use_amp=False)
    content["dataset"].update(src=str(tmp_path / "data.json"), pt_path=str(tmp_path), dataset_device="cpu")
    process_data(content["dataset"])
    trainer = PropertyTrainer.from_config(content)
    trainer.load_checkpoint(False)
    out = trainer.predict(loader=trainer.data_loader[0]["predict_loader"], split="predict", write_output=False)
    theirs = {str(i[0]): float(p[0]) for i, p in zip(out["ids"], out["predict"], strict=True)}
    model = read_matdeeplearn(checkpoint, config)
    assert model.hparams["pool_order"] == "early"
    assert model.hparams["images"] == "nearest"
    energies = []
    for atoms in read_structures(tmp_path / "data.json"):
        energies.append(model(build_batch(atoms, model.cutoff)).item())
        assert energies[-1] == pytest.approx(theirs[atoms.info["structure_id"]], abs=1e-5)
    assert np.ptp(energies) > 1e-3


def _host_numbers(config: Path, atoms: Atoms) -> tuple[float, np.ndarray, np.ndarray]:
    """Energy, forces and stress (3, 3) of MatDeepLearn's own ASE calculator."""
    from matdeeplearn.common.ase_utils import MDLCalculator

    calculator = MDLCalculator(str(config), "cpu")
    for model in calculator.models:
        model.eval()
    calculator.calculate(atoms)
    return float(calculator.results["energy"]), calculator.results["forces"], calculator.results["stress"]


def _assert_same(model: EnergyModel, config: Path, structures: list[Atoms], *, tolerance: float = 1e-5) -> None:
    largest = 0.0
    for atoms in structures:
        energy, forces, stress = _host_numbers(config, atoms)
        mine = predict(model, build_batch(atoms, model.cutoff))
        assert mine.energy.item() == pytest.approx(energy, rel=tolerance, abs=tolerance)
        scale = max(1.0, float(np.abs(forces).max()))
        np.testing.assert_allclose(mine.forces.detach().numpy(), forces, atol=tolerance * scale)
        full = stress if stress.shape == (3, 3) else voigt_6_to_full_3x3_stress(stress)
        scale = max(1.0, float(np.abs(full).max()))
        np.testing.assert_allclose(mine.stress[0].detach().numpy(), full, atol=tolerance * scale)
        largest = max(largest, float(np.abs(forces).max()))
    assert largest > 0.01


def _lively(model: EnergyModel) -> EnergyModel:
    """Weights that give forces one can compare."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "conv_list" in name and "weight" in name:
                parameter.mul_(3)
            if name in {"lin_out.weight", "post_lin_list.2.weight"} and model.registry_name != "cgcnn":
                parameter.mul_(5)
            if name == "lin_out.weight":
                parameter.mul_(100)
        for norm in getattr(model, "bn_list", []):
            norm.running_mean.normal_(0, 0.3)
            norm.running_var.uniform_(0.5, 2.0)
    return model.eval()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_neighbours": 15, "act": "relu"},
        {"images": "nearest", "pool_order": "early"},
        {"images": "nearest", "max_neighbours": 4, "batch_norm": False},
    ],
)
def test_our_cgcnn_there(tmp_path: Path, rocksalt: list[Atoms], options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = CGCNN(**{"cutoff": 5.5, "dim1": 24, "dim2": 30, "width": 0.2, "smooth_cutoff": False, **options})
    _, config = write_matdeeplearn(_lively(model), tmp_path / "net.pt")
    _assert_same(model, config, rocksalt[:3])
    _assert_same(read_matdeeplearn(tmp_path / "net.pt", config), config, rocksalt[:1])


def test_reference_energies_there(tmp_path: Path, rocksalt: list[Atoms]) -> None:
    torch.manual_seed(0)
    model = _lively(CGCNN(cutoff=5.0, dim1=24, dim2=30, width=0.2, smooth_cutoff=False))
    model.reference_energies[8], model.reference_energies[12] = -4.5, -1.25
    _, config = write_matdeeplearn(model, tmp_path / "net.pt", references="fold")
    _assert_same(model, config, rocksalt[:2], tolerance=2e-5)
    _, config = write_matdeeplearn(model, tmp_path / "beside.pt", references="beside")
    energy, forces, _ = _host_numbers(config, rocksalt[0])
    mine = predict(model, build_batch(rocksalt[0], 5.0))
    assert mine.energy.item() - energy == pytest.approx(4 * (-4.5 - 1.25), abs=1e-4)
    np.testing.assert_allclose(mine.forces.detach().numpy(), forces, atol=1e-5)


@pytest.mark.parametrize("name", ["torchmd_etEarly", "torchmd_et"])
def test_torchmd_trained_there(tmp_path: Path, rocksalt: list[Atoms], name: str) -> None:
    """A few steps in MatDeepLearn, its checkpoint here, and the same model written back."""
    from matdeeplearn.common.registry import registry
    from torch_geometric.data import Batch, Data

    graph = {"cutoff_radius": 5.0, "n_neighbors": 250, "edge_calc_method": "ocp", "num_offsets": 3}
    options = {**SMALL_TORCHMD, "pool": "global_add_pool", "otf_edge_index": True, "otf_edge_attr": True}
    options |= {"otf_node_attr": True, "gradient": True}
    torch.manual_seed(4)
    network = registry.get_model_class(name)(
        node_dim=100, edge_dim=50, output_dim=1, cutoff_radius=5.0, n_neighbors=250, graph_method="ocp", num_offsets=3,
        **options,
    )  # fmt: skip
    data = [
        Data(
            pos=torch.tensor(a.positions, dtype=torch.float32),
            cell=torch.tensor(a.cell.array[None], dtype=torch.float32),
            z=torch.tensor(a.numbers),
            n_atoms=torch.tensor([len(a)]),
        )
        for a in rocksalt[:4]
    ]
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    energy = torch.tensor([[a.get_potential_energy()] for a in rocksalt[:4]], dtype=torch.float32)
    forces = torch.tensor(np.concatenate([a.get_forces() for a in rocksalt[:4]]), dtype=torch.float32)
    for _ in range(6):
        out = network(Batch.from_data_list([d.clone() for d in data]))
        loss = 0.01 * (out["output"] - energy).abs().mean() + 50 * (out["pos_grad"] - forces).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    state = {f"module.{k}": v for k, v in network.state_dict().items()}
    torch.save({"epoch": 6, "state_dict": state, "optimizer": optimizer.state_dict()}, tmp_path / "trained.pt")
    torch.save({"state_dict": network.state_dict()}, tmp_path / "plain.pt")  # the calculator knows no prefix
    preprocess = {**graph, "node_dim": 100, "edge_dim": 50}
    content = {
        "task": {"checkpoint_path": str(tmp_path / "plain.pt")},
        "model": {"name": name, "model_ensemble": 1, **options},
        "dataset": {"preprocess_params": preprocess},
    }
    config = tmp_path / "host.yml"
    config.write_text(yaml.safe_dump(content))
    model = read_matdeeplearn(tmp_path / "trained.pt", config)
    assert isinstance(model, model_class("torchmd_et"))
    _assert_same(model, config, rocksalt[4:7])
    _, written = write_matdeeplearn(model, tmp_path / "back.pt")
    assert yaml.safe_load(written.read_text())["model"]["name"] == name
    _assert_same(model, written, rocksalt[4:6])


def test_eam_as_a_model_of_matdeeplearn(tmp_path: Path, rocksalt: list[Atoms]) -> None:
    """The name in the YAML is one that the host finds by itself."""
    eam = EAM(["O", "Mg"], cutoff=6.0, core=False)
    with torch.no_grad():
        for parameter in eam.parameters():
            parameter.mul_(0.7 + 0.6 * torch.rand(parameter.shape, generator=torch.Generator().manual_seed(2)))
    _, config = write_matdeeplearn(eam, tmp_path / "eam.pt")
    _assert_same(eam, config, rocksalt[:3])


@pytest.mark.parametrize(("network", "order"), [("cgcnn", "late"), ("torchmd_et", "early"), ("torchmd_et", "late")])
def test_hybrids_of_the_plugin(tmp_path: Path, rocksalt: list[Atoms], network: str, order: str) -> None:
    torch.manual_seed(6)
    if network == "cgcnn":
        part: EnergyModel = _lively(CGCNN(cutoff=5.0, dim1=24, dim2=30, width=0.2, smooth_cutoff=False))
    else:
        options = {**SMALL_TORCHMD, "pool_order": order, "smooth_cutoff": False, "own_images": False}
        part = model_class("torchmd_et")(cutoff=5.0, **options)  # type: ignore[call-arg]
    hybrid = Sum([part, EAM(["Mg", "O"], cutoff=5.0, core=False)]).eval()
    _, config = write_matdeeplearn(hybrid, tmp_path / "hybrid.pt")
    _assert_same(hybrid, config, rocksalt[:2])
    _assert_same(read_matdeeplearn(tmp_path / "hybrid.pt", config), config, rocksalt[:1])


def test_check_compares_with_the_host(tmp_path: Path, rocksalt: list[Atoms]) -> None:
    """``torchmd_etEarly`` of this host ignores late pooling: what is compared is its class that does not."""
    from mdl_physpretrain.hosts.matdeeplearn.comparison import NotCompared, host_differences

    options = {**SMALL_TORCHMD, "pool_order": "late", "smooth_cutoff": False, "own_images": False}
    model = model_class("torchmd_et")(cutoff=5.0, **options).eval()  # type: ignore[call-arg]
    _, config = write_matdeeplearn(model, tmp_path / "host.pt")
    name, gaps = host_differences(model, tmp_path / "host.pt", config, rocksalt[:2])
    assert name == "matdeeplearn.models.torchmd_et.TorchMD_ET"
    assert max(gaps.values()) < 1e-5
    content = yaml.safe_load(config.read_text())
    content["model"]["name"] = "torchmd_etEarly"
    config.write_text(yaml.safe_dump(content))
    name, gaps = host_differences(model, tmp_path / "host.pt", config, rocksalt[:2])
    assert "ignores pool_order: late" in name
    assert max(gaps.values()) < 1e-5
    content["model"]["pool_order"] = "early"  # what is wrong is seen
    config.write_text(yaml.safe_dump(content))
    name, gaps = host_differences(model, tmp_path / "host.pt", config, rocksalt[:2])
    assert name.endswith("TorchMD_ET_Early")
    assert gaps["energy"] > 1e-3
    eam = EAM(["Mg", "O"], cutoff=5.0, core=False)
    _, config = write_matdeeplearn(eam, tmp_path / "eam.pt")
    with pytest.raises(NotCompared, match="has no EAM_Interaction"):
        host_differences(eam, tmp_path / "eam.pt", config, rocksalt[:2])
