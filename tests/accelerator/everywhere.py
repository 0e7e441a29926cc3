"""Everything that computes does so on an accelerator, too, with the numbers of the CPU's formulas.

The accelerator is a simulated one, or the device that ``PHYSPRETRAIN_TEST_DEVICE`` names: a GPU. Never both in one
process, where PyTorch would take the simulated one for its accelerator.
"""

from __future__ import annotations

import os
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from labelled_cells import rocksalt_cells
from small_potentials import CGCNN as CGCNN_ARGUMENTS
from small_potentials import EAM as EAM_ARGUMENTS
from small_potentials import small

from mdl_physpretrain.dynamics import assess, simulate
from mdl_physpretrain.graphs import device_lists
from mdl_physpretrain.graphs.batch import build_batch, collate
from mdl_physpretrain.potentials import ZBL, EnergyModel, predict, registered_models
from mdl_physpretrain.potentials.compiled_graph import compiled
from mdl_physpretrain.potentials.error_metrics import evaluate
from mdl_physpretrain.probes.base import Subject
from mdl_physpretrain.probes.registry import make_probe
from mdl_physpretrain.teacher import fit_eam, label
from mdl_physpretrain.training import train

PLACE = os.environ.get("PHYSPRETRAIN_TEST_DEVICE", "sim")
if PLACE == "sim":
    from simulated_accelerator import counted, simulated
everywhere = pytest.mark.parametrize("place", [PLACE])


def usable(place: str) -> AbstractContextManager[Any]:
    return simulated() if place == "sim" else nullcontext()


HYBRID = {"parts": [{"model": n, "hparams": h} for n, h in (("cgcnn", CGCNN_ARGUMENTS), ("zbl", {}))]}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in registered_models()},
    "network and core": ("sum", HYBRID),
    "network and frozen EAM": (
        "sum",
        {
            "parts": [
                {"model": "torchmd_et", "hparams": {"cutoff": 4.5, "hidden_channels": 16, "num_layers": 2,
                                                    "num_rbf": 8, "num_heads": 2}},
                {"model": "eam", "hparams": EAM_ARGUMENTS},
            ],
            "frozen": [1],
        },
    ),
    "cgcnn with nearest images": ("cgcnn", {"smooth_cutoff": False, "images": "nearest", "max_neighbours": 12}),
    "classical with angles": ("classical", {"angles": True}),
}  # fmt: skip


def formula(model: EnergyModel) -> EnergyModel:
    """Without machine code."""
    for part in model.modules():
        if isinstance(part, EnergyModel):
            part.fast = False
    return model


