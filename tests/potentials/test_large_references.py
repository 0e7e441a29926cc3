"""Energies with a large zero, as all-electron codes have: float32 networks lose nothing of what they learned."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.data import atomic_numbers
from small_potentials import small

from mdl_physpretrain.dynamics import simulate
from mdl_physpretrain.graphs.batch import build_batch, collate
from mdl_physpretrain.potentials import EnergyModel, Prediction, Sum, load_model, predict
from mdl_physpretrain.potentials.error_metrics import evaluate
from mdl_physpretrain.structures.labels import Labels, get_labels, set_labels
from mdl_physpretrain.training import EFSLoss, train

ZEROS = {"Mg": -5442.123456, "O": -2041.654321}  # eV, of an all-electron code
NETWORKS = ["cgcnn", "torchmd_et", "schnet", "m3gnet"]


def with_zeros(name: str, dtype: torch.dtype, factor: float = 1.0) -> EnergyModel:
    model = small(name, dtype)
    for part in model.modules():
        if isinstance(part, EnergyModel) and "reference_energies" in part._buffers:
            for symbol, energy in ZEROS.items():
                part.reference_energies[atomic_numbers[symbol]] = factor * energy
    return model


def cell(*repeats: int) -> Atoms:
    atoms = bulk("MgO", "rocksalt", a=4.2, cubic=True).repeat(repeats)
    atoms.rattle(0.05, seed=1)
    return atoms


@pytest.mark.parametrize("fast", [True, False], ids=["machine code", "formula"])
@pytest.mark.parametrize("name", [*NETWORKS, "sum", "eam", "classical"])
def test_224_atoms_in_single_precision(name: str, fast: bool) -> None:
    atoms = cell(7, 2, 2)
    assert len(atoms) == 224
    errors = []
    for factor in (0.0, 1.0):
        single, double = with_zeros(name, torch.float32, factor), with_zeros(name, torch.float64, factor)
        if name in ("eam", "classical"):
            for model in (single, double):
                table = model.base_atomic_energy if name == "eam" else model.base_energies
                with torch.no_grad():
                    table += factor * torch.tensor(
                        [float(np.float32(ZEROS[e])) if e in ZEROS else 0.0 for e in model.elements]
                    )
                    table.copy_(table.float())
        for part in single.modules():
            if isinstance(part, EnergyModel):
                part.fast = fast
        energies = [float(predict(m, build_batch(atoms, m.cutoff, m.dtype)).energy[0]) for m in (single, double)]
        errors.append(energies[0] - energies[1])
    assert abs(errors[1] - errors[0]) < 1e-6 if name not in ("eam", "classical") else abs(errors[1]) < 1e-2


@pytest.mark.parametrize("name", NETWORKS[:3])
def test_references_stay_exact(name: str, tmp_path) -> None:
    """However the network is cast, stored, copied or moved; and those of older checkpoints are read."""
    model = with_zeros(name, torch.float32)
    model.save(tmp_path / "m.pt")
    for other in (
        model.double().float(),
        model.half().float(),
        model.to("cpu", torch.float32),
        load_model(tmp_path / "m.pt"),
    ):
        assert other.dtype == torch.float32
        assert float(other.reference_energies[atomic_numbers["Mg"]]) == ZEROS["Mg"]
    content = torch.load(tmp_path / "m.pt", weights_only=True)
    content["state_dict"]["reference_energies"] = content["state_dict"]["reference_energies"].float()
    torch.save(content, tmp_path / "old.pt")
    old = load_model(tmp_path / "old.pt")
    assert old.dtype == torch.float32
    assert old.reference_energies.dtype == torch.float64
    assert float(old.reference_energies[8]) == float(np.float32(ZEROS["O"]))


def test_labels_and_losses_see_small_differences_of_large_numbers() -> None:
    atoms = cell(7, 2, 2)
    zero = sum(ZEROS[s] for s in atoms.symbols)
    set_labels(atoms, Labels(zero + 0.0125, np.zeros((224, 3)), None))
    batch = collate([build_batch(atoms, 4.0), build_batch(atoms, 4.0)]).to(dtype=torch.float32)
    assert batch.energy.dtype == torch.float64
    out = Prediction(torch.full((2,), zero, dtype=torch.float64), torch.zeros(448, 3), torch.zeros(2, 3, 3))
    assert float(EFSLoss(1.0, 0.0, 0.0)(out, batch)) == pytest.approx(0.0125, abs=1e-7)


@pytest.mark.parametrize("name", ["cgcnn", "torchmd_et"])
def test_it_learns_as_with_a_small_zero(name: str, rocksalt: list[Atoms]) -> None:
    """The same data with another zero give the same network."""
    args = (
        {"cutoff": 4.0, "dim1": 8, "dim2": 8, "gc_count": 1, "edge_dim": 8}
        if name == "cgcnn"
        else {
            "cutoff": 4.0,
            "hidden_channels": 16,
            "num_layers": 1,
            "num_heads": 1,
            "num_rbf": 8,
            "post_hidden_channels": 8,
        }
    )
    totals = []
    for factor in (0.0, 1.0):
        data = []
        for atoms in rocksalt:
            labels, shifted = get_labels(atoms), atoms.copy()
            zero = factor * sum(ZEROS[s] for s in atoms.symbols)
            data.append(set_labels(shifted, Labels(labels.energy + zero, labels.forces, labels.stress)))
        model = train(name, data, epochs=2, batch_size=4, model_args=args)
        totals.append(evaluate(model, data))
    for key in ("energy_mae", "forces_mae"):
        assert totals[1][key] == pytest.approx(totals[0][key], rel=1e-3)


@pytest.mark.parametrize("engine", ["batched", "ase"])
def test_energy_of_molecular_dynamics_is_resolved(engine: str) -> None:
    """With a sum in float32 it moves in steps of 0.0078 eV, and NVE seems to drift."""
    start = cell(2, 1, 1)
    start.info["structure_id"] = "a"
    traces = []
    for factor in (0.0, 1.0):
        runs = simulate(
            with_zeros("cgcnn", torch.float32, factor), [start], ensemble="nve", steps=20, timestep=0.2,
            temperature=20.0, engine=engine, trace_interval=1,
        )  # fmt: skip
        energy = np.array(runs[0].trace_energy)
        traces.append(energy - energy[0])
    np.testing.assert_allclose(traces[1], traces[0], atol=1e-6)


def test_a_compression_curve_stays_smooth() -> None:
    model = with_zeros("cgcnn", torch.float32)
    start = cell(7, 2, 2)
    energies = []
    for scale in np.linspace(1.0, 0.999, 21):
        atoms = start.copy()
        atoms.set_cell(atoms.cell * scale, scale_atoms=True)
        energies.append(float(predict(model, build_batch(atoms, model.cutoff, model.dtype)).energy[0]))
    curvature = np.diff(energies, 2)
    assert np.abs(curvature).max() < 5e-3


def test_a_hybrid(rocksalt: list[Atoms]) -> None:
    single, double = (Sum([with_zeros("cgcnn", t), small("eam", t)]).eval() for t in (torch.float32, torch.float64))
    atoms = cell(7, 2, 2)
    energies = [float(predict(m, build_batch(atoms, m.cutoff, m.dtype)).energy[0]) for m in (single, double)]
    assert abs(energies[0] - energies[1]) < 5e-2
