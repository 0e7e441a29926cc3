"""The EAM's machine code against its formula."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from ase import Atoms
from ase.build import bulk

from mdl_physpretrain.graphs.batch import AtomicBatch, build_batch, collate
from mdl_physpretrain.potentials import EAM, predict
from mdl_physpretrain.potentials.eam.edge_kernel import BLOCK

SYMBOLS = ["O", "Mg", "Si", "Al", "H"]


def make(dtype: torch.dtype, **options: object) -> EAM:
    torch.manual_seed(3)
    model = EAM(SYMBOLS, cutoff=6.0, n_basis=4, **options).to(dtype)  # type: ignore[arg-type]
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1 + 0.3 * torch.rand_like(p))
    return model


def batch_of(zoo: dict[str, Atoms], dtype: torch.dtype, cutoff: float = 6.0) -> AtomicBatch:
    for atoms in zoo.values():
        atoms.rattle(0.1, seed=2)
    return collate([build_batch(atoms, cutoff, dtype) for atoms in zoo.values()])


def both(model: EAM, batch: AtomicBatch) -> None:
    """Compare energy, forces and stress with the formula's."""
    tolerance = 1e-12 if model.dtype == torch.float64 else 3e-5
    model.fast = True
    fast = predict(model, batch)
    model.fast = False
    slow = predict(model, batch)
    for name in ("energy", "forces", "stress"):
        a, b = getattr(fast, name), getattr(slow, name).detach()
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * float(b.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", [{}, {"core": False}, {"core_ends": {"Mg-O": 2.3}}])
def test_equals_the_formula(zoo: dict[str, Atoms], dtype: torch.dtype, options: dict[str, object]) -> None:
    both(make(dtype, **options), batch_of(zoo, dtype))
    both(make(dtype, **options), batch_of(zoo, dtype, cutoff=7.0))  # a list that reaches further than the model


def test_many_edges_at_once(zoo: dict[str, Atoms]) -> None:
    big = zoo["triclinic"].repeat((5, 4, 4))
    big.rattle(0.1, seed=0)
    batch = build_batch(big, 6.0, torch.float64)
    assert batch.edge_index.shape[1] > 4000  # several blocks
    both(make(torch.float64), batch)


def test_atoms_at_one_place_have_no_force_on_each_other(zoo: dict[str, Atoms]) -> None:
    both(make(torch.float64), build_batch(Atoms("MgO2", [[0, 0, 0], [0, 0, 0], [1.5, 0, 0]]), 6.0, torch.float64))


def test_nan_stays_nan(zoo: dict[str, Atoms]) -> None:
    model, batch = make(torch.float64), batch_of(zoo, torch.float64)
    vectors = batch.edge_vectors()
    vectors[0] = torch.nan
    energy, gradient = model.energy_and_gradient(batch, vectors)
    assert energy[0].isnan()
    assert gradient[0].isnan().all()
    assert energy[1:].isfinite().all()


def test_follows_the_parameters_in_any_way_they_change(zoo: dict[str, Atoms]) -> None:
    model, batch = make(torch.float64), batch_of(zoo, torch.float64)
    before = predict(model, batch).energy
    model.D.data.mul_(1.5)
    both(model, batch)
    model.fast = True
    assert not torch.allclose(predict(model, batch).energy, before)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(predict(other, batch).energy, predict(model, batch).energy, rtol=0, atol=0)


def test_where_a_graph_is_asked_for_the_formula_makes_it(zoo: dict[str, Atoms]) -> None:
    model, batch = make(torch.float64), batch_of(zoo, torch.float64)
    forces = predict(model, batch, create_graph=True).forces
    torch.testing.assert_close(predict(model, batch).forces, forces.detach(), rtol=1e-9, atol=1e-9)
    forces.square().sum().backward()
    assert model.alpha.grad is not None
    assert model.alpha.grad.abs().sum() > 0


def test_a_structure_in_a_batch_has_the_bits_it_has_alone() -> None:
    model, batches = make(torch.float64), []
    for k in range(12):
        atoms = bulk("MgO", "rocksalt", a=4.2, cubic=True)
        atoms.rattle(0.1, seed=k)
        batches.append(build_batch(atoms, 6.0, torch.float64))
    together = collate(batches)
    assert together.edge_index.shape[1] > 3 * BLOCK  # borders of blocks within structures
    energy, gradient = model.energy_and_gradient(together, together.edge_vectors())
    alone = [model.energy_and_gradient(b, b.edge_vectors()) for b in batches]
    assert torch.equal(energy, torch.cat([e for e, _ in alone]))
    assert torch.equal(gradient, torch.cat([g for _, g in alone]))


def test_a_core_that_is_taken_away_is_gone() -> None:
    atoms = Atoms("MgO", positions=[[0, 0, 0], [0, 0, 0.8]])
    model, batch = make(torch.float64, core=True), build_batch(atoms, 6.0, torch.float64)
    with_core = predict(model, batch).energy
    model.core = None
    without = predict(model, batch).energy
    assert with_core - without > 1
    model.fast = False
    torch.testing.assert_close(without, predict(model, batch).energy, rtol=1e-12, atol=1e-12)