def learned(model: EnergyModel, batch: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """A prediction and the gradients of a loss on it, on the CPU."""
    out = predict(model, batch, create_graph=True)
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    loss = out.energy.sum() + out.forces.square().sum() + out.stress.square().sum()
    if weights:
        loss.backward()
        assert {p.grad.device for p in weights.values() if p.grad is not None} == {model.device}
    return out, {name: p.grad.cpu() for name, p in weights.items() if p.grad is not None}


@everywhere
@pytest.mark.parametrize("case", CASES)
def test_every_potential_predicts_and_learns(case: str, place: str) -> None:
    name, options = CASES[case]
    model = formula(small(name, **options))
    batch = collate([build_batch(atoms, model.cutoff, torch.float64) for atoms in rocksalt_cells()[:3]])
    expected, gradients = learned(model, batch)
    model.zero_grad()
    with usable(place):
        model.to(place)
        assert {x.device.type for x in (*model.parameters(), *model.buffers())} == {place}
        out, on_device = learned(model, batch.to(place))
        for field in ("energy", "forces", "stress"):
            value = getattr(out, field)
            assert value.device.type == place
            torch.testing.assert_close(value.cpu(), getattr(expected, field), rtol=1e-9, atol=1e-9)
    assert on_device.keys() == gradients.keys()
    for key, gradient in gradients.items():
        torch.testing.assert_close(on_device[key], gradient, rtol=1e-7, atol=1e-8, msg=key)


@pytest.mark.skipif(PLACE == "sim", reason="PyTorch's compiler knows no simulated device")
@pytest.mark.parametrize("name", ["cgcnn", "torchmd_et"])
def test_compiled_networks_have_the_formulas_numbers(name: str) -> None:
    model = formula(small(name))
    batches = [
        collate([build_batch(atoms, model.cutoff, torch.float64) for atoms in rocksalt_cells()[:n]]) for n in (2, 5)
    ]
    expected = [predict(model, batch) for batch in batches]
    model.to(PLACE)
    with warnings.catch_warnings(), compiled(model, True):
        warnings.simplefilter("error", UserWarning)  # of a graph that cannot be compiled
        for batch, one in zip(batches, expected, strict=True):
            other = predict(model, batch.to(PLACE))
            for field in ("energy", "forces", "stress"):
                torch.testing.assert_close(getattr(other, field).cpu(), getattr(one, field), rtol=1e-9, atol=1e-9)


def tolerant(structures: list[Atoms]) -> list[Atoms]:
    for atoms in structures:
        atoms.arrays["forces_tolerance"] = np.full(len(atoms), 0.02)
        atoms.info["stress_tolerance"] = 0.001
    return structures


@everywhere
@pytest.mark.parametrize("optimizer", ["adamw", "sam"])
def test_training_with_replay_is_the_cpus_and_resumes_on_the_other_device(optimizer: str, place: str, tmp_path) -> None:
    cells = rocksalt_cells()
    start = formula(small("sum", **HYBRID))
    options: dict[str, Any] = {
        "replay": tolerant(cells[4:]), "replay_fraction": 0.5, "replay_tolerance": 1.0, "batch_size": 4,
        "learning_rate": 1e-3, "optimizer": optimizer, "ema": 0.9 if optimizer == "adamw" else None,
        "force_scale": 1.0, "val": cells[2:4],
    }  # fmt: skip
    places: dict[str, dict[str, Any]] = {"cpu": {"accelerator": "cpu"}}
    places[place] = {"accelerator": place, "strategy": "sim" if place == "sim" else "auto"}

    def trained(where: str, epochs: int, folder: str) -> EnergyModel:
        return train(start, cells[:4], directory=tmp_path / folder, epochs=epochs, **places[where], **options)

    expected = trained("cpu", 2, "whole")
    with usable(place):
        first, second = (place, "cpu") if optimizer == "adamw" else ("cpu", place)
        trained(first, 1, "parts")
        resumed = trained(second, 2, "parts")
    assert resumed.device.type == "cpu"
    for key in ("train_loss", "val_loss"):
        rows = [[h[key] for h in m.metadata["history"]] for m in (expected, resumed)]
        np.testing.assert_allclose(rows[1], rows[0], rtol=1e-6)
    for one, other in zip(expected.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


@everywhere
def test_labels_errors_and_probes(place: str) -> None:
    cells = rocksalt_cells()
    teacher = fit_eam(cells, epochs=2)
    network = formula(small("cgcnn"))

    def everything(where: str) -> list[Any]:
        one, other = teacher.to(where), network.to(where)
        labelled = label(cells, one, force=True)
        found: list[Any] = [atoms.get_potential_energy() for atoms in labelled]
        found += [atoms.get_forces() for atoms in labelled] + [atoms.get_stress() for atoms in labelled]
        found += [list(evaluate(model, cells).values()) for model in (one, other)]
        subject = Subject(other, splits={"test": cells[:1], "train": cells}, elements=["O"], teacher=one)
        for name in ("errors", "compression", "diatomics", "alignment"):
            for table in make_probe(name, {}).tables(subject).values():
                found.append(table.select_dtypes("number").to_numpy(dtype=float))
        return found

    expected = everything("cpu")
    with usable(place):
        for one, other in zip(expected, everything(place), strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-6, atol=1e-7)


class Collapsing(EnergyModel):
    """Mg and O attract each other without a core; what happens when two atoms come close is an option."""

    def __init__(self, strength: float = 3.0, close: float = 0.0) -> None:
        super().__init__(4.0, {"strength": strength, "close": close})
        self.weight = torch.nn.Parameter(torch.tensor(strength, dtype=torch.float64))

    def energies(self, batch: Any, vectors: torch.Tensor) -> torch.Tensor:
        i, j = batch.edge_index
        r2 = vectors.square().sum(1)
        mixed = (batch.numbers[i] != batch.numbers[j]).to(r2.dtype)
        pairs = vectors.new_zeros(len(batch)).index_add(0, batch.structure[i], -mixed * torch.exp(-r2))
        near = torch.full_like(pairs, 99.0).scatter_reduce(0, batch.structure[i], r2.detach(), "amin")
        return self.weight * pairs * torch.where(near < 1.7**2, 1.0 + self.hparams["close"], 1.0)


HOT = {"temperature": 300.0, "steps": 60, "seed": 2, "timestep": 2.0}
EVENTS: dict[str, tuple[EnergyModel, dict[str, Any]]] = {
    "nothing, nvt": (ZBL().double(), {"steps": 24, "temperature": 50.0, "friction": 0.1}),
    "nothing, nve": (ZBL().double(), {"steps": 24, "ensemble": "nve", "temperature": 50.0}),
    "nothing, npt": (ZBL().double(), {"steps": 24, "ensemble": "npt", "temperature": 50.0, "skin": 0.3}),
    "overlap": (Collapsing(), HOT),
    "nan": (Collapsing(close=float("nan")), HOT),
    "explosion of the energy": (Collapsing(close=-1e6), HOT | {"stop_on": ("explosion",)}),
    "events that stop nothing": (Collapsing(close=-30.0), HOT | {"stop_on": ()}),
    "explosion of the volume": (ZBL().double(), {"ensemble": "npt", "pressure": 50.0, "taup": 10.0, "steps": 20}),
    "run away": (Collapsing(close=-1e9), HOT | {"stop_on": (), "timestep": 9.0, "interval": 3}),
}  # fmt: skip


@everywhere
@pytest.mark.parametrize("case", EVENTS)
def test_dynamics_and_verdicts_are_the_cpus(case: str, place: str, tmp_path) -> None:
    model, options = EVENTS[case]
    structures = rocksalt_cells()[:3]
    structures[1] = structures[1][[0, 1, 2, 3]]  # of one element: nothing happens to it, and sizes differ
    if isinstance(model, ZBL):
        for atoms in structures:
            atoms.set_cell(atoms.cell * 0.85, scale_atoms=True)
    options = {"trace_interval": 4, "trajectory_interval": 7, **options}

    def simulation(where: str) -> Any:
        return simulate(model.to(where), structures, trajectory_dir=tmp_path / where, engine="batched", **options)

    expected = simulation("cpu")
    with usable(place):
        runs = simulation(place)
    model.cpu()
    for one, other in zip(expected, runs, strict=True):
        assert other.steps_done == one.steps_done, one.structure_id
        for name in ("frames", "overlap_step", "nan_step", "explosion_step", "lindemann_step", "closest_pair", "cause",
                     "overlap_step_paper", "explosion_step_paper", "lindemann_step_paper", "overlap_pair"):  # fmt: skip
            assert getattr(other.verdict, name) == getattr(one.verdict, name), (one.structure_id, name)
        names = ["trace_step", "trace_temperature", "trace_energy", "trace_volume", "positions", "velocities"]
        if case == "run away":  # the frame that is kept is any before that
            names = names[:4]
            assert np.isfinite(other.positions).all()
        for name in names:
            np.testing.assert_allclose(getattr(other, name), getattr(one, name), rtol=1e-6, atol=1e-6, err_msg=name)
        for name in ("lindemann", "min_distance", "overlap_distance", "fluctuations", "deviations"):
            value, known = getattr(other.verdict, name), getattr(one.verdict, name)
            np.testing.assert_allclose(value, known, rtol=1e-6, atol=1e-9, err_msg=name)
    assert assess(runs)["reason"].tolist() == assess(expected)["reason"].tolist()
    if case.startswith("nothing"):
        assert not any(assess(runs)["reason"])
    for path in sorted((tmp_path / "cpu").glob("*")):
        lines = [len((tmp_path / where / path.name).read_text().splitlines()) for where in ("cpu", place)]
        assert lines[0] == lines[1] > 2, path.name


@everywhere
@pytest.mark.parametrize("ensemble", ["nvt", "npt"])
@pytest.mark.parametrize("fails", [False, True])
def test_dynamics_with_lists_made_on_the_device(fails: bool, ensemble: str, place: str, monkeypatch) -> None:
    options: dict[str, Any] = {"steps": 30, "temperature": 300.0, "skin": 0.1, "ensemble": ensemble, "seed": 1}
    model, made = ZBL().double(), []
    expected = simulate(model, rocksalt_cells()[:2], engine="batched", **options)

    def vesin(positions: Any, cell: Any, cutoff: float, original: Any = device_lists._vesin) -> Any:
        if fails and len(made) == 3:
            raise RuntimeError("libcudart")
        assert positions.device.type == place
        inside = place != "sim"  # vesin knows no simulated device
        found = original(*((positions, cell) if inside else (positions.cpu(), cell.cpu())), cutoff)
        made.append(len(found[1]))
        return tuple(x.to(place) for x in found)

    monkeypatch.setattr(device_lists, "_vesin", vesin)
    monkeypatch.setattr(device_lists, "DEVICES", (place,))
    monkeypatch.setattr(device_lists, "LEAST_ATOMS", 1)
    failure = pytest.warns(UserWarning, match="made on the CPU, not on the GPU: libcudart") if fails else nullcontext()
    with usable(place), failure:
        runs = simulate(model.to(place), rocksalt_cells()[:2], engine="batched", **options)
    assert len(made) == 3 if fails else len(made) > 4
    for one, other in zip(expected, runs, strict=True):
        np.testing.assert_allclose(other.positions, one.positions, rtol=1e-6, atol=1e-6)


@pytest.mark.skipif(PLACE != "sim", reason="of the simulated device")
def test_it_refuses_what_a_gpu_refuses() -> None:
    with simulated(), counted() as counts:
        x = torch.ones(3, device=PLACE)
        with pytest.raises(RuntimeError, match="same device"):
            x + torch.ones(3)
        with pytest.raises(TypeError, match="numpy"):
            x.numpy()
        assert (x + 1).sum().item() == 6
        assert x[x > 0].tolist() == [1, 1, 1]
    assert sum(counts.waits.values()) == 3  # item, the mask's size, tolist
    assert counts.launches["add"] == 1
