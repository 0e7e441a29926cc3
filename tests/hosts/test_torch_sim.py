"""Potentials of this package in torch-sim: its own validation, the same numbers, the same trajectories."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk
from small_potentials import small

from mdl_physpretrain.dynamics.batched_engine import BatchedRun
from mdl_physpretrain.dynamics.settings import MDSettings
from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.potentials import CGCNN, ASECalculator, Sum
from mdl_physpretrain.potentials.registry import registered_models

torch_sim = pytest.importorskip("torch_sim", reason="pip install torch-sim-atomistic (Python 3.12)")
neighbors = pytest.importorskip("torch_sim.neighbors")
from torch_sim.models.interface import validate_model_outputs  # noqa: E402

from mdl_physpretrain.hosts.torch_sim import TorchSimModel  # noqa: E402

CPU = torch.device("cpu")


def _cells(pbc: bool | tuple[bool, bool, bool] = True) -> list[Atoms]:
    cell = bulk("MgO", "rocksalt", a=4.2, cubic=True)
    cell.positions += np.random.default_rng(3).normal(scale=0.1, size=(8, 3))
    skewed = cell.copy()
    skewed.set_cell(cell.cell.array @ [[1, 0.3, 0], [-0.1, 1, 0.2], [0, 0, 1.1]], scale_atoms=True)
    skewed = skewed[:7]
    for atoms in (cell, skewed):
        atoms.pbc = pbc
        atoms.positions[2] += np.array([2, -1, 0]) @ atoms.cell.array  # outside the cell
    return [cell, skewed]


@pytest.mark.parametrize("own_list", [True, False])
@pytest.mark.parametrize("pbc", [True, (True, True, False), False])
@pytest.mark.parametrize("name", sorted({"cgcnn", "torchmd_et", "m3gnet", "eam", "classical", "sum"}))
def test_same_numbers(name: str, pbc: bool | tuple[bool, bool, bool], own_list: bool) -> None:
    assert name in registered_models()
    potential, structures = small(name), _cells(pbc)
    model = TorchSimModel(potential, neighbor_list_fn=None if own_list else neighbors.torchsim_nl)
    out = model(torch_sim.io.atoms_to_state(structures, CPU, torch.float64))
    forces = out["forces"].split([len(a) for a in structures])
    for k, atoms in enumerate(structures):
        atoms.calc = ASECalculator(potential)
        scale = max(1.0, np.abs(atoms.get_forces()).max())
        assert out["energy"][k].item() == pytest.approx(atoms.get_potential_energy(), abs=1e-9 * scale)
        np.testing.assert_allclose(forces[k].numpy(), atoms.get_forces(), atol=1e-9 * scale)
        np.testing.assert_allclose(out["stress"][k].numpy(), atoms.get_stress(voigt=False), atol=1e-9 * scale)


def test_stress_has_the_sign_that_torch_sim_expects() -> None:
    """Compressed Lennard-Jones argon and a compressed EAM crystal: both negative, as minus a pressure."""
    from torch_sim.models.lennard_jones import LennardJonesModel

    argon = torch_sim.io.atoms_to_state([bulk("Ar", "fcc", a=4.6, cubic=True)], CPU, torch.float64)
    theirs = LennardJonesModel(sigma=3.405, epsilon=0.0104, compute_stress=True)(argon)["stress"]
    crystal = torch_sim.io.atoms_to_state([bulk("MgO", "rocksalt", a=3.2, cubic=True)], CPU, torch.float64)
    ours = TorchSimModel(small("zbl"))(crystal)["stress"]
    assert theirs[0].trace() < 0
    assert ours[0].trace() < 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weights", [torch.float32, torch.float64])
def test_torch_sims_own_validation(dtype: torch.dtype, weights: torch.dtype) -> None:
    torch.manual_seed(0)
    model = TorchSimModel(CGCNN(cutoff=5.0, dim1=12, dim2=10, gc_count=2).to(weights), dtype=dtype)
    validate_model_outputs(model, CPU, dtype)
    state = torch_sim.io.atoms_to_state(_cells(), CPU, dtype)
    assert {k: v.dtype for k, v in model(state).items()} == dict.fromkeys(("energy", "forces", "stress"), dtype)
    model.compute_stress = False
    assert set(model(state)) == {"energy", "forces"}


def test_nve_is_that_of_our_engine(tmp_path: Path) -> None:
    """100 steps of two cells at once, from a checkpoint: positions, and no drift of the total energy."""
    potential, structures = Sum([small("cgcnn"), small("zbl")]), _cells()
    potential.save(tmp_path / "net.pt")
    rng = np.random.default_rng(0)
    for k, atoms in enumerate(structures):
        atoms.info["structure_id"] = f"{k}"
        atoms.set_velocities(rng.normal(size=(len(atoms), 3)) * np.sqrt(units.kB * 300 / atoms.get_masses())[:, None])
    settings = MDSettings(temperature=300, timestep=1.0, steps=100, ensemble="nve", stop_on=(), interval=100)
    with torch.no_grad():
        run = BatchedRun(potential, [a.copy() for a in structures], [rng, rng], settings)
        for _ in range(100):
            run.step()

    model = TorchSimModel(tmp_path / "net.pt", device="cpu")
    state = torch_sim.io.atoms_to_state(structures, CPU, torch.float64)
    state.momenta = torch.as_tensor(np.concatenate([a.get_momenta() for a in structures]))
    state = torch_sim.integrators.nve_init(state, model, kT=0.0)
    dt = 1.0 * units.fs
    energies = []
    for _ in range(100):
        state = torch_sim.integrators.nve_step(state, model, dt=dt)
        kinetic = 0.5 * (state.momenta.square().sum(1) / state.masses)
        energies.append(state.energy + torch.zeros(2, dtype=torch.float64).index_add(0, state.system_idx, kinetic))
    np.testing.assert_allclose(state.positions.numpy(), run.state.positions.numpy(), atol=1e-9)
    np.testing.assert_allclose(state.energy.numpy(), run.now.energy.numpy(), atol=1e-9)
    drift = (energies[-1] - energies[0]).abs() / torch.bincount(state.system_idx)
    assert drift.max() < 2e-3
    assert (state.positions - torch.as_tensor(np.concatenate([a.positions for a in structures]))).abs().max() > 0.05


def test_unknown_elements_are_refused() -> None:
    model = TorchSimModel(small("eam"))
    with pytest.raises(StructureError, match="Fe"):
        model(torch_sim.io.atoms_to_state([bulk("Fe")], CPU, torch.float64))
